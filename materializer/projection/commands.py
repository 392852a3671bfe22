"""What the facts about a command do to its row (RT-EVT-25, RT-EVT-4).

The same judgement as the fold of the owner makes: the first answer wins, a parked
command is ended by its call-back, and one that overtook the parking report ends it as
soon as the report comes (RT-DRV-19).
"""

from __future__ import annotations

from typing import Final

from state_builder.records import Event
from state_builder.rows import Micros, OpenCommand

FACTS: Final = frozenset(
    {
        "command.claimed",
        "command.heartbeat",
        "command.released",
        "command.started",
        "call.done",
        "call.error",
        "command.completed",
        "command.failed",
    }
)
"""Types that say something about a command and mean nothing without an open one."""

_FAILED_WORDS: Final = frozenset({"error", "failed", "timeout"})


def apply_fact(command: OpenCommand, event: Event, event_id: int, at: Micros) -> bool:
    """Move an open command on; False when the event meant nothing to it.

    A command with ``completed_at`` set is open no more.
    """
    if not _HANDLERS[event.type](command, event, at):
        return False
    command.previous = command.latest
    command.latest = event_id
    return True


def cancel(command: OpenCommand, event_id: int, at: Micros) -> None:
    """The execution ended first: nobody waits for the answer any more."""
    command.status = "CANCELLED"
    command.completed_at = at
    command.previous = command.latest
    command.latest = event_id


def _claimed(command: OpenCommand, event: Event, at: Micros) -> bool:
    if command.status == "PENDING":
        command.status = "CLAIMED"
    command.worker_id = event.worker_id or command.worker_id
    command.claimed_at = at
    return True


def _released(command: OpenCommand, event: Event, at: Micros) -> bool:
    command.status = "PENDING"
    command.worker_id = None
    return True


def _heard(command: OpenCommand, event: Event, at: Micros) -> bool:
    return True


def _started(command: OpenCommand, event: Event, at: Micros) -> bool:
    command.status = "RUNNING"
    command.worker_id = event.worker_id or command.worker_id
    command.started_at = command.started_at or at
    return True


def _called(command: OpenCommand, event: Event, at: Micros) -> bool:
    done = event.type == "call.done" and event.status != "FAILED"
    command.answer = "COMPLETED" if done else "FAILED"
    command.error = None if done else event.error or command.error
    if command.parked:
        _finish(command, command.answer, at)
    return True


def _completed(command: OpenCommand, event: Event, at: Micros) -> bool:
    if event.status in _FAILED_WORDS:
        return _failed(command, event, at)
    command.worker_id = event.worker_id or command.worker_id
    if not event.pending:
        _finish(command, "COMPLETED", at)
        return True
    if command.parked:
        return False
    command.parked = True
    command.status = "RUNNING"
    if command.answer is not None:
        _finish(command, command.answer, at)
    return True


def _failed(command: OpenCommand, event: Event, at: Micros) -> bool:
    command.worker_id = event.worker_id or command.worker_id
    command.error = event.error or command.error or event.code or None
    _finish(command, "FAILED", at)
    return True


def _finish(command: OpenCommand, status: str, at: Micros) -> None:
    command.status = status
    command.completed_at = at


_HANDLERS: Final = {
    "command.claimed": _claimed,
    "command.heartbeat": _heard,
    "command.released": _released,
    "command.started": _started,
    "call.done": _called,
    "call.error": _called,
    "command.completed": _completed,
    "command.failed": _failed,
}
