"""The record of a finished command, whoever ran it (design §3)."""

from __future__ import annotations

from typing import Final

from msgspec import Raw
from msgspec.structs import replace

from state_builder.records import (
    JSON,
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


def callback_id(execution_id: str, command_id: str, job: str) -> str:
    """The message id of the one answer that ends a parked command (RT-CBK-1)."""
    return f"{execution_id}:ext:{command_id}:{job}"


def parked_event(issued: Event, at: str, job: dict[str, JSON], watcher: str) -> Event:
    """``command.completed`` of a command that ends when a job does (RT-WRK-16).

    Args:
        job: what is known of it, its ``job_name`` at least.
        watcher: the worker that waits for its end; empty = none.
    """
    data = Raw(encode_json(job))
    envelope = ResultEnvelope(status="pending", context=ToolOutcome(data=data))
    return Event(
        type="command.completed",
        at=at,
        step=issued.step,
        visit=issued.visit,
        iteration=issued.iteration,
        status="pending",
        command_id=issued.command_id,
        attempt=issued.attempt,
        pending=True,
        worker_id=watcher,
        task=str(job["job_name"]),
        result=Raw(encode_json(envelope)),
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
