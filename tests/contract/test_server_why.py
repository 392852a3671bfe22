"""Why an execution stands, and its log as a file, over HTTP on the bus in memory."""

from __future__ import annotations

from typing import Any

import pytest
from server_edge import SHARDS, Fleet, event, running_edge
from world import EXECUTION, World

from noetl_worker.rehearsal import Replay, transcribe
from state_builder.ids import shard_of
from state_builder.records import Genesis, decode_append
from state_builder.stores import CatalogDocument
from state_builder.transcript import Transcript, read_transcript

pytestmark = pytest.mark.anyio

CHILD = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: child, path: tests/child}
workflow:
  - {step: start, tool: {kind: noop}}
"""
PARENT = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: parent, path: tests/parent}
workload: {items: [3, 1, 2]}
workflow:
  - step: start
    loop: {in: "{{ workload.items }}", iterator: i, spec: {mode: parallel}}
    tool: {kind: python, code: "result = 1"}
    set: {ctx.sum: "{{ start.results | sum }}"}
    next: [{step: call}]
  - {step: call, tool: {kind: playbook, path: tests/child}, next: [{step: last}]}
  - {step: last, tool: {kind: noop}}
"""


async def why(fleet: Fleet, execution_id: str) -> dict[str, Any]:
    answer = await fleet.http.get(f"/api/executions/{execution_id}/why")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def begun(fleet: Fleet) -> str:
    """An execution as its owner left it: one command runs, one waits, a timer is set."""
    genesis = Genesis(catalog_id="1", path="tests/hello", version=1)
    await fleet.append("77", event("playbook_started", context=genesis))
    await fleet.append("77", event("step.enter", "a"))
    for name, pool in (("77.a.1.1", "shared"), ("77.b.1.1", "gpu")):
        step = name.split(".")[1]
        issued = event("command.issued", step, command_id=name, pool=pool)
        await fleet.append("77", issued)
    started = event("command.started", "a", command_id="77.a.1.1", worker_id="w1")
    await fleet.append("77", started)
    await fleet.append("77", event("timer.set", timer="duration", due=4e9))
    return "77"


@pytest.mark.parametrize("in_rows", [False, True])
async def test_without_an_owner_rows_and_log_tell_what_is_open(in_rows: bool) -> None:
    async with running_edge() as fleet:
        eid = await begun(fleet)
        if in_rows:
            await fleet.materialize()
        found = await why(fleet, eid)
    assert (found["source"], found["status"]) == ("log", "RUNNING")
    nobody, running, queued, timer = found["waiting"]
    assert nobody["kind"] == "owner"
    assert f"shard {shard_of(eid, SHARDS)}" in nobody["text"]
    assert (running["command_id"], running["worker"], running["starts"]) == (
        "77.a.1.1",
        "w1",
        1,
    )
    assert (queued["command_id"], queued["pool"]) == ("77.b.1.1", "gpu")
    assert "starts" not in queued
    assert timer["timer"] == "duration"
    assert found["last_decision"]["text"] == "timer.set"


async def test_what_ended_is_no_longer_waited_for() -> None:
    async with running_edge() as fleet:
        eid = await begun(fleet)
        done = {"command_id": "77.a.1.1", "status": "success"}
        await fleet.append(eid, event("command.completed", "a", pending=True, **done))
        parked = await why(fleet, eid)
        await fleet.append(eid, event("call.done", "a", command_id="77.a.1.1"))
        over = await why(fleet, eid)
        await fleet.append(eid, event("playbook.failed", error="no luck"))
        ended = await why(fleet, eid)
    assert [wait["kind"] for wait in parked["waiting"]] == [
        "owner",
        "callback",
        "command",
        "timer",
    ]
    assert "77.a.1.1" not in str(over["waiting"])
    assert ended["waiting"] == []
    assert ended["summary"] == "it is over, FAILED: no luck"


async def test_an_owner_answers_and_the_cause_is_named() -> None:
    """What it waits for is the owner's word; the log says what the cause was."""
    async with running_edge() as fleet:
        eid = await begun(fleet)
        cause = 3 * 1024
        wait = {"kind": "join", "text": "step 'c' was reached from 'a'", "step": "c"}
        decision = {"text": "step 'b' was entered", "event": 5 * 1024, "cause": cause}
        await fleet.own(eid, waiting=[wait], last_decision=decision)
        found = await why(fleet, eid)
    assert found["source"] == "owner"
    assert found["summary"] == wait["text"]
    assert found["last_decision"]["cause"]["event_type"] == "command.issued"
    assert found["last_decision"]["cause"]["event_id"] == str(cause)


async def test_nobody_knows_why_or_how_an_unknown_execution_went() -> None:
    async with running_edge() as fleet:
        for what in ("why", "export"):
            answer = await fleet.http.get(f"/api/executions/12345/{what}")
            assert answer.status_code == 404
            assert "12345" in answer.json()["message"]


@pytest.fixture
def ran() -> World:
    world = World(
        PARENT,
        children={"tests/child": CHILD},
        answers={"start": lambda ask: int(ask.iteration or 0)},
    )
    world.run(lambda ready: ready[-1])
    return world


async def logged(fleet: Fleet, world: World) -> None:
    """Put a world's log and catalog where the server finds them."""
    for entry in world.entries.values():
        await fleet.tables.register(
            CatalogDocument(
                catalog_id=entry.catalog_id,
                path=entry.path,
                kind="playbook",
                content=entry.content,
            )
        )
    shard = shard_of(EXECUTION, SHARDS)
    for message in world.log:
        records = decode_append(message.data).records
        await fleet.bus.log.append(shard, records, message_id=f"w{message.sequence}")
    # Other executions share the log, before and after.
    genesis = Genesis(catalog_id="1", path="tests/hello", version=1)
    await fleet.append("99", event("playbook_started", context=genesis))


async def exported(fleet: Fleet) -> Transcript:
    answer = await fleet.http.get(f"/api/executions/{EXECUTION}/export")
    assert answer.status_code == 200
    return read_transcript(answer.content.splitlines(keepends=True))


async def test_an_export_is_the_log_itself(ran: World) -> None:
    """The bytes of every record, children and playbooks included."""
    wanted = read_transcript(transcribe(ran))
    async with running_edge() as fleet:
        await logged(fleet, ran)
        found = await exported(fleet)
    assert found.head.source == "log"
    assert [one.data for one in found.records] == [one.data for one in wanted.records]
    assert [one.ids for one in found.records] == [one.ids for one in wanted.records]
    assert found.executions() == wanted.executions()
    assert {line.path for line in found.playbooks.values()} == {
        "tests/parent",
        "tests/child",
    }


@pytest.mark.parametrize("trimmed", [False, True])
async def test_an_export_of_a_trimmed_log_is_made_of_rows(
    ran: World, trimmed: bool
) -> None:
    """A replay of it decides the same, for the execution and for its child."""
    async with running_edge() as fleet:
        await logged(fleet, ran)
        await fleet.materialize()
        if trimmed:
            fleet.broker.trim(len(ran.log))
        found = await exported(fleet)
    assert found.head.source == ("rows" if trimmed else "log")
    assert len(found.executions()) == 2
    for execution_id in found.executions():
        replay = Replay(found, execution_id)
        replay.run()
        assert replay.state.terminal == "COMPLETED"
        assert replay.passes
        # The child's end was told to its parent; only there is it complete.
        assert all(one.sound for one in replay.passes)
