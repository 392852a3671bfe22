"""``/api/events``, ``/api/commands`` and call-backs (RT-ING, RT-CMD-1, RT-CBK)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from litestar import get, post
from litestar.params import FromPath, JSONBody
from msgspec.json import decode as decode_json

from noetl_worker.server.bodies import (
    CallbackBody,
    EventBatchBody,
    EventBody,
    Id,
    id_text,
)
from noetl_worker.server.edge import HttpRequest, edge_of
from noetl_worker.server.guards import internal
from noetl_worker.server.ingest import CallbackAnswer
from state_builder.errors import InvalidError, NotFoundError, RecordError
from state_builder.ids import event_position
from state_builder.records import decode_append


@post("/api/events", status_code=HTTPStatus.OK)
async def take_event(request: HttpRequest, data: JSONBody[EventBody]) -> dict[str, Any]:
    """Append one fact of an execution."""
    taken = await edge_of(request).ingest.take(
        _execution(data.execution_id), [data], data.worker_id or ""
    )
    return {"status": "ok", "event_id": taken.event_ids[0], "commands_generated": 0}


@post("/api/events/batch", status_code=HTTPStatus.OK)
async def take_events(
    request: HttpRequest, data: JSONBody[EventBatchBody]
) -> dict[str, Any]:
    """Append facts of an execution, all or none of them."""
    taken = await edge_of(request).ingest.take(
        _execution(data.execution_id), data.events, data.worker_id or ""
    )
    return {"status": "ok", "event_ids": taken.event_ids, "commands_generated": 0}


@get("/api/commands/{event_id:str}")
async def command(request: HttpRequest, event_id: FromPath[str]) -> dict[str, Any]:
    """A command as its worker was given it; from the log, for diagnosis."""
    position = int(id_text(event_id, "event_id") or 0)
    _, sequence, index = event_position(position)
    message = await edge_of(request).ports.log.read(sequence)
    unknown = NotFoundError(f"command {event_id} is not in the log")
    if message is None or message.kind == "lease":
        raise unknown
    try:
        records = decode_append(message.data).records
    except RecordError:
        raise unknown from None
    events = [(record, event) for record in records for event in record.events]
    if index >= len(events) or events[index][1].type != "command.issued":
        raise unknown
    record, event = events[index]
    return {
        "event_id": event_id,
        "execution_id": record.execution_id,
        "command_id": event.command_id,
        "node_id": event.step,
        "node_name": event.step,
        "action": event.kind,
        "context": decode_json(event.context) if event.context else {},
        "meta": decode_json(event.meta) if event.meta else {},
        "status": event.status,
    }


@post(
    "/api/internal/container-callback/{execution_id:str}/{step:str}",
    status_code=HTTPStatus.ACCEPTED,
    guards=[internal],
)
async def container_callback(
    request: HttpRequest,
    execution_id: FromPath[str],
    step: FromPath[str],
    data: JSONBody[CallbackBody],
) -> CallbackAnswer:
    """End a parked step."""
    return await edge_of(request).ingest.call_back(
        id_text(execution_id, "execution id"), step, data
    )


def _execution(value: Id) -> str:
    found = id_text(value, "execution_id")
    if not found:
        raise InvalidError("execution_id is required")
    return found


ROUTES = (take_event, take_events, command, container_callback)
