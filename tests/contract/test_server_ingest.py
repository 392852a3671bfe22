"""Facts from outside, commands by id, call-backs of parked steps (RT-ING, RT-CMD)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from msgspec import to_builtins
from server_edge import PLAYBOOK, TOKEN, Fleet, event, running_edge

from state_builder.errors import LogFullError
from state_builder.locator import Locator
from state_builder.records import Event, encode_json

pytestmark = pytest.mark.anyio
INTERNAL = {"authorization": f"Bearer {TOKEN}"}


async def started(fleet: Fleet) -> str:
    await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
    return await fleet.start()


async def sent(fleet: Fleet, eid: str, **body: Any) -> httpx.Response:
    body.setdefault("execution_id", eid)
    return await fleet.http.post("/api/events", json=body)


async def stored(fleet: Fleet, execution_id: str) -> list[Event]:
    """Everything in the log of an execution behind its genesis."""
    records = [one for one in await fleet.log() if one.execution_id == execution_id]
    return [event for record in records for event in record.events][1:]


async def test_a_fact_is_appended_under_any_spelling() -> None:
    """RT-ING-1, RT-ING-4: into the log, and into no table."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        for body in (
            {"step": "a", "event_type": "x.note", "payload": {"n": 1}},
            {"node_name": "a", "name": "x.note", "context": {"n": 1}},
        ):
            answer = await sent(fleet, eid, **body, worker_id="w1")
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert told["status"] == "ok"
            assert told["event_id"].isdecimal()
            assert told["commands_generated"] == 0
        one, other = await stored(fleet, eid)
        assert not fleet.database.events
    assert (one.type, one.step, one.worker_id) == ("x.note", "a", "w1")
    assert bytes(one.context) == bytes(other.context) == b'{"n":1}'


@pytest.mark.parametrize(
    ("kind", "given", "status"),
    [
        ("x.done", None, "COMPLETED"),
        ("x.exit", None, "COMPLETED"),
        ("x.completed", None, "COMPLETED"),
        ("x.error", None, "FAILED"),
        ("x.failed", None, "FAILED"),
        ("x.note", None, "RUNNING"),
        ("x.failed", "BUSY", "BUSY"),
    ],
)
async def test_a_status_that_is_not_given_follows_from_the_type(
    kind: str, given: str | None, status: str
) -> None:
    """RT-ING-2."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await sent(fleet, eid, event_type=kind, status=given)
        [found] = await stored(fleet, eid)
    assert found.status == status
    assert found.at.endswith("Z")


@pytest.mark.parametrize(
    ("result", "envelope"),
    [
        ({"status": "ok", "context": {"a": 1}}, b'{"status":"ok","context":{"a":1}}'),
        ({"status": "ok", "context": 5}, b'{"status":"ok","context":{"value":5}}'),
        ({"status": 5}, None),
        ({"status": "ok", "extra": 1}, None),
        ([1], None),
    ],
)
async def test_a_result_is_an_envelope_or_refused(
    result: Any, envelope: bytes | None
) -> None:
    """RT-ING-3."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        answer = await sent(fleet, eid, event_type="x.note", result=result)
        found = await stored(fleet, eid)
    assert answer.status_code == (200 if envelope else 422), answer.text
    assert [bytes(one.result) for one in found] == ([envelope] if envelope else [])


async def test_a_result_elsewhere_is_a_reference() -> None:
    """RT-ING-3: the tier is guessed from the scheme."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await sent(
            fleet,
            eid,
            event_type="call.done",
            step="a",
            result_kind="ref",
            result_uri="gs://bucket/key",
        )
        [found] = await stored(fleet, eid)
    assert b'"store":"gcs"' in bytes(found.result)


async def test_sending_again_is_a_success_without_a_second_event() -> None:
    """RT-ING-5: the caller's event id is its key."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        body: dict[str, Any] = {"event_type": "x.note", "event_id": 77}
        answers = [(await sent(fleet, eid, **body)).json() for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        assert len(await stored(fleet, eid)) == 1


@pytest.mark.parametrize(
    "kind",
    ["playbook_started", "command.issued", "step.enter", "step.skipped", "ctx.updated",
     "timer.fired", "playbook.cancel_requested", "playbook_completed",
     "execution.cancelled"],
)  # fmt: skip
async def test_nobody_outside_decides(kind: str) -> None:
    """RT-ING-6: refused with the internal token as well."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        body = {"execution_id": eid, "event_type": kind}
        answer = await fleet.http.post("/api/events", json=body, headers=INTERNAL)
        assert answer.status_code == 422
        assert kind in answer.json()["message"]
        assert await stored(fleet, eid) == []


async def test_a_batch_is_stored_as_a_whole_or_not_at_all() -> None:
    """RT-ING-7: one append, and its key is the first event's."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        events: list[dict[str, Any]] = [
            {"event_type": "x.a", "event_id": 5, "actionable": False},
            {"event_type": "x.b", "informative": False},
        ]
        body = {"execution_id": eid, "worker_id": "w1", "events": events}
        first = await fleet.http.post("/api/events/batch", json=body)
        again = await fleet.http.post("/api/events/batch", json=body)
        assert first.json() == again.json()
        assert len(first.json()["event_ids"]) == 2
        events[1]["event_type"] = "step.enter"
        events[0]["event_id"] = 6
        refused = await fleet.http.post("/api/events/batch", json=body)
        assert refused.status_code == 422
        found = await stored(fleet, eid)
    assert [one.type for one in found] == ["x.a", "x.b"]
    assert bytes(found[0].meta) == b'{"actionable":false}'
    assert bytes(found[1].meta) == b'{"informative":false}'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"execution_id": "999", "event_type": "x.note"}, 404),
        ({"event_type": ""}, 422),
        ({"event_type": "no spaces"}, 422),
        ({"execution_id": "", "event_type": "x"}, 422),
        ({"execution_id": "abc", "event_type": "x"}, 422),
        ({"event_type": "x.note", "meta": 5}, 422),
        ({"event_type": "x.note", "payload": "y" * 1_100_000}, 413),
    ],
)
async def test_what_cannot_be_a_fact_is_refused(
    body: dict[str, Any], status: int
) -> None:
    """RT-ING-8."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        answer = await sent(fleet, eid, **body)
        assert answer.status_code == status, answer.text
        assert await stored(fleet, eid) == []


async def test_a_full_log_takes_no_facts() -> None:
    """RT-LIM-6: refused before it is full, with a time to come back."""
    async with running_edge() as fleet:
        eid = await started(fleet)

        def full() -> None:
            raise LogFullError("the log is full")

        object.__setattr__(fleet.edge.admission, "check_fact", full)
        answer = await sent(fleet, eid, event_type="x.note")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def issued(fleet: Fleet, execution_id: str) -> str:
    """A command the owner issued; its event id."""
    command = event(
        "command.issued",
        "a",
        command_id=f"{execution_id}.a.1.1",
        kind="http",
        status="PENDING",
        context={"tool_config": {"kind": "http"}, "args": {}},
        meta={"path": "tests/hello"},
    )
    sequence = await fleet.append(execution_id, command)
    return str(sequence * 1024)


@pytest.mark.parametrize("trimmed", [False, True])
async def test_a_command_is_shown_as_its_worker_was_given_it(trimmed: bool) -> None:
    """RT-CMD-1: from the log, or from its row when the log was trimmed."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        event_id = await issued(fleet, eid)
        if trimmed:
            await fleet.materialize()
            fleet.broker.trim(10)
        answer = await fleet.http.get(f"/api/commands/{event_id}")
        unknown = [
            (await fleet.http.get(f"/api/commands/{other}")).status_code
            for other in ("1024", "999999999", "x", str(2**63), str(2**55))
        ]
    assert unknown == [404] * 5
    found = answer.json()
    assert found["execution_id"] == eid
    assert found["command_id"] == f"{eid}.a.1.1"
    assert (found["node_name"], found["action"]) == ("a", "http")
    assert found["context"]["tool_config"] == {"kind": "http"}
    assert found["meta"] == {"path": "tests/hello"}


@pytest.mark.parametrize("trimmed", [False, True])
async def test_a_context_stored_elsewhere_is_shown_whole(trimmed: bool) -> None:
    """RT-CMD-1, TL-RR-03: and what is gone by its reference."""
    context = {"tool_config": {"kind": "http"}, "args": {"pad": "x" * 1000}}
    async with running_edge() as fleet:
        eid = await started(fleet)
        values = fleet.edge.ports.values
        place = Locator("contexts", (eid, "a"), "v")
        kept = await values.keep(place, encode_json(context), {})
        # As the tables give it back: in another order.
        stand_in = {"reference": to_builtins(kept), "__context_ref__": kept.ref}
        command = event(
            "command.issued", "a", command_id=f"{eid}.a.1.1", context=stand_in
        )
        event_id = str(await fleet.append(eid, command) * 1024)
        if trimmed:
            await fleet.materialize()
            fleet.broker.trim(10)
        found = (await fleet.http.get(f"/api/commands/{event_id}")).json()
        assert found["context"] == context
        await values.drop(kept.ref)
        values._cache.clear()  # type: ignore[attr-defined]
        gone = await fleet.http.get(f"/api/commands/{event_id}")
    assert gone.status_code == 200
    assert gone.json()["context"]["__context_ref__"] == kept.ref


async def test_a_claim_reserves_nothing_and_ends_with_its_command() -> None:
    """RT-CMD-2."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        event_id = await issued(fleet, eid)
        before = await fleet.log()
        url = f"/api/commands/{event_id}/claim"
        given = [
            (await fleet.http.post(url, json={"worker_id": name})).json()["command_id"]
            for name in ("w1", "w2")
        ]
        assert await fleet.log() == before
        fleet.opened[eid] = []
        gone = await fleet.http.post(url, json={"worker_id": "w1"})
        unknown = await fleet.http.post(
            "/api/commands/1/claim", json={"worker_id": "w1"}
        )
    assert given == [f"{eid}.a.1.1"] * 2
    assert (gone.status_code, gone.json()["code"]) == (410, "terminal")
    assert unknown.status_code == 404


async def called_back(
    fleet: Fleet, eid: str, step: str = "a", **body: Any
) -> httpx.Response:
    given = {"state": "succeeded", "job_name": "j", "job_uid": "u1", **body}
    path = f"/api/internal/container-callback/{eid}/{step}"
    return await fleet.http.post(path, json=given, headers=INTERNAL)


@pytest.mark.parametrize(
    ("state", "status"),
    [("succeeded", "COMPLETED"), ("failed", "FAILED"), ("failed_oom", "FAILED")],
)
async def test_a_call_back_ends_its_parked_step_once(state: str, status: str) -> None:
    """RT-CBK-1, RT-DRV-19."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        fleet.opened[eid] = [f"{eid}.a.1.1"]
        answers = [
            await called_back(fleet, eid, state=state, exit_code=3, reason="because")
            for _ in range(2)
        ]
        [found] = await stored(fleet, eid)
    assert [answer.status_code for answer in answers] == [202, 202]
    assert {answer.json()["status"] for answer in answers} == {"accepted_in_flight"}
    assert len({answer.json()["event_id"] for answer in answers}) == 1
    assert (found.type, found.status) == ("call.done", status)
    assert found.command_id == f"{eid}.a.1.1"
    for part in (f'"terminal_state":"{state}"', '"exit_code":3', '"reason":"because"'):
        assert part.encode() in bytes(found.result)


async def test_a_call_back_nobody_waits_for_is_accepted_and_changes_nothing() -> None:
    """RT-CBK-1: stale for an ended execution and for a finished command."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        fleet.opened[eid] = []
        for more in ({}, {"command_id": f"{eid}.a.1.1"}):
            answer = await called_back(fleet, eid, **more)
            assert (answer.status_code, answer.json()["status"]) == (
                202,
                "accepted_stale",
            )
        await fleet.append(eid, event("playbook_completed"))
        del fleet.opened[eid]
        answer = await called_back(fleet, eid, command_id=f"{eid}.a.1.1")
        assert answer.json() == {"status": "accepted_stale"}
        assert [one.type for one in await stored(fleet, eid)] == ["playbook_completed"]


async def test_a_call_back_is_never_lost_while_no_owner_answers() -> None:
    """A named command is believed, an unnamed one has to come again."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        unnamed = await called_back(fleet, eid)
        named = await called_back(fleet, eid, command_id=f"{eid}.a.1.1")
        [found] = await stored(fleet, eid)
    assert unnamed.status_code == 503
    assert named.json()["status"] == "accepted_in_flight"
    assert found.command_id == f"{eid}.a.1.1"


async def test_a_call_back_says_which_command_it_means() -> None:
    """RT-CBK-1: a loop has several; a bad state, an unknown execution."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        fleet.opened[eid] = ["x", "y"]
        ambiguous = await called_back(fleet, eid)
        chosen = await called_back(fleet, eid, command_id="y")
        bad = await called_back(fleet, eid, state="tired")
        unknown = await called_back(fleet, "999")
        closed = await fleet.http.post(
            f"/api/internal/container-callback/{eid}/a", json={"state": "failed"}
        )
    assert (ambiguous.status_code, bad.status_code) == (422, 422)
    assert "2 open commands" in ambiguous.json()["message"]
    assert chosen.status_code == 202
    assert unknown.json() == {"status": "accepted_stale"}, "TL-CTR-04"
    assert closed.status_code == 403, "RT-API-11"
