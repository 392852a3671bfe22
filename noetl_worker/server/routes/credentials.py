"""``/api/credentials…`` and ``/api/gcp/token`` (RT §1.7, SC-CR)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, get_args

from litestar import Response, delete, get, post
from litestar.params import FromPath, JSONBody
from msgspec import Raw, Struct

from noetl_worker.server.bodies import CredentialBody, TokenBody, id_text, tag_list
from noetl_worker.server.edge import HttpRequest, edge_of
from noetl_worker.server.guards import check_token
from noetl_worker.server.shapes import moment
from state_builder.credentials import (
    Asker,
    CredentialInfo,
    NewCredential,
    Want,
)
from state_builder.errors import InvalidError
from state_builder.records import JSON, encode_json

NO_STORE: Final = {"cache-control": "no-store"}
"""On every answer with secret data (SC-TR-03)."""

SEALED: Final = "/sealed"


class CredentialAnswer(Struct, kw_only=True):
    """A credential without its data."""

    id: str
    name: str
    type: str
    meta: Raw
    tags: list[str]
    description: str | None
    schema: Raw
    created_at: str | None
    updated_at: str | None


def shown(info: CredentialInfo) -> CredentialAnswer:
    """As clients read it."""
    return CredentialAnswer(
        id=info.id,
        name=info.name,
        type=info.type,
        meta=info.meta,
        tags=list(info.tags),
        description=info.description,
        schema=info.schema,
        created_at=moment(info.created_at),
        updated_at=moment(info.updated_at),
    )


@post("/api/credentials", status_code=HTTPStatus.OK)
async def save(
    request: HttpRequest, data: JSONBody[CredentialBody]
) -> CredentialAnswer:
    """Create a credential, or replace the one of that name."""
    if data.name.endswith(SEALED):
        raise InvalidError(f"name: must not end with {SEALED}")
    new = NewCredential(
        name=data.name,
        type=data.type or data.credential_type or "generic",
        data=data.data,
        meta=data.meta,
        tags=tag_list(data.tags),
        description=data.description,
        schema=data.schema,
    )
    return shown(await edge_of(request).ports.vault.save(new))


@get("/api/credentials")
async def listed(request: HttpRequest) -> dict[str, Any]:
    """Credentials without their data."""
    query = request.query_params
    kind, text = query.get("type", ""), query.get("q", "")
    found = await edge_of(request).ports.vault.listed(kind, text)
    return {
        "items": [shown(info) for info in found],
        "filter": {"type": kind or None, "q": text or None},
    }


@get("/api/credentials/{name:path}")
async def one(request: HttpRequest, name: FromPath[str]) -> Response[bytes]:
    """One credential by id or name; its data only with ``include_data=true`` and the
    internal token; ``…/sealed`` gives it to a worker."""
    edge = edge_of(request)
    query = request.query_params
    name = name.strip("/")
    if name.endswith(SEALED):
        check_token(edge, request.headers.get("authorization", ""))
        if not query.get("worker_id") or not query.get("execution_id"):
            raise InvalidError("worker_id and execution_id are required")
        message = await edge.ports.vault.sealed(
            name.removesuffix(SEALED), _asker(request), _want(request)
        )
        return _json(message, NO_STORE)
    if query.get("include_data", "").lower() not in ("true", "1", "yes"):
        info = await edge.ports.vault.find(name)
        return _json(shown(info))
    check_token(edge, request.headers.get("authorization", ""))
    credential = await edge.ports.vault.reveal(name, _asker(request), _want(request))
    body: dict[str, JSON] = {
        "name": name,
        "type": credential.type,
        "expires_at": credential.expires_at,
        "data": credential.reveal(),
    }
    return _json(body, NO_STORE)


@delete("/api/credentials/{name:path}", status_code=HTTPStatus.OK)
async def drop(request: HttpRequest, name: FromPath[str]) -> dict[str, str]:
    """Delete by id or name."""
    name = name.strip("/")
    credential_id = await edge_of(request).ports.vault.drop(name)
    return {"message": f"credential '{name}' is deleted", "id": credential_id}


@post("/api/gcp/token", status_code=HTTPStatus.OK)
async def gcp_token(request: HttpRequest, data: JSONBody[TokenBody]) -> Response[bytes]:
    """A short-lived access token for a named credential."""
    edge = edge_of(request)
    check_token(edge, request.headers.get("authorization", ""))
    name = data.credential or data.credential_name or data.name
    if not name:
        raise InvalidError("credential is required")
    found = await edge.ports.vault.reveal(name, Asker(), "token")
    fields = found.reveal()
    left = None
    if found.expires_at is not None:
        left = max(0, int(found.expires_at - edge.ports.clock.now()))
    body: dict[str, JSON] = {
        "access_token": fields.get("access_token"),
        "token_type": fields.get("token_type", "Bearer"),
        "expires_in": left,
    }
    return _json(body, NO_STORE)


def _asker(request: HttpRequest) -> Asker:
    query = request.query_params
    sequence = query.get("sequence", "0")
    return Asker(
        execution_id=id_text(query.get("execution_id"), "execution_id"),
        command_id=query.get("command_id", ""),
        worker_id=query.get("worker_id", ""),
        sequence=int(sequence) if sequence.isdecimal() else 0,
        parent_execution_id=id_text(
            query.get("parent_execution_id"), "parent_execution_id"
        ),
        fresh=query.get("fresh") == "true",
    )


def _want(request: HttpRequest) -> Want:
    words: tuple[Want, ...] = get_args(Want)
    wanted = request.query_params.get("want", "credential")
    for word in words:
        if word == wanted:
            return word
    raise InvalidError(f"want must be one of {', '.join(words)}")


def _json(body: object, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(
        encode_json(body), media_type="application/json", headers=headers or {}
    )


ROUTES = (save, listed, one, drop, gcp_token)
