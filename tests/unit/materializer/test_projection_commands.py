"""Projection: the rows of commands, from their issue to their end (RT-EVT-25)."""

from __future__ import annotations

import pytest
from written_log import (
    answer,
    end,
    fact,
    failure,
    genesis,
    issue,
    project,
    rows_of,
    stored,
)

from materializer.projection import Projector

EID = "7423000000000000001"


def test_a_commands_life_is_one_row() -> None:
    """RT-EVT-25, RT-PRJ-2: issued and finished in a batch, written once."""
    batch = rows_of(genesis(EID), issue(EID, "load"), answer(EID, "load"))
    (command,) = batch.commands
    assert not batch.command_changes
    assert (command.status, command.worker_id, command.attempt) == (
        "COMPLETED",
        "worker-1",
        1,
    )
    assert command.started_at == command.completed_at == command.created_at
    assert command.event_id == batch.events[2].event_id
    assert command.latest_event_id == batch.events[5].event_id
    assert command.prev_event_id == batch.events[4].event_id


def test_a_failed_command_says_why() -> None:
    """RT-EVT-25: FAILED with the error's text."""
    batch = rows_of(genesis(EID), issue(EID, "load"), failure(EID, "load"))
    assert [(row.status, row.error) for row in batch.commands] == [
        ("FAILED", "no such table")
    ]


def test_a_tools_bad_word_is_a_failure() -> None:
    """RT-EVT-5: command.completed with status error is command.failed."""
    batch = rows_of(
        genesis(EID),
        issue(EID, "load"),
        fact(EID, "load", "command.completed", status="error", error="no"),
    )
    assert [(row.status, row.error) for row in batch.commands] == [("FAILED", "no")]


PARKED = [
    pytest.param(
        ["parked", "call.done"], ("COMPLETED", True, []), id="call-back after parking"
    ),
    pytest.param(
        ["call.done", "parked"], ("COMPLETED", True, []), id="call-back overtakes"
    ),
    pytest.param(["parked"], ("RUNNING", True, []), id="parked"),
    pytest.param(
        ["parked", "call.error"], ("FAILED", True, []), id="call-back with error"
    ),
    pytest.param(
        ["parked", "command.failed"], ("FAILED", True, []), id="call-back times out"
    ),
    pytest.param(
        ["parked", "call.done", "call.done"],
        ("COMPLETED", True, ["call.done"]),
        id="first call-back wins",
    ),
    pytest.param(
        ["parked", "parked"],
        ("RUNNING", True, ["command.completed"]),
        id="parked twice",
    ),
]


@pytest.mark.parametrize(("facts", "expected"), PARKED)
def test_parked_commands(
    facts: list[str], expected: tuple[str, bool, list[str]]
) -> None:
    """RT-DRV-19: parked, ended by the first call-back, in whatever order."""
    records = [
        fact(EID, "load", "command.completed", pending=True)
        if kind == "parked"
        else fact(EID, "load", kind)
        for kind in facts
    ]
    batch = rows_of(genesis(EID), issue(EID, "load"), *records)
    (command,) = batch.commands
    ignored = [row.event_type for row in batch.events if row.status == "IGNORED"]
    assert (command.status, command.parked, ignored) == expected


def test_open_commands_are_cancelled_with_their_execution() -> None:
    """RT-EVT-25: CANCELLED for commands still open at the end."""
    projector = Projector(0)
    first = stored(genesis(EID), issue(EID, "load"), issue(EID, "store"))
    project(first, projector)
    last = stored(answer(EID, "load"), end(EID, "playbook_cancelled"), first=4)
    batch = project(last, projector).batch
    states = {row.command_id: row.status for row in batch.command_changes}
    assert states == {f"{EID}.load.1.1": "COMPLETED", f"{EID}.store.1.1": "CANCELLED"}
    (change,) = batch.execution_changes
    assert (change.status, change.result) == ("CANCELLED", b'{"sum":3}')
    assert change.end_time is not None


def test_older_workers_claims_show() -> None:
    """RT-EVT §3.2: claimed and released are legal and visible."""
    projector = Projector(0)
    project(stored(genesis(EID), issue(EID, "load")), projector)
    claimed = project(stored(fact(EID, "load", "command.claimed"), first=3), projector)
    (change,) = claimed.batch.command_changes
    assert (change.status, change.worker_id) == ("CLAIMED", "worker-1")
    assert change.claimed_at is not None
    released = project(
        stored(fact(EID, "load", "command.released"), first=4), projector
    )
    (change,) = released.batch.command_changes
    assert (change.status, change.worker_id) == ("PENDING", None)
