"""What clients are shown of executions and events: names, order, spelling of time.

One shape for an event whether it comes from a row or straight from the log, one row for
lists and details (RT-EXN-1, RT-EXN-2), one status (RT-EXN-4). Ids are text (RT-API-2),
times RFC 3339 in UTC (RT-API-5), every event has a status (old clients need one).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import Raw, Struct, field

from materializer.projection.fields import envelope_of, meta_of, status_of
from noetl_worker.server.hub import Logged
from state_builder.records import JSON, TERMINAL_STATUS, Event
from state_builder.stores import EventView, ExecutionView

NULL = Raw(b"null")


def moment(value: datetime | None) -> str | None:
    """A time as clients read it."""
    if value is None:
        return None
    text = value.astimezone(UTC).isoformat(timespec="microseconds")
    return text.removesuffix("+00:00") + "Z"


def parsed(text: str | None) -> datetime | None:
    """A time of the log or a client; one without a zone is UTC (RT-API-5)."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def duration_words(seconds: float) -> str:
    """``1d 2h 3m 4s``, zero units left out, at least ``0s``."""
    left = max(0, int(seconds))
    words = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count}{unit}")
    return " ".join(words) or "0s"


class EventAnswer(Struct, kw_only=True):
    """RT-EXN-2."""

    execution_id: str
    event_id: str
    event_type: str
    node_id: str | None
    node_name: str | None
    node_type: str | None
    status: str
    created_at: str | None
    timestamp: str | None
    duration: float | None
    context: Raw
    result: Raw
    meta: Raw
    error: str | None
    catalog_id: str | None
    parent_execution_id: str | None
    parent_event_id: str | None
    prev_event_id: str | None
    command_id: str | None
    worker_id: str | None


class Facts(Struct, frozen=True):
    """What an event does not say itself: of its execution, from the genesis."""

    catalog_id: str | None = None
    path: str | None = None
    version: int = 0
    parent_execution_id: str | None = None
    sequence: int = 0


def event_of_row(view: EventView) -> EventAnswer:
    """An event from its row."""
    at = moment(view.created_at)
    return EventAnswer(
        execution_id=view.execution_id,
        event_id=view.event_id,
        event_type=view.event_type,
        node_id=view.node_id,
        node_name=view.node_name,
        node_type=view.node_type,
        status=view.status or "RUNNING",
        created_at=at,
        timestamp=at,
        duration=view.duration,
        context=view.context or NULL,
        result=view.result or NULL,
        meta=view.meta or NULL,
        error=view.error,
        catalog_id=view.catalog_id,
        parent_execution_id=view.parent_execution_id,
        parent_event_id=view.parent_event_id,
        prev_event_id=view.prev_event_id,
        command_id=view.command_id,
        worker_id=view.worker_id,
    )


def event_of_log(
    execution_id: str, logged: Logged, facts: Facts, previous: int
) -> EventAnswer:
    """An event straight from the log; ``previous`` is 0 for the genesis."""
    event = logged.event
    at = moment(parsed(event.at) or datetime.fromtimestamp(logged.stored_at, UTC))
    meta = meta_of(event, bytes(event.meta), 0, "")
    return EventAnswer(
        execution_id=execution_id,
        event_id=str(logged.event_id),
        event_type=event.type,
        node_id=event.step or "playbook",
        node_name=event.step or facts.path,
        node_type=(event.kind or None) if event.step else "execution",
        status=status_of(event),
        created_at=at,
        timestamp=at,
        duration=_duration(event),
        context=event.context or NULL,
        result=event.result or NULL,
        meta=Raw(meta) if meta else NULL,
        error=event.error or None,
        catalog_id=facts.catalog_id,
        parent_execution_id=facts.parent_execution_id,
        parent_event_id=logged.cause or None,
        prev_event_id=str(previous) if previous else None,
        command_id=event.command_id or None,
        worker_id=event.worker_id or None,
    )


def _duration(event: Event) -> float | None:
    try:
        envelope = envelope_of(event)
    except ValueError:
        # What is no envelope is shown as it is; its row will be in quarantine.
        return None
    return envelope.duration() if envelope is not None else None


class ExecutionAnswer(Struct, kw_only=True):
    """RT-EXN-1."""

    execution_id: str
    catalog_id: str
    path: str
    version: int
    status: str
    start_time: str | None
    started_at: str | None
    end_time: str | None
    completed_at: str | None
    duration_seconds: float | None
    duration_human: str
    progress: int
    result: Raw
    error: str | None
    parent_execution_id: str | None
    event_count: int


def execution_of_row(view: ExecutionView, now: float) -> ExecutionAnswer:
    """An execution from its row."""
    start, end = moment(view.start_time), moment(view.end_time)
    seconds = lasted(view.start_time, view.end_time, now)
    over = view.status in TERMINAL_STATUS.values()
    return ExecutionAnswer(
        execution_id=view.execution_id,
        catalog_id=view.catalog_id,
        path=view.path,
        version=view.version,
        status=view.status,
        start_time=start,
        started_at=start,
        end_time=end,
        completed_at=end,
        duration_seconds=seconds,
        duration_human=duration_words(seconds),
        progress=percent(over, view.steps_done, view.steps_known),
        result=view.result or NULL,
        error=view.error,
        parent_execution_id=view.parent_execution_id,
        event_count=view.event_count,
    )


class Status(Struct, kw_only=True):
    """Where an execution stands, as its owner says or as row and log tell."""

    execution_id: str
    status: str
    path: str | None = None
    catalog_id: str | None = None
    version: int = 0
    parent_execution_id: str | None = None
    current_step: str | None = None
    completed_steps: list[str] = field(default_factory=list)
    failed_steps: list[str] = field(default_factory=list)
    running_steps: list[str] = field(default_factory=list)
    total_steps: int = 0
    variables: dict[str, Any] = field(default_factory=dict)
    start_time: str | None = None
    end_time: str | None = None
    error: str | None = None
    last_event_type: str | None = None
    last_event_id: str | None = None
    event_count: int = 0
    sequence: int = 0
    waiting: list[Any] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """It has its terminal event."""
        return self.status in TERMINAL_STATUS.values()

    @property
    def done(self) -> int:
        """Steps that are over."""
        return len(self.completed_steps) + len(self.failed_steps)


def status_answer(status: Status, now: float) -> dict[str, JSON]:
    """RT-EXN-4."""
    start, end = parsed(status.start_time), parsed(status.end_time)
    seconds = lasted(start, end, now)
    steps: list[list[str]] = [status.completed_steps, status.failed_steps]
    return {
        "execution_id": status.execution_id,
        "catalog_id": status.catalog_id,
        "path": status.path,
        "version": status.version,
        "status": status.status,
        "current_step": status.current_step,
        "completed_steps": list(steps[0]),
        "failed_steps": list(steps[1]),
        "completed": status.over,
        "failed": status.status == "FAILED",
        "is_cancelled": status.status == "CANCELLED",
        "completion_inferred": False,
        "variables": status.variables,
        "progress": {
            "total_steps": status.total_steps,
            "completed_steps": len(steps[0]),
            "running_steps": len(status.running_steps),
            "failed_steps": len(steps[1]),
        },
        "start_time": moment(start),
        "end_time": moment(end),
        "duration_seconds": seconds,
        "duration_human": duration_words(seconds),
        "error": status.error,
        "last_event_type": status.last_event_type,
        "last_event_id": status.last_event_id,
        "waiting": status.waiting,
    }


def lasted(start: datetime | None, end: datetime | None, now: float) -> float:
    """Seconds from start to end, or to now."""
    if start is None:
        return 0.0
    until = end.timestamp() if end else now
    return round(max(0.0, until - start.timestamp()), 3)


def percent(over: bool, done: int, known: int) -> int:
    """RT-EXN-10: 100 only when it is over."""
    if over:
        return 100
    return min(99, 100 * done // known) if known else 0
