"""``/api/result/…`` and ``/api/internal/objects/…`` (RT-RES)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.response import Stream
from msgspec import Struct

from noetl_worker.server.bodies import Value, id_text
from noetl_worker.server.edge import HttpRequest, edge_of
from noetl_worker.server.guards import internal
from noetl_worker.server.stored import Placed, Wished, seconds_of
from state_builder.errors import InvalidError, NotFoundError
from state_builder.values import OpenObject


class ResultBody(Struct, kw_only=True):
    """RT-RES-1; ``extracted``, ``compress`` and ``correlation`` are accepted."""

    name: str
    data: Value = None
    scope: str = "execution"
    source_step: str | None = None
    store: str | None = None
    ttl: Value = None
    idempotency_key: str | None = None


@put("/api/result/{execution_id:str}", status_code=HTTPStatus.OK)
async def put_result(
    request: HttpRequest, execution_id: FromPath[str], data: JSONBody[ResultBody]
) -> Placed:
    """Store a result of an execution under a name."""
    wished = Wished(
        name=data.name,
        data=data.data,
        scope=data.scope,
        source_step=data.source_step,
        ttl_s=seconds_of(data.ttl),
        idempotency_key=data.idempotency_key,
        tier=data.store or "",
    )
    return await edge_of(request).stored.put(_execution(execution_id), wished)


@get("/api/result/resolve")
async def resolve(
    request: HttpRequest, ref: FromQuery[str] = "", stored: FromQuery[bool] = False
) -> Stream:
    """What is stored behind a reference, as the body itself.

    With ``stored`` without what readers see added, like a pipeline's merged keys.
    """
    if not ref:
        raise InvalidError("give the reference as ?ref=")
    return _streamed(await edge_of(request).stored.resolve(ref, as_stored=stored))


@get("/api/result/{execution_id:str}/list")
async def listed(
    request: HttpRequest,
    execution_id: FromPath[str],
    step_name: FromQuery[str] = "",
) -> dict[str, Any]:
    """Every reference of an execution."""
    eid = _execution(execution_id)
    scope = request.query_params.get("scope", "")
    refs = await edge_of(request).stored.listed(eid, scope, step_name)
    return {"execution_id": eid, "count": len(refs), "refs": refs}


@get("/api/result/{execution_id:str}/{step:str}")
async def of_step(
    request: HttpRequest,
    execution_id: FromPath[str],
    step: FromPath[str],
    resolve: FromQuery[bool] = True,
) -> Response[Any]:
    """The newest stored result of a step; its reference alone with resolve=false."""
    eid, stored = _execution(execution_id), edge_of(request).stored
    if resolve:
        return _streamed(await stored.of_step(eid, step))
    refs = await stored.listed(eid, "", step)
    if not refs:
        raise NotFoundError(f"execution {eid} has no result of step '{step}'")
    return Response(refs[-1])


@delete("/api/result/{execution_id:str}", status_code=HTTPStatus.OK)
async def drop(request: HttpRequest, execution_id: FromPath[str]) -> dict[str, Any]:
    """Remove what was put for an execution."""
    eid = _execution(execution_id)
    scope = request.query_params.get("scope", "")
    count = await edge_of(request).stored.drop(eid, scope=scope)
    return {"execution_id": eid, "deleted": count}


@delete("/api/result/{execution_id:str}/step/{step:str}", status_code=HTTPStatus.OK)
async def drop_step(
    request: HttpRequest, execution_id: FromPath[str], step: FromPath[str]
) -> dict[str, Any]:
    """Remove what was put for one step."""
    eid = _execution(execution_id)
    count = await edge_of(request).stored.drop(eid, step=step)
    return {"execution_id": eid, "step": step, "deleted": count}


@put(
    "/api/internal/objects/{key:path}",
    guards=[internal],
    status_code=HTTPStatus.OK,
)
async def put_object(request: HttpRequest, key: FromPath[str]) -> dict[str, Any]:
    """Store an opaque blob."""
    data = await request.body()
    return await edge_of(request).stored.put_object(_key(key), data)


@get("/api/internal/objects/{key:path}", guards=[internal])
async def read_object(request: HttpRequest, key: FromPath[str]) -> Stream:
    """The bytes of a blob."""
    opened = await edge_of(request).stored.object(_key(key))
    return _streamed(opened, "application/octet-stream")


def _streamed(opened: OpenObject, media_type: str = "") -> Stream:
    # What somebody else's server sent is never shown by a browser as this server's.
    media_type = media_type or opened.info.about.get("media_type", "application/json")
    headers = {
        "content-length": str(opened.info.bytes),
        "x-content-type-options": "nosniff",
    }
    return Stream(opened.chunks, media_type=media_type, headers=headers)


def _execution(execution_id: str) -> str:
    eid = id_text(execution_id, "execution_id")
    if not eid:
        raise InvalidError("execution_id is missing")
    return eid


def _key(key: str) -> str:
    found = key.strip("/")
    if not found:
        raise InvalidError("an object needs a key")
    return found


ROUTES: list[HTTPRouteHandler] = [
    put_result,
    resolve,
    listed,
    of_step,
    drop,
    drop_step,
    put_object,
    read_object,
]
"""Their bodies may have NOETL_BLOB_MAX_BYTES (RT-API-9)."""
