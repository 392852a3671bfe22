"""``/api/replay/state``: rows folded again, with checksums (RT-RPL)."""

from __future__ import annotations

from typing import Any

from litestar import get

from noetl_worker.server.answers import refusal
from noetl_worker.server.bodies import id_text
from noetl_worker.server.edge import Edge, HttpRequest, edge_of
from noetl_worker.server.refold import PROJECTIONS, Refold, checksum
from noetl_worker.server.shapes import parsed
from state_builder.errors import InvalidError
from state_builder.stores import EventFilter

LIMIT_MAX = 100_000
PAGE = 500
BOUNDS = ("as_of_event_id", "as_of_position", "as_of_time")
ASKED = (
    "execution", "stage", "frame", "command", "business_object", "loop", "all",
)  # fmt: skip
"""What a client may say it wants; it is told everything."""


@get("/api/replay/state")
async def replay_state(request: HttpRequest) -> Any:
    """The projections of an execution, all of it or up to an event or a time."""
    query = dict(request.query_params)
    if sum(bool(query.get(name)) for name in BOUNDS) > 1:
        return refusal(400, f"give at most one of {', '.join(BOUNDS)}")
    execution_id = id_text(query.get("execution_id"), "execution_id")
    if not execution_id:
        raise InvalidError("execution_id is required")
    projection = query.get("projection", "execution")
    if projection not in ASKED:
        raise InvalidError(f"projection must be one of {', '.join(ASKED)}")
    fold = await _folded(edge_of(request), execution_id, query)
    found = fold.projections()
    last = fold.last
    return {
        "tenant_id": query.get("tenant_id", "default"),
        "organization_id": query.get("organization_id", "default"),
        "execution_id": execution_id,
        "projection": projection,
        "event_count": fold.count,
        "last_event_id": None if last is None else last.event_id,
        "last_event_type": None if last is None else last.event_type,
        **found,
        "checksum": {"type": "sha256", "value": checksum(found)},
        "projection_checksums": {name: checksum(found[name]) for name in PROJECTIONS},
    }


async def _folded(edge: Edge, execution_id: str, query: dict[str, str]) -> Refold:
    """Rows up to the bound; at most ``limit`` of them."""
    limit = query.get("limit", "10000")
    if not limit.isdecimal() or not 1 <= int(limit) <= LIMIT_MAX:
        raise InvalidError(f"limit must be a number from 1 to {LIMIT_MAX:,}")
    until = query.get("as_of_event_id") or query.get("as_of_position")
    until_time = parsed(query.get("as_of_time"))
    if query.get("as_of_time") and until_time is None:
        raise InvalidError("as_of_time must be a time as in RFC 3339")
    fold, after, left = Refold(), 0, int(limit)
    while left:
        wanted = EventFilter(
            since=after,
            until=int(id_text(until, "the event to stop at") or 0),
            until_time=until_time,
            limit=min(PAGE, left),
            ascending=True,
        )
        page = (await edge.ports.rows.events(execution_id, wanted)).events
        for view in page:
            # ``since`` may match an event once more (RT-EXN-11).
            if int(view.event_id) > after:
                after = int(view.event_id)
                fold.add(view)
                left -= 1
        if len(page) < wanted.limit:
            break
    return fold


ROUTES = (replay_state,)
