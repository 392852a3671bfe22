"""The record of a finished command, whoever ran it (design §3)."""

from __future__ import annotations

from typing import Final

from msgspec import Raw
from msgspec.structs import replace

from state_builder.records import (
    NOTHING,
    Event,
    ResultEnvelope,
    ToolOutcome,
    encode_json,
)

ERROR_TEXT_MAX: Final = 2000
"""Characters of an event's error text (RT-EVT-0)."""


def started_event(issued: Event, at: str, worker_id: str, delivery: int = 0) -> Event:
    """``command.started``: a worker is at it."""
    return Event(
        type="command.started",
        at=at,
        step=issued.step,
        visit=issued.visit,
        iteration=issued.iteration,
        status="STARTED",
        command_id=issued.command_id,
        attempt=issued.attempt,
        delivery=delivery,
        worker_id=worker_id,
    )


def result_events(
    issued: Event, outcome: ToolOutcome, at: str, worker_id: str
) -> list[Event]:
    """``call.done`` + ``command.completed``, or ``call.error`` + ``command.failed``.

    An outcome whose error a policy absorbed carries it in the context and is a success.
    """
    failure = outcome.error if outcome.failed else None
    status = "success" if failure is None else "error"
    reference = outcome.reference
    if reference:
        outcome = replace(outcome, reference=NOTHING)
    result = Raw(
        encode_json(ResultEnvelope(status=status, context=outcome, reference=reference))
    )
    text = "" if failure is None else failure.message[:ERROR_TEXT_MAX]
    called = Event(
        type="call.done" if failure is None else "call.error",
        at=at,
        step=issued.step,
        visit=issued.visit,
        iteration=issued.iteration,
        kind=issued.kind,
        status="COMPLETED" if failure is None else "FAILED",
        command_id=issued.command_id,
        worker_id=worker_id,
        error=text,
        result=result,
    )
    ended = Event(
        type="command.completed" if failure is None else "command.failed",
        at=at,
        step=issued.step,
        visit=issued.visit,
        iteration=issued.iteration,
        status="success" if failure is None else "FAILED",
        command_id=issued.command_id,
        attempt=issued.attempt,
        worker_id=worker_id,
        code="" if failure is None else failure.code or failure.kind,
        error=text,
    )
    return [called, ended]
