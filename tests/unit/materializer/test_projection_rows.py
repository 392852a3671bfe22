"""Projection: what single events, records and batches become."""

from __future__ import annotations

import json
from typing import Any

import pytest
from written_log import (
    AT,
    STORED_AT,
    answer,
    end,
    fact,
    genesis,
    issue,
    message,
    project,
    raw,
    rows_of,
    stored,
    whole,
)

from materializer.projection import Projector
from state_builder.ids import event_id
from state_builder.records import Event, Record, encode_append
from state_builder.rows import EventRow, Position, time_of_micros

EID = "7423000000000000001"


def one_event(event: Event) -> EventRow:
    """The row of an event in the middle of an execution."""
    return rows_of(genesis(EID), Record(execution_id=EID, events=[event])).events[-1]


def meta(row: EventRow) -> dict[str, Any]:
    assert row.meta is not None
    found: dict[str, Any] = json.loads(row.meta)
    return found


def test_the_genesis_is_the_root_and_gives_every_row_its_execution() -> None:
    """RT-EVT-0, RT-EVT-22, RT-MAT-6: root, catalog id, path, parent."""
    batch = rows_of(
        genesis(EID, parent_execution_id="77", parent_command_id="77.call.1.1"),
        issue(EID, "load"),
    )
    root, enter, issued = batch.events
    assert (root.prev_event_id, root.status) == (None, "STARTED")
    assert (root.node_id, root.node_name, root.node_type) == (
        "playbook",
        "tests/plain",
        "execution",
    )
    assert enter.prev_event_id == root.event_id
    assert issued.prev_event_id == enter.event_id
    assert {row.catalog_id for row in batch.events} == {7001}
    assert {row.parent_execution_id for row in batch.events} == {77}
    assert batch.commands[0].parent_command_id == "77.call.1.1"
    execution = batch.executions[0]
    assert (execution.path, execution.version, execution.status) == (
        "tests/plain",
        3,
        "RUNNING",
    )
    assert execution.workload == b'{"a":1}'


@pytest.mark.parametrize("generation", [0, 3])
def test_event_ids_are_places_in_the_log(generation: int) -> None:
    """RT-NATS-7: generation, sequence and index make the id."""
    messages = stored(genesis(EID), issue(EID, "load"), first=41)
    batch = project(messages, generation=generation).batch
    assert [row.event_id for row in batch.events] == [
        event_id(generation, 41, 0),
        event_id(generation, 42, 0),
        event_id(generation, 42, 1),
    ]


STATUS = [
    ("step.enter", "", "ENTERED"),
    ("step.exit", "FAILED", "FAILED"),
    ("step.skipped", "", "SKIPPED"),
    ("ctx.updated", "", "CONTEXT"),
    ("timer.set", "", "PENDING"),
    ("timer.fired", "", "COMPLETED"),
    ("playbook.completed", "", "COMPLETED"),
    ("playbook_cancelled", "", "CANCELLED"),
    ("playbook.cancel_requested", "", "PENDING"),
    ("loop.done", "", "COMPLETED"),
    ("frame.failed", "", "FAILED"),
    ("something.else", "", "RUNNING"),
    ("something.else", "odd", "ODD"),
]


@pytest.mark.parametrize(("event_type", "given", "expected"), STATUS)
def test_status_is_the_events_own_or_its_types(
    event_type: str, given: str, expected: str
) -> None:
    """RT-EVT §3.2, RT-ING-2: status by type where none is given."""
    row = one_event(Event(type=event_type, at=AT, step="load", status=given))
    assert row.status == expected


def test_a_completed_command_keeps_the_tools_word() -> None:
    """RT-EVT-0: its status is the tool's own, as it is."""
    batch = rows_of(genesis(EID), issue(EID, "load"), answer(EID, "load"))
    assert batch.events[-1].event_type == "command.completed"
    assert batch.events[-1].status == "success"


def test_meta_joins_own_meta_and_hot_fields() -> None:
    """RT-EVT-0: meta holds command, attempt, pool …; the event's fields win."""
    event = Event(
        type="timer.set",
        at=AT,
        step="load",
        visit=2,
        iteration="7",
        timer="retry",
        due=12.5,
        code="late",
        meta=raw({"timer": "wrong", "purpose": "x"}),
    )
    assert meta(one_event(event)) == {
        "purpose": "x",
        "timer": "retry",
        "due_at": 12.5,
        "visit": 2,
        "iteration_index": 7,
        "code": "late",
    }


@pytest.mark.parametrize(
    ("own", "expected"),
    [(b"[1]", {"value": [1], "visit": 1}), (b"{ }", {"visit": 1})],
)
def test_meta_of_any_shape_stays_an_object(own: bytes, expected: object) -> None:
    """RT-EVT-0: meta is an object whatever an emitter sent."""
    event = Event(type="note", at=AT, visit=1, meta=type(raw(0))(own))
    assert meta(one_event(event)) == expected


def test_an_event_without_anything_has_no_meta() -> None:
    assert one_event(Event(type="note", at=AT)).meta is None


def test_a_command_names_what_it_is_in_meta() -> None:
    """RT-EVT §3.2: command.issued carries id, step, kind, attempt, pool in meta."""
    batch = rows_of(genesis(EID), issue(EID, "load"))
    found = meta(batch.events[-1])
    assert found["command_id"] == f"{EID}.load.1.1"
    assert (found["step"], found["tool_kind"]) == ("load", "python")
    assert (found["attempt"], found["pool"]) == (1, "shared")
    assert "command_event_id" not in found


def test_a_fact_is_provoked_by_its_command() -> None:
    """RT-EVT-0: readers find the parent event by command id."""
    batch = rows_of(genesis(EID), issue(EID, "load"), answer(EID, "load"))
    issued, *facts = batch.events[2:]
    assert {row.parent_event_id for row in facts} == {issued.event_id}
    assert {row.causation_id for row in facts} == {issued.event_id}
    assert {row.node_type for row in facts} == {"python"}
    assert meta(facts[0])["command_event_id"] == str(issued.event_id)


def test_a_named_cause_wins() -> None:
    """RT-EVT-9: the record's cause is every event's, an event's own comes first."""
    record = issue(EID, "load", cause="4711")
    own = Event(type="note", at=AT, cause="12")
    last = Record(execution_id=EID, events=[own], cause="4711")
    batch = rows_of(genesis(EID), record, last)
    assert [row.parent_event_id for row in batch.events] == [None, 4711, 4711, 12]


def test_durations_are_seconds_of_the_tool() -> None:
    batch = rows_of(genesis(EID), issue(EID, "load"), answer(EID, "load"))
    assert [row.duration for row in batch.events[-3:]] == [None, 1.5, None]


@pytest.mark.parametrize("at", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_an_unreadable_time_is_the_logs(at: str) -> None:
    """RT-EVT-0: created_at is never missing."""
    row = one_event(Event(type="note", at=at))
    assert time_of_micros(row.created_at).timestamp() == STORED_AT


@pytest.mark.parametrize(
    "at",
    [
        "2026-11-20T10:00:00.25Z",
        "2026-11-20T12:00:00.250+02:00",
        "2026-11-20T10:00:00.25",
    ],
)
def test_times_keep_their_zone(at: str) -> None:
    """RT-API-5: without a zone it is UTC."""
    row = one_event(Event(type="note", at=at))
    found = time_of_micros(row.created_at).isoformat()
    assert found == "2026-11-20T10:00:00.250000+00:00"


ODD_TEXT = [
    (rb"nul \u0000 here", "nul � here"),
    (rb"lone \ud800 half", "lone � half"),
    (rb"lone \uDFFF half", "lone � half"),
    (rb"pair \ud83d\ude00", "pair 😀"),
    (rb"two \ud800\ud83d\ude00", "two �😀"),
    (rb"not \\u0000 one", r"not \u0000 one"),
    (rb"still \\\u0000 one", "still \\� one"),
    (rb"near \u00001", "near �1"),
]


@pytest.mark.parametrize(("text", "expected"), ODD_TEXT)
def test_characters_no_column_takes_are_replaced(text: bytes, expected: str) -> None:
    """RT-MAT-5: U+0000 and halves of pairs cost no event; everything else stays."""
    data = encode_append(
        [
            genesis(EID),
            Record(
                execution_id=EID,
                events=[Event(type="note", at=AT, error="MARK", context=raw(["MARK"]))],
            ),
        ]
    ).replace(b"MARK", text)
    row = project([message(1, data)]).batch.events[-1]
    assert row.error == expected
    assert row.context is not None
    assert json.loads(row.context) == [expected]


def test_bytes_that_are_no_append_are_set_apart_whole() -> None:
    """RT-NATS-46: unreadable messages are kept with their bytes and passed."""
    messages = [*stored(genesis(EID)), message(2, b'{"v":1,"records":')]
    batch = project(messages).batch
    (apart,) = batch.quarantined
    assert (apart.sequence, apart.idx, apart.payload) == (2, -1, messages[1].data)
    assert "not an append" in apart.reason
    assert batch.position == Position(0, 2)
    assert len(batch.events) == 1


def test_leases_become_no_rows_and_are_passed() -> None:
    messages = [message(1, b"{}", kind="lease")]
    batch = project(messages).batch
    assert batch.position.sequence == 1
    assert not batch.events
    assert not batch.quarantined


UNSTORABLE = [
    pytest.param(
        Record(execution_id="x1", events=[Event(type="note"), Event(type="note")]),
        ["no decimal id", "no decimal id"],
        id="execution id",
    ),
    pytest.param(
        Record(execution_id=str(2**63), events=[Event(type="note")]),
        ["no decimal id"],
        id="execution id too large",
    ),
    pytest.param(
        Record(execution_id="99", events=[Event(type="note")]), ["orphan"], id="orphan"
    ),
    pytest.param(genesis("99", catalog_id="0"), ["catalog_id"], id="catalog id 0"),
    pytest.param(
        Record(
            execution_id="99",
            events=[Event(type="playbook_started", context=raw({"path": "x"}))],
        ),
        ["catalog_id"],
        id="genesis without catalog id",
    ),
    pytest.param(
        fact(EID, "load", "call.done", result=raw({"status": "ok", "more": 1})),
        ["more"],
        id="result with another key",
    ),
    pytest.param(
        fact(EID, "load", "call.done", result=raw([1])), ["result"], id="result no map"
    ),
]


@pytest.mark.parametrize(("record", "reasons"), UNSTORABLE)
def test_what_cannot_be_a_row_is_set_apart_alone(
    record: Record, reasons: list[str]
) -> None:
    """RT-MAT-5, RT-MAT-6, RT-EVT-21, RT-ING-3: quarantine, the neighbours stay."""
    batch = rows_of(genesis(EID), record, issue(EID, "load"))
    assert len(batch.quarantined) == len(reasons)
    for idx, (apart, reason) in enumerate(zip(batch.quarantined, reasons, strict=True)):
        assert reason in apart.reason
        assert (apart.sequence, apart.idx) == (2, idx)
        assert apart.event_id == event_id(0, 2, idx)
        assert json.loads(apart.payload)["type"] == record.events[idx].type
    assert [row.event_type for row in batch.events] == [
        "playbook_started",
        "step.enter",
        "command.issued",
    ]
    assert batch.events[1].prev_event_id == batch.events[0].event_id


def test_a_second_terminal_is_set_apart_and_never_linked() -> None:
    """RT-EVT-23: one terminal, whatever the spelling."""
    batch = rows_of(genesis(EID), end(EID), end(EID, "execution.failed"))
    assert [each.reason for each in batch.quarantined] == ["second_terminal"]
    assert batch.executions[0].status == "COMPLETED"
    last = batch.events[-1]
    assert (last.event_type, last.status) == ("step.exit", "IGNORED")


LATE = [
    pytest.param([genesis(EID)], "second_genesis", id="second genesis"),
    pytest.param(
        [issue(EID, "load"), answer(EID, "load"), answer(EID, "load", "worker-2")],
        "command_not_open",
        id="second result",
    ),
    pytest.param([answer(EID, "load")], "command_not_open", id="unknown command"),
    pytest.param(
        [issue(EID, "load"), end(EID), answer(EID, "load")],
        "after_terminal",
        id="after the terminal",
    ),
    pytest.param(
        [issue(EID, "load"), issue(EID, "load")], "command_known", id="issued twice"
    ),
]


@pytest.mark.parametrize(("records", "reason"), LATE)
def test_late_facts_are_kept_and_ignored(records: list[Record], reason: str) -> None:
    """RT-EVT-4: they stay in the chain with status IGNORED and change nothing."""
    alone = rows_of(genesis(EID), *records[:-1])
    projected = project(stored(genesis(EID), *records))
    ignored = [row for row in projected.batch.events if row.status == "IGNORED"]
    assert {meta(row)["ignored"] for row in ignored} == {reason}
    assert projected.ignored == len(ignored) > 0
    before, after = alone.executions[0], projected.batch.executions[0]
    assert after.status == before.status
    assert after.head_event_id == projected.batch.events[-1].event_id
    same = [row._replace(updated_at=0) for row in projected.batch.commands]
    assert same == [row._replace(updated_at=0) for row in alone.commands]


def test_steps_are_counted_for_progress() -> None:
    """RT-EXN-10: steps begun and steps over."""
    skipped = Event(type="step.skipped", at=AT, step="other", visit=1)
    batch = rows_of(
        genesis(EID),
        issue(EID, "load"),
        Record(execution_id=EID, events=[skipped]),
        issue(EID, "store"),
    )
    execution = batch.executions[0]
    assert (execution.steps_known, execution.steps_done) == (3, 1)


def test_what_was_read_before_is_no_news() -> None:
    """RT-MAT-3: reading any part of the log again changes nothing."""
    projector = Projector(0)
    messages = stored(*whole(EID))
    events = len(project(messages, projector).batch.events)
    again = project(messages[2:], projector)
    assert again.repeated == events - 3
    assert not any(again.batch[:6])


def test_every_column_of_a_row_has_its_value() -> None:
    """Rows are made by position: each value stands under its own name."""
    event = Event(
        type="call.error",
        at=AT,
        step="load",
        command_id=f"{EID}.load.1.1",
        worker_id="worker-9",
        error="broken",
        context=raw({"c": 1}),
        result=raw({"status": "error", "context": {"duration_ms": 20}}),
        meta=raw({"stage_id": "s1", "frame_id": "f1"}),
    )
    row = rows_of(
        genesis(EID, parent_execution_id="77"),
        issue(EID, "load"),
        Record(execution_id=EID, events=[event], cause="55"),
    ).events[-1]
    found = row._asdict()
    assert json.loads(found.pop("meta"))["stage_id"] == "s1"
    at = found.pop("created_at")
    assert found.pop("event_time") == at
    assert found.pop("ingest_time") == at + 250_000
    assert found == {
        "execution_id": int(EID),
        "event_id": event_id(0, 3, 0),
        "catalog_id": 7001,
        "event_type": "call.error",
        "status": "FAILED",
        "node_id": "load",
        "node_name": "load",
        "node_type": "python",
        "parent_event_id": 55,
        "causation_id": 55,
        "prev_event_id": event_id(0, 2, 1),
        "parent_execution_id": 77,
        "command_id": f"{EID}.load.1.1",
        "stage_id": "s1",
        "frame_id": "f1",
        "context": b'{"c":1}',
        "result": b'{"status":"error","context":{"duration_ms":20}}',
        "error": "broken",
        "worker_id": "worker-9",
        "duration": 0.02,
    }
