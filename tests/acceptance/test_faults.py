"""Faults a fleet survives, on the real stack: real processes, real signals.

One fleet serves most of them, one after the other: what a fault leaves behind is what
the next one starts from. After each, every execution started so far must be whole.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from fleet_client import (
    MIXED,
    TERMINAL,
    Fleet,
    decisions,
    effect,
    fleet,
    patiently,
    playbook,
    until,
)

from noetl_worker.cli.exits import ExitCode
from noetl_worker.dev.stack import Role

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ACK_WAIT_S = 3.0
ENV = {
    "NOETL_COMMAND_ACK_WAIT_SECS": f"{ACK_WAIT_S:g}",
    "NOETL_NATS_HEARTBEAT_SECS": "0.5",
    "NOETL_LEASE_TTL": "4",
    "NOETL_SNAPSHOT_EVERY_EVENTS": "200",
    "NOETL_MATERIALIZER_ERROR_BACKOFF_MS": "200",
    "NOETL_WORKER_SLOTS": "8",
}
NOOPS = "  - {step: start, tool: {kind: noop}, next: b}\n  - {step: b, tool: {kind: noop}}\n"


def chain(length: int) -> str:
    """So many steps that do nothing, one after the other."""
    names = ["start", *(f"s{number}" for number in range(1, length))]
    pairs = zip(names, [*names[1:], "end"], strict=True)
    return "".join(
        f"  - {{step: {name}, tool: {{kind: noop}}, next: {following}}}\n"
        for name, following in pairs
    )


def slow(seconds: float) -> str:
    """A step that takes its time, and one after it that leaves an effect."""
    code = f"import time\\ntime.sleep({seconds})\\nresult = 1"
    return f"""
  - {{step: start, tool: {{kind: python, code: "{code}"}}, next: b}}
  - {{step: b, tool: {effect("b")}}}
"""


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    data = tmp_path_factory.mktemp("faults") / "data"
    async with fleet(data, env=ENV, system=2, worker=2, materializer=2) as found:
        await found.client.register(playbook("away/noop", NOOPS))
        await found.client.register(playbook("race/noops", chain(20)))
        await found.client.register(playbook("slow/two", slow(2)))
        await found.client.register(playbook("slow/six", slow(ACK_WAIT_S * 2)))
        yield found


@pytest.fixture
async def found(shared: Fleet) -> AsyncIterator[Fleet]:
    """The fleet with every process up."""
    yield shared
    await shared.stack.mend()


async def check(found: Fleet, started: dict[str, str]) -> None:
    """Right terminal, every effect there, and the chain of every execution whole."""
    statuses = await found.ended(list(started))
    effects = await found.effects(list(started))
    for eid, path in started.items():
        _, status, wanted = MIXED[path]
        assert (statuses[eid], len(effects[eid])) == (status, wanted), (path, eid)
    assert await found.violations(list(started)) == []


async def start_mixed(found: Fleet, count: int) -> dict[str, str]:
    """Start executions of every mixed playbook in turn."""
    paths = list(MIXED)
    return {
        await found.start(paths[number % len(paths)]): paths[number % len(paths)]
        for number in range(count)
    }


async def started_by_a_worker(found: Fleet, eid: str) -> None:
    """Wait until a worker has said that it runs the execution's command."""

    async def running() -> bool:
        answer = await found.client.status(eid)
        return bool(answer["last_event_type"] == "command.started")

    await until(running, lambda: "the command never started")


async def events(found: Fleet, eid: str, kind: str) -> list[tuple[str, str, str]]:
    """(status, worker, code) of an execution's events of a type, in order."""
    rows = await found.rows(
        "SELECT status, coalesce(worker_id, ''), coalesce(meta ->> 'code', '') "
        "FROM noetl.event WHERE execution_id = $1 AND event_type = $2 ORDER BY event_id",
        int(eid),
        kind,
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def noetl(*arguments: str, **env: str) -> tuple[int, str]:
    """The command line's exit code and all it says."""
    command = [sys.executable, "-m", "noetl_worker", *arguments]
    done = await anyio.run_process(
        command, env={**os.environ, **env}, check=False, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize(
    ("steps", "code", "says"),
    [
        ("  - {step: start, tool: [", ExitCode.INVALID, "line"),
        (
            "  - {step: start, tool: {kind: noop}, next: nowhere}\n",
            ExitCode.INVALID,
            "nowhere",
        ),
        ("  - {step: start, tool: {kind: nosuch}}\n", ExitCode.INVALID, "nosuch"),
        (
            "  - {step: start, tool: {kind: noop}, set: {x: '{{ 1 // 0 }}'}}\n",
            ExitCode.FAILED,
            "'{{ 1 // 0 }}'",
        ),
        (
            "  - {step: start, tool: {kind: noop, result: '{{ 1 // 0 }}'}}\n",
            ExitCode.FAILED,
            "modulo by zero",
        ),
    ],
)
async def test_bad_input_is_one_clear_error(
    found: Fleet, tmp_path: Path, steps: str, code: ExitCode, says: str
) -> None:
    """Broken YAML, an arc to nowhere, an unknown tool, templates that fail."""
    file = tmp_path / "bad.yaml"
    file.write_text(playbook("bad/one", steps))
    server = found.stack.server_url
    got, said = await noetl("run", str(file), NOETL_SERVER_URL=server)
    assert got == code, said
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["worker"], "nats://127.0.0.1:9"),
        (["list"], "http://127.0.0.1:9"),
    ],
)
async def test_a_platform_that_is_away_is_exit_code_5(
    arguments: list[str], names: str
) -> None:
    away = {"NATS_URL": "nats://127.0.0.1:9", "NOETL_SERVER_URL": "http://127.0.0.1:9"}
    got, said = await noetl(*arguments, **away)
    assert got == ExitCode.UNAVAILABLE
    assert names in said
    assert "Traceback" not in said


async def test_kill_9_of_every_role_at_random_moments(found: Fleet) -> None:
    """A3, A4, A10, A13: 200 mixed executions end right while roles are killed."""
    chance = random.Random(7)
    roles: list[Role] = ["server", "system", "worker", "materializer"]
    started: dict[str, str] = {}

    async def murder() -> None:
        for role in [*roles, *chance.choices(roles, k=8)]:
            await anyio.sleep(chance.uniform(0.05, 1.0))
            index = 0 if role == "server" else chance.choice([0, 1])
            await found.stack.kill(role, index, restart=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(murder)
        started |= await start_mixed(found, 200)
    await check(found, started)


async def test_the_other_system_worker_takes_over(found: Fleet) -> None:
    """RT-OWN-1, RT-OWN-4: after kill -9 the other owns the shards within 10 s."""
    started = await start_mixed(found, 20)
    await found.stack.kill("system", 1)
    with anyio.fail_after(10):
        started |= await start_mixed(found, 20)
        await found.ended(list(started))
    await check(found, started)


async def test_a_frozen_owner_is_refused(found: Fleet) -> None:
    """A6, RT-OWN-3, RT-NATS-22: SIGSTOP past the lease, then continued: of all decisions
    in the log, not one is of an owner that was none any more."""
    started = await start_mixed(found, 30)
    _, _, before = await decisions(found)
    found.stack.pause("system", 0)
    started |= await start_mixed(found, 30)
    await found.ended(list(started))
    found.stack.resume("system", 0)
    started |= await start_mixed(found, 30)
    await check(found, started)
    assert "shard.lost" in found.stack.log("system", 0).read_text()
    count, late, leases = await decisions(found)
    assert count > len(started)
    assert leases > before, "nobody took over: the test proves nothing"
    assert late == []


async def test_a_hand_over_takes_less_than_2_s(found: Fleet) -> None:
    """RT-OWN-2, RT-OWN-4: SIGTERM; every shard is decided elsewhere right after."""
    await found.stack.stop_role("system", 1)
    started = [await found.start("away/noop") for _ in range(40)]
    await found.ended(started)
    rows = await found.rows(
        "SELECT max(extract(epoch FROM end_time - start_time)) FROM noetl.execution "
        "WHERE execution_id = ANY ($1::BIGINT[])",
        [int(eid) for eid in started],
    )
    assert rows[0][0] <= 2.0


async def test_the_broker_is_killed_and_restarted(found: Fleet) -> None:
    """A12: nothing acknowledged is lost, nothing runs to two terminals."""
    started = await start_mixed(found, 30)
    await found.stack.restart_nats()
    started |= await start_mixed(found, 30)
    await check(found, started)


async def test_the_database_is_away_for_ten_seconds(found: Fleet) -> None:
    """A11, RT-ARC-4: executions go on, rows catch up, none twice."""
    started = [await found.start("away/noop") for _ in range(20)]
    await found.stack.stop_postgres()
    started += [await found.start("away/noop") for _ in range(20)]
    last = started[-1]

    async def over() -> bool:
        answer = await patiently(lambda: found.client.status(last))
        return answer["status"] == "COMPLETED"

    await until(over, lambda: "executions stand still without the database")
    await anyio.sleep(10)
    await found.stack.start_postgres()
    statuses = await found.ended(started)
    assert set(statuses.values()) == {"COMPLETED"}
    assert await found.violations(started) == []


async def test_a_worker_lost_mid_step_is_replaced(found: Fleet) -> None:
    """A4, RT-NATS-44: the command is delivered again; it has one result."""
    eid = await found.start("slow/two")
    await started_by_a_worker(found, eid)
    for index in (0, 1):
        await found.stack.kill("worker", index, signal.SIGKILL, restart=True)
    assert (await found.ended([eid]))[eid] == "COMPLETED"
    assert await found.effects([eid]) == {eid: ["b-"]}
    assert len(await events(found, eid, "command.started")) == 3
    assert await found.violations([eid]) == []


async def test_a_frozen_worker_says_nothing_about_what_another_one_has(
    found: Fleet,
) -> None:
    """A5, RT-NATS-45: paused past the ack wait, then continued: one answer counts."""
    await found.stack.stop_role("worker", 1)
    eid = await found.start("slow/six")
    await started_by_a_worker(found, eid)
    found.stack.pause("worker", 0)
    await found.stack.start_role("worker", 1)

    async def second_delivery() -> bool:
        return len(await events(found, eid, "command.started")) >= 2

    await until(second_delivery, lambda: "the command is not delivered again")
    found.stack.resume("worker", 0)
    assert (await found.ended([eid]))[eid] == "COMPLETED"
    # Both answer under one message id, so the later answer is not even stored.
    assert len(await events(found, eid, "command.completed")) == 2
    assert await found.effects([eid]) == {eid: ["b-"]}
    assert await found.violations([eid]) == []


async def test_a_command_that_kills_its_worker_is_poison(found: Fleet) -> None:
    """A16: after four starts without a result the command fails with ``poison``."""
    code = "import os, signal, time\\ntime.sleep(0.5)\\nos.kill(os.getppid(), signal.SIGKILL)"
    steps = f'  - {{step: start, tool: {{kind: python, code: "{code}"}}}}\n'
    await found.client.register(playbook("poison/one", steps))
    eid = await found.start("poison/one")
    neighbours = await start_mixed(found, 20)
    assert (await found.ended([eid]))[eid] == "FAILED"
    failed = await events(found, eid, "command.failed")
    assert [code for _, _, code in failed] == ["poison"]
    await check(found, neighbours)


async def test_cancelling_races_with_completing(found: Fleet) -> None:
    """A9: exactly one terminal, and the answer says which."""
    chance = random.Random(3)
    answers: dict[str, str] = {}

    async def race() -> None:
        eid = await found.start("race/noops")
        await anyio.sleep(chance.choice([0, 0, 0.01, 0.05, 0.2, 0.5]))
        answer = await patiently(lambda: found.client.cancel(eid))
        answers[eid] = str(answer["status"])

    for _ in range(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(race)
    statuses = await found.ended(list(answers))
    for eid, answer in answers.items():
        if answer == "cancelled":
            assert statuses[eid] == "CANCELLED"
        if answer == "already_completed":
            assert statuses[eid] == "COMPLETED"
    assert len(set(statuses.values())) > 1, "the race was never close"
    assert await found.violations(list(statuses)) == []


async def test_a_rolling_restart_delivers_nothing_twice(found: Fleet) -> None:
    """A14, RT-WRK-23: every process in turn, under load."""
    started: dict[str, str] = {}
    over = anyio.Event()

    async def load() -> None:
        nonlocal started
        while not over.is_set():
            started |= await start_mixed(found, 5)
            # As much as leaves the processes that start some of the machine.
            await anyio.sleep(0.3)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load)
        for role in ("worker", "system", "materializer", "server"):
            for index in (0, 1) if role != "server" else (0,):
                await found.stack.stop_role(role, index)
                await found.stack.start_role(role, index)
        over.set()
    await check(found, started)
    doubled = await found.rows(
        "SELECT execution_id, step, item FROM effect WHERE execution_id = ANY ($1) "
        "GROUP BY 1, 2, 3 HAVING count(*) > 1",
        list(started),
        demo=True,
    )
    assert doubled == []


async def test_after_all_that_the_log_is_short_and_nothing_was_lost(
    found: Fleet,
) -> None:
    """RT-EVT §3.5: every execution there ever was is whole; nothing in quarantine."""

    async def all_over() -> bool:
        rows = await found.rows(
            "SELECT count(*) FROM noetl.execution WHERE status <> ALL ($1::TEXT[])",
            list(TERMINAL),
        )
        return bool(rows[0][0] == 0)

    await until(all_over, lambda: "some execution is still open")
    rows = await found.rows("SELECT execution_id FROM noetl.execution")
    assert len(rows) > 400
    assert await found.violations([row[0] for row in rows]) == []
    quarantined = await found.rows("SELECT reason FROM noetl.event_quarantine")
    assert quarantined == []
    for index in (0, 1):
        text = found.stack.log("system", index).read_text()
        assert not re.search(r"command\.lost|Traceback", text)


async def test_a_wiped_broker_begins_a_new_life(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A21, RT-NATS-36: volume gone, tables kept: new work runs under new ids."""
    data = tmp_path_factory.mktemp("wiped") / "data"
    backstop = {
        "NOETL_COMMAND_LOST_AFTER_SECS": "1",
        "NOETL_BACKSTOP_INTERVAL_SECS": "1",
    }
    async with fleet(data, env=ENV | backstop) as found:
        await found.client.register(playbook("slow/six", slow(ACK_WAIT_S * 2)))
        started = await start_mixed(found, 10)
        await check(found, started)
        left = await found.start("slow/six")
        await started_by_a_worker(found, left)

        async def materialized() -> bool:
            return bool(await events(found, left, "command.started"))

        await until(materialized, lambda: "rows do not follow")
        await found.stack.kill("worker", 0, restart=True)
        before = await found.rows("SELECT max(event_id) FROM noetl.event")
        await found.stack.kill_nats()
        shutil.rmtree(data / "nats" / "store")
        await found.stack.start_nats()
        after = await start_mixed(found, 10)
        await check(found, after)
        lowest = await found.rows(
            "SELECT min(event_id) FROM noetl.event WHERE execution_id = ANY ($1::BIGINT[])",
            [int(eid) for eid in after],
        )
        assert lowest[0][0] > before[0][0], "new events sort before old ones"
        await check(found, started)
        # What was open lives in the tables alone; an operator brings it back.
        assert (await repair(found))["restored"] == [left]
        assert (await found.ended([left]))[left] == "COMPLETED"
        assert await found.effects([left]) == {left: ["b-"]}
        assert await found.violations([left]) == []
        assert (await repair(found))["missing"] == []


async def repair(found: Fleet) -> dict[str, Any]:
    """What ``noetl repair`` says."""
    environ = {
        "NATS_URL": found.stack.nats_url,
        "NOETL_DATABASE_URL": found.stack.postgres_dsn,
    }
    code, said = await noetl("repair", "--json", **environ)
    assert code == ExitCode.OK, said
    return dict(json.loads(said))


async def test_a_wiped_database_is_filled_from_the_log(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A21, the reverse: tables gone, log kept: the rows come back as they were."""
    data = tmp_path_factory.mktemp("emptied") / "data"
    async with fleet(data, env=ENV) as found:
        started = await start_mixed(found, 10)
        await check(found, started)
        count = await found.rows("SELECT count(*) FROM noetl.event")
        await found.rows("DROP SCHEMA noetl CASCADE")
        for role in ("materializer", "server"):
            await found.stack.kill(role, 0, restart=True)
        await check(found, started)
        again = await found.rows("SELECT count(*) FROM noetl.event")
        assert again == count
        # The catalog lived in the tables: it is registered again, and work goes on.
        await patiently(found.prepare)
        await check(found, await start_mixed(found, 5))
