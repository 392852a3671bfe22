"""``/api/events``, ``/api/commands`` and call-backs (RT-ING, RT-CMD-1, RT-CBK)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath, JSONBody
from msgspec import Struct
from msgspec.json import decode as decode_json

from noetl_worker.server.answers import refusal
from noetl_worker.server.bodies import (
    CallbackBody,
    EventBatchBody,
    EventBody,
    Id,
    Value,
    id_text,
)
from noetl_worker.server.edge import HttpRequest, edge_of
from noetl_worker.server.guards import internal
from noetl_worker.server.ingest import CallbackAnswer
from state_builder.errors import InvalidError
from state_builder.records import Event


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


class ClaimBody(Struct, kw_only=True):
    """Who asks for a command (RT-CMD-2)."""

    worker_id: str
    locality: Value = None


@get("/api/commands/{event_id:str}")
async def command(request: HttpRequest, event_id: FromPath[str]) -> dict[str, Any]:
    """A command as its worker was given it, for diagnosis (RT-CMD-1)."""
    execution_id, event = await edge_of(request).ingest.command(event_id)
    return _command(event_id, execution_id, event)


@post(
    "/api/commands/{event_id:str}/claim",
    status_code=HTTPStatus.OK,
)
async def claim(
    request: HttpRequest, event_id: FromPath[str], data: JSONBody[ClaimBody]
) -> Response[Any]:
    """The same, unless it is finished. Reserves nothing: the pool's consumer alone
    gives a command to one worker (RT-CMD-2)."""
    del data
    ingest = edge_of(request).ingest
    execution_id, event = await ingest.command(event_id)
    if await ingest.is_open(execution_id, event.step, event.command_id):
        return Response(_command(event_id, execution_id, event))
    told = f"command {event.command_id} is finished, or its execution has ended"
    return refusal(HTTPStatus.GONE, told, code="terminal")


def _command(event_id: str, execution_id: str, event: Event) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "execution_id": execution_id,
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


ROUTES = (take_event, take_events, command, claim, container_callback)
