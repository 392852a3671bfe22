"""What is no record, no lease and no reference is told, never guessed at."""

from __future__ import annotations

import pytest
from msgspec import Raw

from state_builder.errors import RecordError
from state_builder.ids import Shard, child_execution_id, command_id, shard_of
from state_builder.policy import error_map
from state_builder.records import (
    EVENTS_PER_APPEND_MAX,
    Event,
    Lease,
    Record,
    ToolFailure,
    decode_append,
    decode_lease,
    decode_reference,
    encode_append,
    encode_lease,
)
from state_builder.state.outcomes import outcome_of


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "not an append"),
        (b'{"v": 9, "records": []}', "format"),
        (b'{"v": 1, "records": []}', "without records"),
        (b'{"v": 1, "records": [{"execution_id": "1", "events": []}]}', "without ev"),
    ],
)
def test_what_is_no_append_is_refused(data: bytes, told: str) -> None:
    """RT-NATS-46."""
    with pytest.raises(RecordError, match=told):
        decode_append(data)


def test_an_append_holds_only_so_many_events() -> None:
    """RT-LIM-1."""
    events = [Event(type="x")] * (EVENTS_PER_APPEND_MAX + 1)
    data = encode_append([Record(execution_id="1", events=events)])
    with pytest.raises(RecordError, match="more than"):
        decode_append(data)


def test_a_lease_comes_back_as_it_was() -> None:
    lease = Lease(holder="me", since="2026-01-01T00:00:00Z")
    assert decode_lease(encode_lease(lease)) == lease
    with pytest.raises(RecordError, match="not a lease"):
        decode_lease(b"[]")


def test_what_is_no_reference_is_refused() -> None:
    with pytest.raises(RecordError, match="not a reference"):
        decode_reference(b'{"ref": 1}')


def test_a_failure_that_came_without_its_error_has_one_of_its_own() -> None:
    """RT-EVT-4: a reader never meets a failure without a reason."""
    for result in (b"", b'{"status":"error"}', b'{"status":"error","context":{}}'):
        event = Event(
            type="call.error", code="poison", error="lost", result=Raw(result)
        )
        outcome = outcome_of(event, 7)
        assert not outcome.ok and outcome.error is not None
        assert (outcome.error.kind, outcome.error.message) == ("poison", "lost")


def test_an_error_says_where_it_comes_from() -> None:
    """TL-OUT-02."""
    failure = ToolFailure(kind="http", message="m", status_code=503, source="upstream")
    found = error_map(failure)
    assert (found["source"], found["status"]) == ("upstream", 503)


def test_a_child_is_minted_on_the_shard_of_its_parent() -> None:
    """RT-DRV-4: from state alone, whatever the number of shards."""
    command = command_id("1", "a", 1, 1)
    for shard in range(16):
        child = child_execution_id(command, 1_800_000_000_000, Shard(shard), 16)
        assert shard_of(child, 16) == shard
        again = child_execution_id(command, 1_800_000_000_000, Shard(shard), 16)
        assert child == again
