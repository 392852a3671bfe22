"""The lifecycle feed: what happens in all executions, as one stream (RT-API-20).

An application on a port of its own, for gateways. Read straight from the log, so any
server tells the same, and a reader that comes back misses nothing the log still holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final

import structlog
from litestar import Litestar, get
from litestar.response import Stream
from litestar.types import ASGIApp

from materializer.projection.fields import status_of
from noetl_worker.server.answers import HANDLERS
from noetl_worker.server.edge import Edge, HttpRequest, edge_of
from noetl_worker.server.hub import (
    EVERYBODY,
    Listener,
    Logged,
    closing,
    lifecycle_of,
)
from noetl_worker.server.shapes import NULL
from noetl_worker.server.streams import HEARTBEAT
from state_builder.errors import InvalidError, LostDataError, UnavailableError
from state_builder.ids import event_position
from state_builder.records import encode_json

log = structlog.get_logger(__name__)

ONLY_SHARD: Final = "0"
"""There is one feed for all shards of the log; gateways call it their shard 0."""


@get("/feed")
async def feed(request: HttpRequest) -> Stream:
    """Events after ``Last-Event-ID`` or ``?cursor=``, else those from now on."""
    query = request.query_params
    if query.get("shard", ONLY_SHARD) != ONLY_SHARD:
        raise InvalidError("there is one feed: shard must be 0")
    given = request.headers.get("last-event-id") or query.get("cursor", "")
    if given and not (given.isdecimal() and given.isascii() and len(given) < 20):
        raise InvalidError(f"cursor must be an event id, not {given[:40]!r}")
    return Stream(
        _frames(edge_of(request), int(given) if given else None),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


def create_feed(edge: Edge) -> ASGIApp:
    """The feed's application."""
    app = Litestar(
        route_handlers=[feed],
        exception_handlers=HANDLERS,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    app.state["edge"] = edge
    return app


async def _frames(edge: Edge, cursor: int | None) -> AsyncIterator[bytes]:
    try:
        listener = await edge.hub.join(EVERYBODY)
        last = cursor or 0
        try:
            # From here on nothing is missed, which the reader may want to know.
            yield HEARTBEAT
            if cursor is not None:
                async for found in _past(edge, cursor, listener.joined_at):
                    last = max(last, *(logged.event_id for logged in found))
                    yield _told(found)
            async for frame in _coming(edge, listener, last):
                yield frame
        finally:
            edge.hub.leave(listener)
    except (UnavailableError, LostDataError) as error:
        log.warning("feed.ended", reason=str(error))
        yield b": unavailable, come back later\n\n"


async def _past(edge: Edge, cursor: int, until: int) -> AsyncIterator[list[Logged]]:
    """What the log holds after an event, up to a sequence."""
    info = await edge.ports.log.info()
    generation, sequence, _ = event_position(cursor)
    # The place of an event of an earlier life of the log means nothing in this one.
    after = sequence - 1 if generation == info.generation else 0
    after = max(after, info.first_sequence - 1, 0)
    if after >= until:
        return
    batches = edge.ports.log.follow(None, after=after)
    async with closing(batches):
        async for batch in batches:
            found = [
                logged
                for message in batch
                for logged in lifecycle_of(message, info.generation)
                if logged.event_id > cursor
            ]
            if found:
                yield found
            if batch[-1].sequence >= until:
                return


async def _coming(edge: Edge, listener: Listener, last: int) -> AsyncIterator[bytes]:
    while True:
        found = [logged for logged in listener.take() if logged.event_id > last]
        if found:
            yield _told(found)
        elif listener.closed:
            yield f": closed ({listener.closed}), reconnect\n\n".encode()
            return
        elif not await listener.wait(edge.settings.server.stream_heartbeat_s):
            yield HEARTBEAT


def _told(events: Iterable[Logged]) -> bytes:
    return b"".join(map(_frame, events))


def _frame(logged: Logged) -> bytes:
    event = logged.event
    text = encode_json(
        {
            "execution_id": logged.execution_id,
            "event_id": str(logged.event_id),
            "event_type": event.type,
            "node_name": event.step or None,
            "status": status_of(event),
            "created_at": event.at,
            "result": event.result or NULL,
            "error": event.error or None,
        }
    ).decode()
    data = encode_json({"payload": text})
    return f"id: {logged.event_id}\ndata: ".encode() + data + b"\n\n"
