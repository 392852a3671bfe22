"""``/api/worker/…`` and ``/api/runtime/…`` (RT-WPL)."""

from __future__ import annotations

from base64 import b64decode
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from litestar import delete, get, post
from litestar.params import JSONBody
from msgspec import Raw, Struct

from noetl_worker.server.bodies import PoolBody, Value, id_text
from noetl_worker.server.edge import HttpRequest, edge_of
from noetl_worker.server.guards import check_token
from noetl_worker.server.shapes import NULL, moment
from state_builder.errors import InvalidError, NotFoundError
from state_builder.ids import shard_of
from state_builder.records import encode_json
from state_builder.stores import RuntimeRow

KINDS = ("worker_pool", "server_api", "broker")
SHARDS_MAX = 1024
KEY_BYTES = 32
"""Of an X25519 public key."""


class RuntimeAnswer(Struct, kw_only=True):
    """RT-WPL-3."""

    runtime_id: str
    name: str
    kind: str
    uri: str | None
    status: str
    labels: Raw
    capabilities: Raw
    capacity: int | None
    runtime: Raw
    heartbeat: str | None
    created_at: str | None
    updated_at: str | None


class HeartbeatBody(Struct, kw_only=True):
    name: str
    kind: str = "worker_pool"
    status: str | None = None
    runtime: Value = None


class DeregisterBody(Struct, kw_only=True):
    name: str | None = None
    kind: str = "worker_pool"


def runtime(row: RuntimeRow) -> RuntimeAnswer:
    """A row as clients read it."""
    return RuntimeAnswer(
        runtime_id=row.runtime_id,
        name=row.name,
        kind=row.kind,
        uri=row.uri,
        status=row.status,
        labels=row.labels or NULL,
        capabilities=row.capabilities or NULL,
        capacity=row.capacity,
        runtime=row.runtime or NULL,
        heartbeat=moment(row.heartbeat),
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
    )


@post("/api/worker/pool/register", status_code=HTTPStatus.OK)
async def register(request: HttpRequest, data: JSONBody[PoolBody]) -> RuntimeAnswer:
    """A process says that it is there."""
    edge = edge_of(request)
    kind = data.kind or data.component_type or "worker_pool"
    if kind not in KINDS:
        raise InvalidError(f"kind must be one of {', '.join(KINDS)}")
    if not data.name:
        raise InvalidError("name is required")
    if data.worker_public_key:
        # Credentials are sealed to this key: who may set it may read them.
        check_token(edge, request.headers.get("authorization", ""))
        _check_key(data.worker_public_key)
    now = datetime.fromtimestamp(edge.ports.clock.now(), UTC)
    labels = data.labels
    if data.hostname and (labels is None or isinstance(labels, dict)):
        labels = {"hostname": data.hostname, **(labels or {})}
    row = RuntimeRow(
        runtime_id=edge.ports.ids.mint(),
        name=data.name,
        kind=kind,
        status=data.status or "ready",
        heartbeat=now,
        created_at=now,
        updated_at=now,
        uri=data.uri,
        labels=_raw(labels),
        capabilities=_raw(data.capabilities),
        capacity=data.capacity,
        runtime=_raw(data.runtime),
        worker_public_key=data.worker_public_key,
    )
    return runtime(await edge.ports.tables.register_runtime(row))


@post("/api/worker/pool/heartbeat", status_code=HTTPStatus.OK)
async def heartbeat(
    request: HttpRequest, data: JSONBody[HeartbeatBody]
) -> dict[str, Any]:
    """It still is; 404 tells it to register again."""
    row = await edge_of(request).ports.tables.beat_runtime(
        data.kind, data.name, status=data.status or "", runtime=_raw(data.runtime)
    )
    if row is None:
        raise NotFoundError(f"{data.kind} '{data.name}' is not registered")
    return {
        "status": "ok",
        "message": "heartbeat noted",
        "name": row.name,
        "runtime_id": row.runtime_id,
    }


@post("/api/worker/pool/deregister", status_code=HTTPStatus.OK)
async def deregister(
    request: HttpRequest, data: JSONBody[DeregisterBody | None] = None
) -> dict[str, str]:
    """It goes; name and kind in the body or the query."""
    return await _drop(request, data)


@delete("/api/worker/pool/deregister", status_code=HTTPStatus.OK)
async def deregister_by_delete(
    request: HttpRequest, data: JSONBody[DeregisterBody | None] = None
) -> dict[str, str]:
    """As the POST of the same name."""
    return await _drop(request, data)


async def _drop(request: HttpRequest, data: DeregisterBody | None) -> dict[str, str]:
    query = request.query_params
    name = (data.name if data else None) or query.get("name", "")
    kind = query.get("kind") or (data.kind if data else "worker_pool")
    if not name:
        raise InvalidError("name is required")
    gone = await edge_of(request).ports.tables.drop_runtime(kind, name)
    if gone:
        return {"status": "ok", "message": f"{kind} '{name}' is gone"}
    return {"status": "not_found", "message": f"{kind} '{name}' was not registered"}


@get("/api/worker/pools")
async def pools(request: HttpRequest) -> dict[str, Any]:
    """Who is registered."""
    query = request.query_params
    rows = await edge_of(request).ports.tables.runtimes(
        kind=query.get("kind", ""),
        status=query.get("status", ""),
        name=query.get("name", ""),
    )
    return {"items": [runtime(row) for row in rows], "count": len(rows)}


@get("/api/runtime/shard-info")
async def shard_info(request: HttpRequest) -> dict[str, Any]:
    """Which shard an execution lives on."""
    edge = edge_of(request)
    query = request.query_params
    execution_id = id_text(query.get("execution_id"), "execution_id")
    if not execution_id:
        raise InvalidError("execution_id is required")
    configured = edge.settings.shard_count
    text = query.get("shard_count", str(configured))
    if not text.isdecimal() or not 1 <= int(text) <= SHARDS_MAX:
        raise InvalidError(f"shard_count must be a number from 1 to {SHARDS_MAX}")
    count = int(text)
    return {
        "execution_id": execution_id,
        "shard_count": count,
        "shard_index": shard_of(execution_id, count),
        "source": "query" if "shard_count" in query else "server",
        "hash_function": "xxh64",
        "seed": 0,
        "server_config": {"shard_index": 0, "shard_count": configured},
    }


def _check_key(text: str) -> None:
    try:
        size = len(b64decode(text, validate=True))
    except ValueError:
        size = 0
    if size != KEY_BYTES:
        raise InvalidError(f"worker_public_key: base64 of {KEY_BYTES} bytes is needed")


def _raw(value: Value) -> Raw | None:
    return None if value is None else Raw(encode_json(value))


ROUTES = (
    register, heartbeat, deregister, deregister_by_delete, pools, shard_info,
)  # fmt: skip
