"""Columns of an event row that are more than a copy: status, meta, envelope, time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from msgspec import DecodeError, Raw, Struct, ValidationError
from msgspec.json import Decoder

from state_builder.records import (
    GENESIS,
    NOTHING,
    TERMINAL_STATUS,
    Event,
    Genesis,
    encode_json,
)
from state_builder.rows import Micros, micros_of

IGNORED: Final = "IGNORED"

_STATUS_BY_TYPE: Final[dict[str, str]] = {
    GENESIS: "STARTED",
    "step.enter": "ENTERED",
    "step.exit": "COMPLETED",
    "step.skipped": "SKIPPED",
    "step_failed": "FAILED",
    "command.issued": "PENDING",
    "command.claimed": "RUNNING",
    "command.heartbeat": "RUNNING",
    "command.released": "PENDING",
    "command.started": "STARTED",
    "call.done": "COMPLETED",
    "call.error": "FAILED",
    "command.completed": "success",
    "command.failed": "FAILED",
    "ctx.updated": "CONTEXT",
    "timer.set": "PENDING",
    "timer.fired": "COMPLETED",
    "playbook.cancel_requested": "PENDING",
    "playbook.finalize_requested": "PENDING",
    **TERMINAL_STATUS,
}
"""RT-EVT §3.2, for events that name no status."""

MAX_ATTEMPTS: Final = 3
"""Of a command whose meta names none (RT-EVT §3.2)."""

ERROR_TEXT_MAX: Final = 2000


class _OutcomeHead(Struct, gc=False):
    """The parts of a tool's outcome that become columns."""

    data: Raw = NOTHING
    duration_ms: Raw = NOTHING


class Envelope(Struct, forbid_unknown_fields=True):
    """A result as RT-ING-3 allows it."""

    status: str
    context: _OutcomeHead | None = None
    reference: Raw = NOTHING

    def duration(self) -> float | None:
        """Seconds the tool ran, where it says so."""
        if self.context is None or not self.context.duration_ms:
            return None
        try:
            return float(bytes(self.context.duration_ms)) / 1000.0
        except ValueError:
            return None

    def output(self) -> bytes | None:
        """The final value, or the reference that stands for it."""
        if self.context is not None and self.context.data:
            return bytes(self.context.data)
        return bytes(self.reference) or None


class _Parts(Struct):
    """What an event's own meta may say that becomes columns."""

    stage_id: str | None = None
    frame_id: str | None = None
    max_attempts: int = MAX_ATTEMPTS


class _HotMeta(Struct, omit_defaults=True):
    """Fields an event carries beside its meta, under their names in rows."""

    command_id: str = ""
    command_event_id: str = ""
    step: str = ""
    tool_kind: str = ""
    attempt: int = 0
    delivery: int = 0
    visit: int = 0
    iteration_index: int | None = None
    iteration: str = ""
    worker_id: str = ""
    pool: str = ""
    pending_callback: bool = False
    child_execution_id: str = ""
    timer: str = ""
    due_at: float | None = None
    code: str = ""
    ignored: str = ""


_envelope = Decoder(Envelope)
_parts = Decoder(_Parts)
_PARTS: Final = (b'"stage_id"', b'"frame_id"', b'"max_attempts"')
_NO_PARTS: Final = (None, None, MAX_ATTEMPTS)
_genesis = Decoder(Genesis)


def status_of(event: Event) -> str:
    """The row's status: the event's own, else by its type (RT-ING-2)."""
    if event.status:
        if event.type == "command.completed":
            return event.status
        return event.status.upper()
    known = _STATUS_BY_TYPE.get(event.type)
    if known is not None:
        return known
    if any(word in event.type for word in ("done", "exit", "completed")):
        return "COMPLETED"
    if "error" in event.type or "failed" in event.type:
        return "FAILED"
    return "RUNNING"


def envelope_of(event: Event) -> Envelope | None:
    """The event's result, checked, with what becomes columns.

    Raises:
        ValueError: not an envelope; says what it lacks.
    """
    try:
        return _envelope.decode(event.result) if event.result else None
    except (ValidationError, DecodeError) as error:
        raise ValueError(
            f"result is not {{status, context?, reference?}}: {error}"
        ) from error


def genesis_of(event: Event) -> Genesis:
    """What an execution is born with.

    Raises:
        ValueError: the context is not a genesis; says which field is wrong.
    """
    try:
        return _genesis.decode(event.context or b"{}")
    except (ValidationError, DecodeError) as error:
        raise ValueError(f"{GENESIS} context: {error}") from error


def time_of(at: str) -> Micros | None:
    """The emitter's time; None where that is absent or unreadable."""
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        return None
    return micros_of(found if found.tzinfo is not None else found.replace(tzinfo=UTC))


def parts_of(meta: bytes) -> tuple[str | None, str | None, int]:
    """Stage, frame and most attempts, where the event's own meta names them."""
    if not meta or not any(name in meta for name in _PARTS):
        return _NO_PARTS
    try:
        parts = _parts.decode(meta)
    except (ValidationError, DecodeError):
        # Meta is anybody's: what has other types there is kept as it is, in meta.
        return _NO_PARTS
    return parts.stage_id, parts.frame_id, parts.max_attempts


def meta_of(event: Event, own: bytes, issued: int, ignored: str) -> bytes | None:
    """The event's ``own`` meta and its other fields in one object.

    ``issued`` is the id of the ``command.issued`` it belongs to, 0 when unknown; a
    command names step and tool as well. Own fields win over those of the same name.
    """
    is_command = event.type == "command.issued"
    number = event.iteration.isdecimal()
    hot = encode_json(
        _HotMeta(
            event.command_id,
            str(issued) if issued else "",
            event.step if is_command else "",
            event.kind if is_command else "",
            event.attempt,
            event.delivery,
            event.visit,
            int(event.iteration) if number else None,
            "" if number else event.iteration,
            event.worker_id,
            event.pool,
            event.pending,
            event.child,
            event.timer,
            event.due or None,
            event.code,
            ignored,
        )
    )
    if not own:
        return hot if hot != b"{}" else None
    if not own.startswith(b"{"):
        own = b'{"value":' + own + b"}"
    if hot == b"{}":
        return own
    # The later of two equal names is the one jsonb keeps.
    inner = own[1:-1].strip()
    return b"{" + inner + (b"," if inner else b"") + hot[1:]


def iteration_index(event: Event) -> int | None:
    """The loop index, where the iteration is one."""
    return int(event.iteration) if event.iteration.isdecimal() else None
