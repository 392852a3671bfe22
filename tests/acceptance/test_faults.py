"""Faults a fleet survives, on the real stack: real processes, real signals."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import anyio
import pytest
from fleet_client import MIXED, Fleet, effect, fleet, playbook, until
from invariants import violations

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def check(found: Fleet, started: dict[str, str]) -> None:
    """Right terminal, every effect there, and the chain of every execution whole."""
    statuses = await found.ended(list(started))
    for eid, path in started.items():
        _, status, effects = MIXED[path]
        assert statuses[eid] == status, (path, eid)
        assert await found.effects(eid) == effects, (path, eid)
    import asyncpg

    connection = await asyncpg.connect(found.stack.postgres_dsn)
    try:
        assert await violations(connection, [int(eid) for eid in started]) == []
    finally:
        await connection.close()


async def start_mixed(found: Fleet, count: int) -> dict[str, str]:
    """Start executions of every mixed playbook in turn."""
    paths = list(MIXED)
    return {
        await found.start(paths[number % len(paths)]): paths[number % len(paths)]
        for number in range(count)
    }


async def test_kill_9_of_every_role_at_random_moments(tmp_path: Path) -> None:
    """A3, A4, A10: 200 mixed executions end right while roles are killed."""
    chance = random.Random(7)
    async with fleet(tmp_path / "data", system=2, worker=2) as found:
        started: dict[str, str] = {}

        async def murder() -> None:
            for _ in range(8):
                await anyio.sleep(chance.uniform(0.1, 0.6))
                role = chance.choice(["server", "system", "worker", "materializer"])
                index = chance.choice([0, 1]) if role in ("system", "worker") else 0
                await found.stack.kill(role, index, restart=True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(murder)
            started |= await start_mixed(found, 200)
        await check(found, started)


async def test_the_other_system_worker_takes_over(tmp_path: Path) -> None:
    """RT-OWN-1, RT-OWN-4: after kill -9 the other owns the shards within 10 s."""
    async with fleet(tmp_path / "data", system=2) as found:
        started = await start_mixed(found, 20)
        await found.stack.kill("system", 1)
        with anyio.fail_after(10):
            started |= await start_mixed(found, 20)
            await found.ended(list(started))
        await check(found, started)


async def test_a_frozen_owner_is_refused(tmp_path: Path) -> None:
    """A6, RT-OWN-3, RT-NATS-22: SIGSTOP past the lease, then continued."""
    async with fleet(tmp_path / "data", system=2) as found:
        started = await start_mixed(found, 30)
        found.stack.pause("system", 0)
        started |= await start_mixed(found, 30)
        await found.ended(list(started))
        found.stack.resume("system", 0)
        started |= await start_mixed(found, 30)
        await check(found, started)


async def test_the_broker_is_killed_and_restarted(tmp_path: Path) -> None:
    """A12: nothing acknowledged is lost, nothing runs to two terminals."""
    async with fleet(tmp_path / "data") as found:
        started = await start_mixed(found, 30)
        await found.stack.restart_nats()
        started |= await start_mixed(found, 30)
        await check(found, started)


async def test_the_database_is_away_for_ten_seconds(tmp_path: Path) -> None:
    """A11, RT-ARC-4: executions go on, rows catch up, none twice."""
    async with fleet(tmp_path / "data") as found:
        text = playbook(
            "away/noop",
            "  - {step: start, tool: {kind: noop}, next: b}\n  - {step: b, tool: {kind: noop}}\n",
        )
        await found.client.register(text)
        started = [await found.start("away/noop") for _ in range(20)]
        await found.stack.stop_postgres()
        started += [await found.start("away/noop") for _ in range(20)]
        await anyio.sleep(10)
        await found.stack.start_postgres()
        statuses = await found.ended(started)
        assert set(statuses.values()) == {"COMPLETED"}
        counts = await found.rows(
            "SELECT count(*), count(DISTINCT event_id) FROM noetl.event"
        )
        assert counts[0][0] == counts[0][1]


async def test_a_worker_lost_mid_step_is_replaced(tmp_path: Path) -> None:
    """A4, RT-NATS-44: the command is delivered again; it has one result."""
    async with fleet(tmp_path / "data") as found:
        steps = f"""
  - {{step: start, tool: {{kind: python, code: "import time\\ntime.sleep(2)\\nresult = 1"}}, next: b}}
  - {{step: b, tool: {effect("b")}}}
"""
        await found.client.register(playbook("slow/one", steps))
        eid = await found.start("slow/one")

        async def running() -> bool:
            answer = await found.client.status(eid)
            return answer["last_event_type"] == "command.started"

        await until(running, lambda: "the command never started")
        await found.stack.kill("worker", 0, signal.SIGKILL, restart=True)
        assert (await found.ended([eid]))[eid] == "COMPLETED"
        assert await found.effects(eid) == 1


async def test_a_command_that_kills_its_worker_is_poison(tmp_path: Path) -> None:
    """A16: after four starts without a result the command fails with ``poison``."""
    async with fleet(
        tmp_path / "data", env={"NOETL_COMMAND_ACK_WAIT_SECS": "1.5"}
    ) as found:
        code = "import os, signal\\nos.kill(os.getppid(), signal.SIGKILL)"
        steps = f'  - {{step: start, tool: {{kind: python, code: "{code}"}}}}\n'
        await found.client.register(playbook("poison/one", steps))
        eid = await found.start("poison/one")
        assert (await found.ended([eid]))[eid] == "FAILED"
        rows = await found.rows(
            "SELECT meta->>'code' FROM noetl.event "
            "WHERE execution_id = $1 AND event_type = 'command.failed'",
            int(eid),
        )
        assert [row[0] for row in rows] == ["poison"]
