"""Facts from outside: events of HTTP-only workers, call-backs of parked steps (RT-ING).

One append per request, stored or refused as a whole; nothing is evaluated here and no
row is written. A caller's own event id is its dedup key, never the event's id.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from msgspec import Raw, Struct, ValidationError
from msgspec.json import decode as decode_json
from msgspec.structs import replace

from noetl_worker.server.admission import Admission
from noetl_worker.server.bodies import CallbackBody, EventItem, id_text, object_or_empty
from noetl_worker.server.history import History
from noetl_worker.server.live import Live
from noetl_worker.server.ports import EdgeSettings, ServerPorts
from noetl_worker.server.rebuilt import event_of_view
from noetl_worker.server.shapes import moment, parsed
from state_builder.errors import (
    InvalidError,
    LimitExceededError,
    LostDataError,
    NotFoundError,
    RecordError,
    ReferenceMissingError,
    UnavailableError,
)
from state_builder.ids import event_id, event_position, shard_of
from state_builder.records import (
    JSON,
    NOTHING,
    RESERVED_TYPES,
    ContextReference,
    Event,
    Record,
    ResultEnvelope,
    ToolFailure,
    ToolOutcome,
    decode_append,
    decode_reference,
    encode_json,
    timestamp,
)
from state_builder.redact import mask, mask_error
from state_builder.report import callback_id

EVENTS_MAX: Final = 1000
ERROR_TEXT_MAX: Final = 2000
_TYPE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
CALLBACK_STATES: Final = (
    "succeeded",
    "failed",
    "failed_image_pull",
    "failed_oom",
    "failed_node_lost",
    "failed_timeout",
)
_STORES: Final = {"s3": "s3", "gs": "gcs", "noetl": "object", "file": "disk"}
_RESULT_TYPES: Final = frozenset(
    {"call.done", "call.error", "command.completed", "command.failed"}
)


class Ingested(Struct, kw_only=True):
    """RT-ING-7; a single event answers with its one id."""

    event_ids: list[str]


class CallbackAnswer(Struct, kw_only=True, omit_defaults=True):
    status: str
    event_id: str | None = None


class Ingest:
    """Takes facts and appends them."""

    def __init__(
        self,
        ports: ServerPorts,
        settings: EdgeSettings,
        live: Live,
        history: History,
        admission: Admission,
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._live = live
        self._history = history
        self._admission = admission

    async def take(
        self, execution_id: str, items: list[EventItem], worker_id: str
    ) -> Ingested:
        """Append facts of one execution as one record.

        Raises:
            InvalidError: an empty or reserved type, a result of another shape.
            NotFoundError: unknown execution.
            LimitExceededError, LogFullError, UnavailableError: not stored.
        """
        if not 1 <= len(items) <= EVENTS_MAX:
            raise InvalidError(f"events: give 1 to {EVENTS_MAX}, not {len(items)}")
        self._admission.check_fact()
        events = [self._event(item, worker_id) for item in items]
        # Unknown executions are refused here: nothing would ever read their events.
        await self._live.facts(execution_id)
        began = self._ports.clock.monotonic()
        key = id_text(items[0].event_id, "event_id") or self._ports.ids.mint()
        sequence = await self._append(execution_id, events, f"{execution_id}:ext:{key}")
        generation = await self._admission.generation()
        observer = self._ports.observer
        observer.time(
            "noetl_event_ingest_duration_seconds", self._ports.clock.monotonic() - began
        )
        for event in events:
            observer.count(
                "noetl_events_ingested_total",
                event_type=event.type if event.type in _RESULT_TYPES else "other",
                status="ok",
            )
        return Ingested(
            event_ids=[
                str(event_id(generation, sequence, index))
                for index in range(len(events))
            ]
        )

    async def call_back(
        self, execution_id: str, step: str, body: CallbackBody
    ) -> CallbackAnswer:
        """End a parked step from outside (RT-CBK-1).

        Raises:
            InvalidError: an unknown state, or a step with several open commands.
            UnavailableError: not stored, or nobody knows which command is meant.
        """
        if body.state not in CALLBACK_STATES:
            raise InvalidError(f"state must be one of {', '.join(CALLBACK_STATES)}")
        command_id = ""
        if not await self._over(execution_id):
            job = body.job_name or ""
            waiting = await self._live.parked_commands(execution_id, step, job)
            command_id = _meant(waiting, step, body.command_id or "")
        if not command_id:
            self._ports.observer.count(
                "noetl_container_callback_stale_total", state=body.state
            )
            return CallbackAnswer(status="accepted_stale")
        event = self._callback_event(step, command_id, body)
        job = body.job_uid or body.job_name or ""
        key = callback_id(execution_id, command_id, job)
        sequence = await self._append(execution_id, [event], key)
        self._ports.observer.count("noetl_container_callback_total", state=body.state)
        generation = await self._admission.generation()
        return CallbackAnswer(
            status="accepted_in_flight", event_id=str(event_id(generation, sequence, 0))
        )

    async def _over(self, execution_id: str) -> bool:
        """It ended, or nobody knows it: nothing waits there (TL-CTR-04)."""
        try:
            return (await self._live.status(execution_id, "check")).over
        except NotFoundError:
            return True

    async def command(self, event_id: str) -> tuple[str, Event]:
        """A ``command.issued`` and whose it is, from the log or else from its row.

        Raises NotFoundError, UnavailableError.
        """
        unknown = NotFoundError(f"command {event_id[:40]} is not known")
        try:
            place = int(id_text(event_id, "event_id"))
        except InvalidError:
            raise unknown from None
        found = await self._logged(place)
        if found is None:
            view = await self._ports.rows.event(str(place))
            if view is not None:
                found = view.execution_id, event_of_view(view)
        if found is None or found[1].type != "command.issued":
            raise unknown
        return found[0], await self._whole(found[1])

    async def _whole(self, event: Event) -> Event:
        """With its context, where that is stored elsewhere and still there."""
        if b'"__context_ref__"' not in bytes(event.context):
            return event
        try:
            stand_in = decode_json(event.context, type=ContextReference)
        except ValidationError:
            # Somewhere in a context of its own.
            return event
        reference = decode_reference(stand_in.reference)
        try:
            data = await self._ports.values.fetch(reference)
        except (ReferenceMissingError, LimitExceededError, LostDataError):
            # Of a command long over: its reference still says what it had.
            return event
        return replace(event, context=Raw(data))

    async def _logged(self, place: int) -> tuple[str, Event] | None:
        """The event of an id, while the log still has it."""
        generation, sequence, index = event_position(place)
        if generation != await self._admission.generation():
            return None
        message = await self._ports.log.read(sequence)
        if message is None or message.kind == "lease":
            return None
        try:
            records = decode_append(message.data).records
        except RecordError:
            return None
        events = [(one.execution_id, event) for one in records for event in one.events]
        return events[index] if index < len(events) else None

    async def is_open(self, execution_id: str, step: str, command_id: str) -> bool:
        """Whether a command has no result yet. Raises UnavailableError."""
        opened = await self._live.open_commands(execution_id, step)
        if opened is not None:
            return command_id in opened
        return not (await self._live.status(execution_id, "check")).over

    def _callback_event(self, step: str, command_id: str, body: CallbackBody) -> Event:
        failed = body.state != "succeeded"
        data: dict[str, JSON] = {
            "terminal_state": body.state,
            "job_name": body.job_name,
            "job_uid": body.job_uid,
            "completed_at": body.completed_at,
            "exit_code": body.exit_code,
            "reason": body.reason,
            "stdout_uri": body.stdout_uri,
            "stderr_uri": body.stderr_uri,
        }
        context: dict[str, JSON] = {**data, "data": dict(data)}
        text = ""
        if failed:
            text = mask_error(body.reason or f"job ended as {body.state}")
            text = text[:ERROR_TEXT_MAX]
            context["failed"] = True
            context["error"] = {"kind": "process", "message": text, "code": body.state}
        word = "FAILED" if failed else "COMPLETED"
        return Event(
            type="call.done",
            at=timestamp(self._ports.clock.now()),
            step=step,
            status=word,
            command_id=command_id,
            error=text,
            result=Raw(encode_json({"status": word, "context": context})),
        )

    async def _append(
        self, execution_id: str, events: list[Event], message_id: str
    ) -> int:
        appended = await self._ports.log.try_append(
            shard_of(execution_id, self._settings.shard_count),
            [Record(execution_id=execution_id, events=events)],
            message_id=message_id,
            timeout_s=self._settings.server.append_s,
        )
        self._history.note_append(execution_id, appended.sequence)
        return appended.sequence

    def _event(self, item: EventItem, worker_id: str) -> Event:
        event_type = (item.event_type or item.name or "").strip()
        if not _TYPE.fullmatch(event_type):
            raise InvalidError("event_type: give 1 to 100 letters, digits and . _ : -")
        if event_type in RESERVED_TYPES:
            raise InvalidError(
                f"event type '{event_type}' is the server's and owner's own"
            )
        payload = item.payload if item.payload is not None else item.context
        given = object_or_empty(item.meta, "meta")
        meta: dict[str, JSON] = dict(given)
        if not item.actionable:
            meta["actionable"] = False
        if not item.informative:
            meta["informative"] = False
        status = (item.status or _status_by_type(event_type)).strip()
        at = parsed(item.created_at)
        answers = event_type in _RESULT_TYPES
        command_id = item.command_id or _text_of(payload, "command_id")
        return Event(
            type=event_type,
            at=moment(at) or timestamp(self._ports.clock.now()),
            step=item.step or item.node_name or "",
            status=status,
            command_id=command_id or _text_of(given, "command_id"),
            worker_id=item.worker_id or worker_id,
            error=mask_error(_error_text(item, payload))[:ERROR_TEXT_MAX],
            context=NOTHING if answers else _context(payload),
            result=_result(item, payload, status) if answers else _own_result(item),
            meta=Raw(encode_json(mask(meta))) if meta else NOTHING,
        )


def _status_by_type(event_type: str) -> str:
    """RT-ING-2."""
    if any(word in event_type for word in ("done", "exit", "completed")):
        return "COMPLETED"
    if "error" in event_type or "failed" in event_type:
        return "FAILED"
    return "RUNNING"


def _text_of(value: JSON, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def _error_text(item: EventItem, payload: JSON) -> str:
    if item.error:
        return item.error
    found = payload.get("error") if isinstance(payload, dict) else None
    if isinstance(found, dict):
        found = found.get("message")
    return found if isinstance(found, str) else ""


def _context(payload: JSON) -> Raw:
    if payload is None:
        return NOTHING
    wrapped: JSON = payload if isinstance(payload, dict) else {"value": payload}
    return Raw(encode_json(mask(wrapped)))


def _own_result(item: EventItem) -> Raw:
    """A result of an informative event, as its sender shaped it (RT-ING-3)."""
    if item.result is None:
        return NOTHING
    return _checked_envelope(item.result)


def _checked_envelope(value: JSON) -> Raw:
    if not isinstance(value, dict) or not isinstance(value.get("status"), str):
        raise InvalidError("result must be an object with a text 'status'")
    extra = set(value) - {"status", "context", "reference"}
    if extra:
        raise InvalidError(f"result may not have {', '.join(sorted(extra))}")
    context = value.get("context")
    if context is not None and not isinstance(context, dict):
        value = {**value, "context": {"value": context}}
    return Raw(encode_json(value))


def _result(item: EventItem, payload: JSON, status: str) -> Raw:
    """The envelope of an answer: what the tool gave, as later steps read it."""
    if isinstance(item.result, dict) and set(item.result) <= {
        "status",
        "context",
        "reference",
    }:
        return _checked_envelope({"status": status, **item.result})
    value = payload if item.result is None else item.result
    if isinstance(value, dict) and "result" in value:
        value = value["result"]
    text = _error_text(item, payload)
    failed = status.upper() in ("FAILED", "ERROR")
    failure = ToolFailure(kind="unknown", message=text or status) if failed else None
    envelope = ResultEnvelope(
        status=status,
        context=ToolOutcome(data=Raw(encode_json(value)), failed=failed, error=failure),
    )
    if item.result_kind in ("ref", "refs") and item.result_uri:
        envelope.reference = Raw(encode_json(_reference(item.result_uri)))
    return Raw(encode_json(envelope))


def _reference(uri: str) -> dict[str, JSON]:
    """RT-EVT-15, its tier guessed from the scheme."""
    store = _STORES.get(urlsplit(uri).scheme, "object")
    return {"kind": "result_ref", "ref": uri, "store": store, "scope": "execution"}


def _meant(opened: list[str] | None, step: str, command_id: str) -> str:
    """The command a call-back answers; empty when nobody waits for it any more.

    Without an owner's word a named command is believed: the fold ignores an answer that
    comes too late, while a refused call-back would park its step for ever.
    """
    if opened is None:
        if not command_id:
            raise UnavailableError(
                f"nobody can say right now which command of step '{step}' is open: "
                "name it by command_id, or call back again"
            )
        return command_id
    if command_id:
        return command_id if command_id in opened else ""
    if len(opened) > 1:
        raise InvalidError(
            f"step '{step}' has {len(opened)} open commands: name one by command_id"
        )
    return opened[0] if opened else ""
