"""``/api/execute`` and ``/api/executions/…`` (RT-EXE, RT-EXN)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from litestar import Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody
from litestar.response import Stream

from noetl_worker.server.bodies import (
    BatchBody,
    CancelBody,
    CleanupBody,
    ExecuteBody,
    FinalizeBody,
    RerunBody,
    TraceBody,
    known_id,
)
from noetl_worker.server.edge import Edge, HttpRequest, edge_of
from noetl_worker.server.ending import Cancelled, CleanedUp, Finalized
from noetl_worker.server.executions import (
    DetailAnswer,
    EventsAnswer,
    list_filter,
    page_of,
)
from noetl_worker.server.shapes import ExecutionAnswer, status_answer
from noetl_worker.server.starting import BatchAnswer, Started
from state_builder.errors import InvalidError

EVENT_STREAM = "text/event-stream"
MINUTES_MAX = 5_256_000
"""Ten years."""


@post("/api/execute", status_code=HTTPStatus.OK)
async def execute(request: HttpRequest, data: JSONBody[ExecuteBody]) -> Started:
    """Start an execution."""
    return await edge_of(request).starter.start(data, _trace(request))


@post("/api/execute/batch", status_code=HTTPStatus.OK)
async def execute_batch(request: HttpRequest, data: JSONBody[BatchBody]) -> BatchAnswer:
    """Start up to a thousand executions; each has its own outcome."""
    return await edge_of(request).starter.start_batch(data.executions)


@get("/api/executions")
async def list_executions(request: HttpRequest) -> list[ExecutionAnswer]:
    """Executions, newest first."""
    wanted = list_filter(dict(request.query_params))
    return await edge_of(request).executions.listed(wanted)


@post("/api/executions/cleanup", status_code=HTTPStatus.OK)
async def cleanup(
    request: HttpRequest, data: JSONBody[CleanupBody | None] = None
) -> CleanedUp:
    """Cancel executions that stand still."""
    body = data or CleanupBody()
    if not 0 <= body.older_than_minutes <= MINUTES_MAX:
        raise InvalidError(f"older_than_minutes must be 0 to {MINUTES_MAX:,}")
    return await edge_of(request).ending.clean_up(
        body.older_than_minutes * 60, body.dry_run
    )


@get("/api/executions/{execution_id:str}")
async def detail(request: HttpRequest, execution_id: FromPath[str]) -> DetailAnswer:
    """One execution with a page of its events."""
    query = dict(request.query_params)
    include = query.get("include_events", "true").lower() not in ("false", "0", "no")
    return await edge_of(request).executions.detail(
        known_id(execution_id), page_of(query), include
    )


@get(
    "/api/executions/{execution_id:str}/events",
    responses={HTTPStatus.OK: ResponseSpec(EventsAnswer, generate_examples=False)},
)
async def events(request: HttpRequest, execution_id: FromPath[str]) -> Response[Any]:
    """A page of events, newest first; or a live stream where one is accepted."""
    if EVENT_STREAM in request.headers.get("accept", ""):
        return await _stream(request, execution_id)
    page = page_of(dict(request.query_params))
    found = await edge_of(request).executions.events(known_id(execution_id), page)
    return Response(found)


@get("/api/executions/{execution_id:str}/stream")
async def stream(request: HttpRequest, execution_id: FromPath[str]) -> Stream:
    """Events as they happen (server-sent events); resumes after ``Last-Event-ID``.

    ``?types=step.enter,step.exit`` tells those and the terminal, ``?types=terminal``
    the terminal alone.
    """
    return await _stream(request, execution_id)


@get("/api/executions/{execution_id:str}/status")
async def status(request: HttpRequest, execution_id: FromPath[str]) -> dict[str, Any]:
    """Where the execution stands."""
    edge = edge_of(request)
    found = await edge.live.status(known_id(execution_id))
    return status_answer(found, edge.ports.clock.now())


@get("/api/executions/{execution_id:str}/cancellation-check")
async def cancellation_check(
    request: HttpRequest, execution_id: FromPath[str]
) -> dict[str, Any]:
    """Whether a worker should stop what it does for an execution."""
    found = await edge_of(request).live.status(known_id(execution_id), "check")
    cancelled = found.status == "CANCELLED"
    return {
        "execution_id": found.execution_id,
        "is_cancelled": cancelled,
        "cancelled": cancelled,
        "status": found.status,
        "completed": found.over,
        "failed": found.status == "FAILED",
    }


@post(
    [
        "/api/executions/{execution_id:str}/cancel",
        "/api/executions/{execution_id:str}/stop",
    ],
    status_code=HTTPStatus.OK,
)
async def cancel(
    request: HttpRequest,
    execution_id: FromPath[str],
    data: JSONBody[CancelBody | None] = None,
) -> Cancelled:
    """Ask for the end of an execution and of those below it."""
    body = data or CancelBody()
    return await edge_of(request).ending.cancel(
        known_id(execution_id), body.reason or "", body.cascade
    )


@post("/api/executions/{execution_id:str}/finalize", status_code=HTTPStatus.OK)
async def finalize(
    request: HttpRequest,
    execution_id: FromPath[str],
    data: JSONBody[FinalizeBody | None] = None,
) -> Response[Finalized]:
    """End an execution that is stuck, with a status of the operator's choice."""
    body = data or FinalizeBody()
    found = await edge_of(request).ending.finalize(
        known_id(execution_id), body.status or "", body.error or "", body.reason or ""
    )
    status_code = HTTPStatus.OK if found.settled else HTTPStatus.ACCEPTED
    return Response(found, status_code=status_code)


@post("/api/executions/{execution_id:str}/rerun", status_code=HTTPStatus.OK)
async def rerun(
    request: HttpRequest,
    execution_id: FromPath[str],
    data: JSONBody[RerunBody | None] = None,
) -> Started:
    """Run the same playbook version again."""
    edge = edge_of(request)
    body = await edge.executions.rerun(known_id(execution_id), data or RerunBody())
    return await edge.starter.start(body, _trace(request))


async def _stream(request: HttpRequest, execution_id: str) -> Stream:
    edge: Edge = edge_of(request)
    known = known_id(execution_id)
    anchor = request.headers.get("last-event-id", "") or request.query_params.get(
        "last_event_id", request.query_params.get("since_event_id", "")
    )
    after = int(anchor) if anchor.isdecimal() and anchor.isascii() else 0
    if await edge.streams.is_over(known, after):
        # Told so, a browser does not come back.
        return Stream(_nothing(), status_code=HTTPStatus.NO_CONTENT)
    return Stream(
        edge.streams.frames(known, after, _types(request)),
        media_type=EVENT_STREAM,
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


def _types(request: HttpRequest) -> frozenset[str]:
    """``?types=a,b``: what is told besides the terminal; ``terminal`` adds nothing."""
    listed = request.query_params.get("types", "").split(",")
    return frozenset(filter(None, map(str.strip, listed)))


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk


def _trace(request: HttpRequest) -> TraceBody:
    headers = request.headers
    return TraceBody(
        traceparent=headers.get("traceparent", ""),
        tracestate=headers.get("tracestate"),
        baggage=headers.get("baggage"),
    )


ROUTES = (
    execute, execute_batch, list_executions, cleanup, detail, events, stream, status,
    cancellation_check, cancel, finalize, rerun,
)  # fmt: skip
