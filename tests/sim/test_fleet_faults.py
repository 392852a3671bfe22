"""The whole fleet under crashes between any two messages, by seed (runtime.md §3.5).

Real daemons, a broker and tables in memory, time that jumps. A seed is a run: the same
one writes the same log, byte for byte, in any process. A failure says how to repeat it.

``python tests/sim/test_fleet_faults.py SEED`` prints the digest of a seed's log.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import structlog
from jumping import run
from sim_fleet import Process, SimFleet

from state_builder.ids import digest_of, event_id
from state_builder.records import GENESIS, TERMINAL_STATUS, decode_append

SEEDS = 60
EXECUTIONS = 14
PATIENCE_S = 3600.0
"""Virtual; what is not over by then never will be."""

HEAD = "apiVersion: noetl.io/v2\nkind: Playbook\nmetadata: {{name: x, path: {0}}}\n"
PYTHON = "{kind: python, code: x}"

STEPS = {
    "chain": f"""
  - {{step: start, tool: {PYTHON}, next: b}}
  - {{step: b, tool: {PYTHON}, next: c}}
  - {{step: c, tool: {PYTHON}}}
""",
    "fan": f"""
  - step: start
    loop: {{in: [1, 2, 3, 4, 5], iterator: i, spec: {{mode: parallel, max_in_flight: 3}}}}
    tool: {PYTHON}
    next: b
  - {{step: b, tool: {PYTHON}}}
""",
    "join": f"""
  - {{step: start, tool: {PYTHON}, next: [left, right]}}
  - {{step: left, tool: {PYTHON}, next: both}}
  - {{step: right, tool: {PYTHON}, next: both}}
  - {{step: both, tool: {PYTHON}}}
""",
    "handled": f"""
  - {{step: start, tool: {PYTHON}, next: fails}}
  - step: fails
    tool: {PYTHON}
    next: {{arcs: [{{step: mend, when: "{{{{ event.name == 'call.error' }}}}"}}]}}
  - {{step: mend, tool: {PYTHON}}}
""",
    "broken": f"""
  - {{step: start, tool: {PYTHON}, next: fails}}
  - {{step: fails, tool: {PYTHON}}}
""",
    "poison": f"""
  - {{step: start, tool: {PYTHON}, next: kills}}
  - {{step: kills, tool: {PYTHON}}}
""",
}
DOCUMENTS = {
    path: HEAD.format(path) + "workflow:" + steps for path, steps in STEPS.items()
}
DOCUMENTS["parent"] = HEAD.format("parent") + (
    "workflow:\n  - {step: start, tool: {kind: playbook, path: chain}, next: b}\n"
    f"  - {{step: b, tool: {PYTHON}}}\n"
)

EXPECTED = {
    # path: (status, (step, iteration) of every effect there must be)
    "chain": ("COMPLETED", {("start", ""), ("b", ""), ("c", "")}),
    "fan": ("COMPLETED", {("start", str(i)) for i in range(5)} | {("b", "")}),
    "join": (
        "COMPLETED",
        {("start", ""), ("left", ""), ("right", ""), ("both", "")},
    ),
    "handled": ("COMPLETED", {("start", ""), ("fails", ""), ("mend", "")}),
    "broken": ("FAILED", {("start", ""), ("fails", "")}),
    "poison": ("FAILED", {("start", ""), ("kills", "")}),
    "parent": ("COMPLETED", {("b", "")}),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )
    yield
    structlog.reset_defaults()


async def chaos(fleet: SimFleet) -> None:
    """Kill somebody at some messages, cut somebody off at some times."""
    chance = fleet.chance
    fatal = set(chance.sample(range(1, 220), 14))
    # A worker only once: two may be lost to poison, and four make any command poison.
    others = [one for one in fleet.processes if not one.name.startswith("worker")]
    workers = [chance.choice(["worker-a", "worker-b"])]

    def victim() -> Process:
        if workers and chance.random() < 0.3:
            name = workers.pop()
            return next(one for one in fleet.processes if one.name == name)
        return chance.choice(others)

    def stored() -> None:
        if fleet.broker.last in fatal:
            fatal.discard(fleet.broker.last)
            victim().kill()

    fleet.broker.on_change(stored)
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            await anyio.sleep(chance.uniform(0, 15))
            tasks.start_soon(victim().cut_off, chance.uniform(0.1, 15))


async def scenario(fleet: SimFleet) -> dict[str, str]:
    """Start executions under chaos, wait for their ends; path by execution."""
    started: dict[str, str] = {}
    paths = list(EXPECTED)
    async with anyio.create_task_group() as tasks:
        fleet.boot(tasks)
        tasks.start_soon(chaos, fleet)
        for number in range(EXECUTIONS):
            eid = str(7_000_000_000_000 + number)
            path = paths[number % len(paths)] if number < len(paths) else "chain"
            await fleet.start(eid, path)
            started[eid] = path
            await anyio.sleep(fleet.chance.choice([0, 0.1, 2]))
        with anyio.move_on_after(PATIENCE_S):
            while not fleet.at_rest(started):
                await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    return started


@pytest.mark.parametrize("seed", range(SEEDS))
def test_crashes_between_any_two_messages_leave_every_execution_right(
    seed: int,
) -> None:
    """A3, A4, A6, A10, A16, RT-EVT-20, RT-DRV-16."""
    try:
        run(checked(seed))
    except BaseException as error:
        place = f"{Path(__file__).name}::{NAME}[{seed}]"
        error.add_note(f"repeat it with: pytest 'tests/sim/{place}'")
        raise


NAME = "test_crashes_between_any_two_messages_leave_every_execution_right"


async def checked(seed: int) -> None:
    """One run, and all that must be true of it."""
    fleet = SimFleet(seed, DOCUMENTS)
    started = await scenario(fleet)
    check_ends(fleet, started)
    check_log(fleet)
    check_rows(fleet)


async def log_of(seed: int) -> str:
    """The digest of all a seed's run has put into its log, and when."""
    fleet = SimFleet(seed, DOCUMENTS)
    await scenario(fleet)
    return digest_of(repr(fleet.history).encode())


@pytest.mark.parametrize("seed", [3, 41])
def test_a_seed_is_the_same_run_in_any_process(seed: int) -> None:
    """Whatever ran before it, and in whatever order a set is walked."""
    here = run(log_of(seed))
    assert run(log_of(seed)) == here
    script = [sys.executable, __file__, str(seed)]
    env = {
        **os.environ,
        "PYTHONHASHSEED": "17",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    told = subprocess.run(script, env=env, capture_output=True, text=True, check=True)
    assert told.stdout.split()[-1] == here


def test_a_failing_seed_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "EXPECTED", {})
    with pytest.raises(BaseException) as caught:
        test_crashes_between_any_two_messages_leave_every_execution_right(5)
    (note,) = caught.value.__notes__
    assert note.endswith(f"test_fleet_faults.py::{NAME}[5]'")


def check_ends(fleet: SimFleet, started: dict[str, str]) -> None:
    """The right terminal, and every effect at least once; none in a step too many."""
    for eid, path in started.items():
        status, effects = EXPECTED[path]
        assert fleet.status(eid) == status, (path, fleet.story(eid))
        found = {
            (step, iteration)
            for (one, step, iteration), count in fleet.effects.items()
            if one == eid and count
        }
        assert found == effects, (path, fleet.story(eid))


def check_log(fleet: SimFleet) -> None:
    """Per execution: one root, one terminal, each command once, no answer without."""
    terminals: Counter[str] = Counter()
    issued: Counter[str] = Counter()
    first: dict[str, str] = {}
    for message in fleet.history:
        if message.kind == "lease":
            continue
        for record in decode_append(message.data).records:
            for event in record.events:
                first.setdefault(record.execution_id, event.type)
                terminals[record.execution_id] += event.type in TERMINAL_STATUS
                if event.type == "command.issued":
                    issued[event.command_id] += 1
    assert set(first.values()) == {GENESIS}
    assert set(terminals.values()) == {1}, terminals
    assert set(issued.values()) == {1}, "a command was issued twice"
    assert fleet.observer.counts.get("noetl_commands_lost_total", 0) == 0
    assert fleet.observer.counts.get("noetl_log_trimmed_messages_total", 0) > 0


def check_rows(fleet: SimFleet) -> None:
    """The tables hold the log, every event once, and every chain whole (§3.5)."""
    logged: dict[int, list[int]] = {}
    for message in fleet.history:
        index = 0
        if message.kind == "lease":
            continue
        for record in decode_append(message.data).records:
            rows = logged.setdefault(int(record.execution_id), [])
            for _ in record.events:
                rows.append(event_id(0, message.sequence, index))
                index += 1
    tables = fleet.database.events
    assert {eid: list(rows) for eid, rows in tables.items()} == logged
    assert not fleet.database.quarantined
    for rows in tables.values():
        previous = [row.prev_event_id for row in rows.values()]
        assert previous == [None, *list(rows)[:-1]], "the chain forks or has a gap"
        assert all(row.catalog_id for row in rows.values())


if __name__ == "__main__":
    level = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=level)
    print(run(log_of(int(sys.argv[1]))))
