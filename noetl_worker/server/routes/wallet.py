"""``/api/keychain…``, ``/api/internal/wallet…``, ``/api/internal/secret-audit``.

All of it is internal: whoever asks has the internal token (SC-TR-02).
"""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from litestar import Response, delete, get, post
from litestar.params import FromPath, JSONBody

from noetl_worker.server.bodies import EntryBody, RotateBody, Value, id_text
from noetl_worker.server.edge import HttpRequest, edge_of
from noetl_worker.server.guards import internal
from noetl_worker.server.routes.credentials import NO_STORE
from noetl_worker.server.shapes import moment
from state_builder.credentials import NewEntry, Place
from state_builder.errors import InvalidError, NotFoundError, UnavailableError
from state_builder.records import encode_json
from state_builder.sealed import AuditFilter, AuditRow, KeychainRow

AUDIT_ROWS: int = 100
KEYCHAIN = "/api/keychain/{catalog_id:str}/{name:str}"


@get("/api/keychain/catalog/{catalog_id:str}", guards=[internal])
async def entries(request: HttpRequest, catalog_id: FromPath[str]) -> dict[str, Any]:
    """What is cached of a playbook, without values."""
    rows = await edge_of(request).ports.vault.entries(id_text(catalog_id, "catalog_id"))
    return {"catalog_id": catalog_id, "entries": [_shown(row) for row in rows]}


@get(KEYCHAIN, guards=[internal])
async def read(
    request: HttpRequest, catalog_id: FromPath[str], name: FromPath[str]
) -> Response[bytes]:
    """A cached value; audited."""
    place = _place(request, catalog_id, name)
    try:
        row, found = await edge_of(request).ports.vault.entry(place)
    except NotFoundError:
        return _secret({"status": "not_found"})
    body = {"status": "expired" if found is None else "found", **_shown(row)}
    if found is not None:
        body["data"] = found.reveal()
    return _secret(body)


@post(KEYCHAIN, guards=[internal], status_code=HTTPStatus.OK)
async def write(
    request: HttpRequest,
    catalog_id: FromPath[str],
    name: FromPath[str],
    data: JSONBody[EntryBody],
) -> dict[str, Any]:
    """Cache a value."""
    edge = edge_of(request)
    place = Place(
        id_text(catalog_id, "catalog_id"),
        name,
        id_text(data.execution_id, "execution_id"),
        data.scope_type,
    )
    new = NewEntry(
        data=data.data if data.data is not None else data.token_data,
        expires_at=_end(data, edge.ports.clock.now()),
        auto_renew=data.auto_renew,
        renew_config=data.renew_config,
        credential_type=data.credential_type,
        cache_type=data.cache_type,
    )
    row = await edge.ports.vault.save_entry(place, new)
    return {
        "status": "success",
        "cache_key": row.cache_key,
        "expires_at": moment(row.expires_at),
    }


@delete(KEYCHAIN, guards=[internal], status_code=HTTPStatus.OK)
async def forget(
    request: HttpRequest, catalog_id: FromPath[str], name: FromPath[str]
) -> dict[str, str]:
    """Drop a cached value."""
    place = _place(request, catalog_id, name)
    gone = await edge_of(request).ports.vault.drop_entry(place)
    return {"status": "deleted" if gone else "not_found"}


@post("/api/internal/wallet/rotate-kek", guards=[internal], status_code=HTTPStatus.OK)
async def rotate(
    request: HttpRequest, data: JSONBody[RotateBody | None] = None
) -> dict[str, Any]:
    """Wrap data keys anew; as often as needed, what is done is skipped."""
    wanted = data or RotateBody()
    if wanted.batch_size < 1 or wanted.max_batches < 1:
        raise InvalidError("batch_size and max_batches must be 1 or more")
    vault = edge_of(request).ports.vault
    return dict(await vault.rotate(wanted.batch_size, wanted.max_batches))


@get("/api/internal/wallet/key-status", guards=[internal])
async def key_status(request: HttpRequest) -> dict[str, Any]:
    """How many rows hang on which key."""
    return {"keys": await edge_of(request).ports.vault.key_status()}


@get("/api/internal/secret-audit", guards=[internal])
async def audit(request: HttpRequest) -> dict[str, Any]:
    """Who saw which secret, newest first."""
    query = request.query_params
    limit = query.get("limit", str(AUDIT_ROWS))
    if not limit.isdecimal():
        raise InvalidError("limit must be a number")
    wanted = AuditFilter(
        credential=query.get("credential", ""),
        execution_id=id_text(query.get("execution_id"), "execution_id"),
        operation=query.get("operation", ""),
        outcome=query.get("outcome", ""),
        after=_time(query.get("from", ""), "from"),
        before=_time(query.get("to", ""), "to"),
        limit=int(limit),
    )
    rows = await edge_of(request).ports.vault.audit(wanted)
    return {"items": [_event(row) for row in rows], "count": len(rows)}


@post("/api/internal/cross-region/resolve", guards=[internal])
async def cross_region(request: HttpRequest) -> None:
    """Single-region installs have no broker (RT-SEC-6)."""
    del request
    raise UnavailableError(
        "this installation has one region: the broker between regions is not "
        "available in this build"
    )


def _place(request: HttpRequest, catalog_id: str, name: str) -> Place:
    query = request.query_params
    return Place(
        id_text(catalog_id, "catalog_id"),
        name,
        id_text(query.get("execution_id"), "execution_id"),
        query.get("scope_type", "global"),
    )


def _end(data: EntryBody, now: float) -> float | None:
    """When it ends, Unix seconds, however that was said."""
    if data.expires_at is not None:
        if isinstance(data.expires_at, int | float):
            return float(data.expires_at)
        found = _time(str(data.expires_at), "expires_at")
        return None if found is None else found.timestamp()
    for seconds in (data.expires_in, data.ttl_seconds):
        if seconds is not None:
            return now + seconds
    return None


def _time(text: str, name: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidError(
            f"{name} must be a time like 2025-06-01T12:00:00Z"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _shown(row: KeychainRow) -> dict[str, Any]:
    return {
        "name": row.keychain_name,
        "cache_key": row.cache_key,
        "credential_type": row.credential_type,
        "cache_type": row.cache_type,
        "scope_type": row.scope_type,
        "execution_id": row.execution_id or None,
        "expires_at": moment(row.expires_at),
        "created_at": moment(row.created_at),
        "accessed_at": moment(row.accessed_at),
        "access_count": row.access_count,
        "auto_renew": row.auto_renew,
    }


def _event(row: AuditRow) -> dict[str, Any]:
    texts = {name: getattr(row, name) or None for name in AuditRow.__struct_fields__}
    return {**texts, "occurred_at": moment(row.occurred_at)}


def _secret(body: Value) -> Response[bytes]:
    return Response(
        encode_json(body), media_type="application/json", headers=dict(NO_STORE)
    )


ROUTES = (
    entries, read, write, forget, rotate, key_status, audit, cross_region,
)  # fmt: skip
