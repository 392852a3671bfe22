"""What is in the log: appends, records, events, and their wire form.

One message is one append: a list of records, each one or more events of one execution
(RT-NATS-5). Payloads (``context``, ``result``, ``meta``) stay raw JSON until somebody
needs them: decoding the head of a message costs a tenth of decoding all of it.
Decoding is total: a valid append, or one :class:`RecordError` that names the field.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import (
    UNSET,
    DecodeError,
    Raw,
    Struct,
    UnsetType,
    ValidationError,
    field,
)
from msgspec.json import Decoder, Encoder

from state_builder.errors import RecordError
from state_builder.ids import EVENTS_PER_APPEND_MAX

if TYPE_CHECKING:
    JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
else:
    # The codec takes no recursive alias, and any decoded JSON is one of these.
    JSON = Any

NOTHING: Final = Raw(b"")
"""The payload of an event that has none; absent on the wire."""

FORMAT_VERSION: Final = 1

_encoder = Encoder(enc_hook=None)
encode_json = _encoder.encode


def timestamp(unix_s: float) -> str:
    """Unix seconds as RFC 3339 UTC with microseconds (RT-API-5)."""
    second, micros = divmod(round(unix_s * 1_000_000), 1_000_000)
    return f"{_second_text(second)}.{micros:06}Z"


@lru_cache(maxsize=256)
def _second_text(second: int) -> str:
    # Thousands of events share a second; writing it out is most of a timestamp's cost.
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One fact or decision, short as on the wire; its id is its place in the log.

    Attributes:
        type: RT-EVT §3.2.
        at: emitter's clock, RFC 3339 UTC; never decides order.
        step: step name, empty for events of the whole execution.
        visit: the step's generation, from 1.
        iteration: loop index as text, ``f<frame>r<row>`` or ``f<frame>``, or empty.
        kind: tool kind of a command.
        status: upper-case outcome, or the tool's own word on ``command.completed``.
        attempt: which issue of the command, from 1; 0 where it means nothing.
        delivery: how often the broker had handed the command out; a hint.
        pending: the command parked its step, an outside call-back ends it.
        task: a child's name in its pipeline, or the job a parked command waits for.
        cause: id of the event that led to this one, decimal; a record's ``cause``
            holds where an event names none.
        child: execution id of the child a ``playbook`` command starts.
        timer, due: a timer's name, and when it fires in Unix seconds.
        code: machine-readable reason of an error.
        error: text for people, at most 2,000 characters.
        context: inputs of what is described (JSON object).
        result: envelope ``{status, context?, reference?}`` (RT-ING-3).
        meta: anything else (JSON object).
    """

    type: str
    at: str = ""
    step: str = ""
    visit: int = 0
    iteration: str = ""
    kind: str = ""
    status: str = ""
    command_id: str = ""
    attempt: int = 0
    delivery: int = 0
    pending: bool = False
    worker_id: str = ""
    pool: str = ""
    cause: str = ""
    child: str = ""
    task: str = ""
    timer: str = ""
    due: float = 0.0
    code: str = ""
    error: str = ""
    context: Raw = NOTHING
    result: Raw = NOTHING
    meta: Raw = NOTHING


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Events of one execution that are stored or refused together, in order."""

    execution_id: str
    events: list[Event]
    cause: str = ""


class Append(Struct, frozen=True, kw_only=True, gc=False):
    """One message of the log."""

    records: list[Record]
    v: int = FORMAT_VERSION


class Lease(Struct, frozen=True, kw_only=True):
    """What a lease message says; its sequence in the log is the epoch."""

    holder: str
    since: str


_append_decoder = Decoder(Append)
_lease_decoder = Decoder(Lease)


def encode_append(records: list[Record]) -> bytes:
    """The bytes of one message; 1 to 1,000 events in all (RT-NATS-5)."""
    return _encoder.encode(Append(records=records))


def decode_append(data: bytes) -> Append:
    """A valid append, or :class:`RecordError`.

    The payloads of the events are views that keep ``data`` alive: copy what is kept.
    """
    try:
        append = _append_decoder.decode(data)
    except (ValidationError, DecodeError) as error:
        raise RecordError(f"not an append: {error}") from error
    if append.v != FORMAT_VERSION:
        raise RecordError(
            f"append of format version {append.v}, this build reads {FORMAT_VERSION}"
        )
    events = 0
    for record in append.records:
        if not record.events:
            raise RecordError("append with a record without events")
        events += len(record.events)
    if not events:
        raise RecordError("append without records")
    if events > EVENTS_PER_APPEND_MAX:
        raise RecordError(f"more than {EVENTS_PER_APPEND_MAX} events in one append")
    return append


def encode_lease(lease: Lease) -> bytes:
    """The bytes of a lease message."""
    return _encoder.encode(lease)


def decode_lease(data: bytes) -> Lease:
    """A valid lease, or :class:`RecordError`."""
    try:
        return _lease_decoder.decode(data)
    except (ValidationError, DecodeError) as error:
        raise RecordError(f"not a lease: {error}") from error


TERMINAL_STATUS: Final[dict[str, str]] = {
    "playbook.completed": "COMPLETED",
    "playbook_completed": "COMPLETED",
    "execution.completed": "COMPLETED",
    "workflow.completed": "COMPLETED",
    "playbook.failed": "FAILED",
    "playbook_failed": "FAILED",
    "execution.failed": "FAILED",
    "workflow.failed": "FAILED",
    "playbook_cancelled": "CANCELLED",
    "playbook.cancelled": "CANCELLED",
    "execution.cancelled": "CANCELLED",
}
"""Every spelling of a terminal event and the status it means (RT-EVT-1)."""

GENESIS: Final = "playbook_started"

RESERVED_TYPES: Final[frozenset[str]] = frozenset(TERMINAL_STATUS) | {
    GENESIS,
    "command.issued",
    "step.enter",
    "step.exit",
    "step.skipped",
    "step_failed",
    "child.started",
    "call.settled",
    "ctx.updated",
    "timer.set",
    "timer.fired",
    "playbook.cancel_requested",
    "playbook.finalize_requested",
}
"""Types only owner and server append; refused from outside (RT-ING-6)."""


class CallMode(Struct, kw_only=True, omit_defaults=True, gc=False):
    """How a waiting caller wants its child's end told (PB-603); ``step`` is its own."""

    step: str = ""
    tolerant: bool = False
    result_step: str = ""
    task: str = ""


class ChildRequest(Struct, kw_only=True, omit_defaults=True):
    """``child.requested.context``: the playbook a task calls, all rendered (PB-185).

    Attributes:
        version: 0 is the latest.
        waits: the task waits for the child's end.
        tolerant, result_step: as of :class:`CallMode`.
    """

    path: str = ""
    catalog_id: str = ""
    version: int = 0
    data: Raw = Raw(b"{}")
    waits: bool = True
    tolerant: bool = False
    result_step: str = ""


class Genesis(Struct, kw_only=True, omit_defaults=True, gc=False):
    """``playbook_started.context``: all an execution is born with.

    Attributes:
        root: the execution its tree began with; empty in that execution itself.
        workload_ref, payload_ref: stand for a large one that is stored (RT-LIM-2).
    """

    catalog_id: str
    path: str
    version: int
    workload: Raw = NOTHING
    pool: str = "shared"
    parent_execution_id: str = ""
    parent_command_id: str = ""
    depth: int = 0
    root: str = ""
    call: CallMode | None = None
    trace: Raw = NOTHING
    payload: Raw = NOTHING
    env: Raw = NOTHING
    workload_ref: Raw = NOTHING
    payload_ref: Raw = NOTHING


class CommandContext(Struct, kw_only=True, omit_defaults=True, gc=False):
    """``command.issued.context``: with the blobs it names, enough to run the tool.

    Attributes:
        tool_config: the tool as the author wrote it, normalised, unrendered:
            ``{"kind": …, …}`` or ``{"kind": "task_sequence", "tasks": [{"label": …,
            "kind": …, …}, …]}``.
        args: the step's own ``input`` (templates), under the tool's.
        render_context: the slice of names the texts need; see
            :class:`CommandNames`.
        timeout_s: the tool's time to run where it names none itself.
        output: the step's ``output`` (PB-342).
        inline_bytes_max: a larger result is stored outside the log; 0 = the worker's
            own budget.
    """

    tool_config: Raw
    args: Raw = NOTHING
    render_context: Raw = NOTHING
    timeout_s: float = 0.0
    retry: Raw = NOTHING
    output: Raw = NOTHING
    inline_bytes_max: int = 0


class ContextReference(Struct, kw_only=True, omit_defaults=True):
    """``command.issued.context`` of a command whose own is stored (RT-NATS-50)."""

    ref: str = field(name="__context_ref__")
    bytes: int = field(default=0, name="__context_bytes__")
    reference: Raw = NOTHING


class CommandNames(Struct, kw_only=True, omit_defaults=True, gc=False):
    """``render_context``: the rows of PB-450 a worker needs, as raw JSON.

    Attributes:
        args, overlay: what the token brought: arc ``args`` and arc ``set``.
        ctx: execution variables.
        steps: step name → ``{"form": …, "value": …}``, see
            :class:`state_builder.template.StepResult`.
        workload: the recorded workload, or the keys of it that are needed.
        workload_ref: stands for all of it where it is stored outside the log.
        iteration: ``{"name": iterator, "value": element, "index": i, "total": n}``.
        event: ``{"name", "type"}`` of the completion that led here.
        weak: ``result``/``error`` of that step, ``job`` parts, ``path`` … (PB-462).
    """

    args: Raw = NOTHING
    overlay: Raw = NOTHING
    ctx: Raw = NOTHING
    steps: Raw = NOTHING
    workload: Raw = NOTHING
    workload_ref: Raw = NOTHING
    iteration: Raw = NOTHING
    event: Raw = NOTHING
    weak: Raw = NOTHING


class ToolFailure(Struct, kw_only=True, omit_defaults=True, gc=False):
    """The error object of PB-100: what policies, arcs and people see."""

    kind: str
    message: str
    code: str = ""
    retryable: bool = False
    status_code: int | None = None
    retry_after: float | None = None
    source: str = ""


class ToolOutcome(Struct, kw_only=True, omit_defaults=True, gc=False):
    """What running a command gave: ``result.context`` of ``call.done``/``call.error``.

    Attributes:
        form: how later templates read ``data``: ``plain``, ``http`` or ``pipeline``.
        data: any JSON.
        failed: the command failed; without it an ``error`` is one a policy absorbed.
        error: set on failure, and where a policy absorbed one.
        updates: execution variables set by the tool, in order of setting
            (``{"x": …, "a.b": …}``).
        helpers: ``http``, ``pg``, ``py``, ``exit_code``, ``stdout`` … of PB-100.
        reference: stands for the data where the worker has stored them; it travels
            beside the outcome, not in it.
        runs: how often the tool ran (retries included).
        duration_ms: all runs together.
    """

    form: str = "plain"
    failed: bool = False
    data: Raw = NOTHING
    error: ToolFailure | None = None
    updates: Raw = NOTHING
    helpers: Raw = NOTHING
    reference: Raw = NOTHING
    runs: int = 1
    duration_ms: float = 0.0


class ReferenceMeta(Struct, kw_only=True, omit_defaults=True):
    """What is known of stored bytes; ``sha256`` in hexadecimal.

    Attributes:
        value_bytes: of the value as JSON, where it is stored in another form.
    """

    bytes: int = 0
    value_bytes: int = 0
    sha256: str = ""
    media_type: str = "application/json"
    content_type: str = ""


class Reference(Struct, kw_only=True):
    """Stands for a value that is stored outside the log (RT-EVT-15, TL-RR-02).

    Attributes:
        ref: the ``noetl://`` name; ``uri`` says the same.
        store: the tier that holds it.
        scope: ``step``, ``execution``, ``workflow`` or ``permanent`` (TL-RR-54).
        expires_at: RFC 3339, empty when its scope decides.
        extracted: the summary (TL-RR-20); unset when there is none.
        selected: fields of ``output_select``, by name.
        preview: the beginning of the value as text.
    """

    kind: str = "result_ref"
    ref: str
    uri: str = ""
    store: str = "object"
    scope: str = "execution"
    meta: ReferenceMeta = field(default_factory=ReferenceMeta)
    expires_at: str = ""
    extracted: JSON | UnsetType = UNSET
    selected: dict[str, JSON] = field(default_factory=dict)
    preview: str = ""


_reference_decoder = Decoder(Reference)


def decode_reference(data: bytes | Raw) -> Reference:
    """A valid reference, or :class:`RecordError`."""
    try:
        return _reference_decoder.decode(data)
    except (ValidationError, DecodeError) as error:
        raise RecordError(f"not a reference: {error}") from error


class ResultEnvelope(Struct, kw_only=True, omit_defaults=True, gc=False):
    """``result`` of an event (RT-ING-3)."""

    status: str
    context: ToolOutcome | None = None
    reference: Raw = NOTHING


outcome_envelope_decoder = Decoder(ResultEnvelope)
