"""``/api/catalog/…`` (RT-CAT)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from litestar import delete, get, post, put
from litestar.params import FromPath, JSONBody
from msgspec import Raw, Struct
from msgspec.json import decode as decode_json

from noetl_worker.server.bodies import (
    CatalogListBody,
    ContentBody,
    RegisterBody,
    ResourceBody,
    id_text,
    version_number,
)
from noetl_worker.server.catalog import Registered, matches
from noetl_worker.server.documents import content_text, form_fields
from noetl_worker.server.edge import Edge, HttpRequest, edge_of
from noetl_worker.server.shapes import NULL, moment
from state_builder.errors import ConflictError, InvalidError, NotFoundError
from state_builder.playbook import Finding
from state_builder.playbook.source import read
from state_builder.records import timestamp
from state_builder.stores import CatalogRow


class EntryAnswer(Struct, kw_only=True):
    """RT-CAT-1."""

    catalog_id: str
    path: str
    kind: str
    version: int
    content: str
    layout: Raw
    payload: Raw
    meta: dict[str, Any]
    created_at: str | None


class EntriesAnswer(Struct, kw_only=True):
    entries: list[EntryAnswer]


class Validation(Struct, kw_only=True):
    errors: list[Finding]
    warnings: list[Finding]


class RegisterAnswer(Struct, kw_only=True):
    status: str
    message: str
    path: str
    version: int
    catalog_id: str
    kind: str
    validation: Validation


class ValidateAnswer(Struct, kw_only=True):
    valid: bool
    errors: list[str]
    findings: Validation


class ContentAnswer(Struct, kw_only=True):
    catalog_id: str
    path: str
    version: int
    content: str


def entry(row: CatalogRow) -> EntryAnswer:
    """A row as clients read it."""
    created_at = moment(row.created_at)
    meta = decode_json(row.meta) if row.meta else {}
    if isinstance(meta, dict):
        meta.setdefault("registered_at", created_at)
    return EntryAnswer(
        catalog_id=row.catalog_id,
        path=row.path,
        kind=row.kind,
        version=row.version,
        content=row.content,
        layout=row.layout or NULL,
        payload=row.payload or NULL,
        meta=meta,
        created_at=created_at,
    )


def registered(found: Registered) -> RegisterAnswer:
    """What registering answers, with what a validator says (PB-700)."""
    row, checked = found.row, found.checked
    errors = list(checked.errors) if checked else []
    warnings = list(checked.warnings) if checked else []
    message = f"{row.kind} '{row.path}' version {row.version} registered"
    if errors:
        message += f", with {len(errors)} errors: it cannot be executed yet"
    return RegisterAnswer(
        status="success",
        message=message,
        path=row.path,
        version=row.version,
        catalog_id=row.catalog_id,
        kind=row.kind,
        validation=Validation(errors=errors, warnings=warnings),
    )


@post("/api/catalog/register", status_code=HTTPStatus.OK)
async def register(
    request: HttpRequest, data: JSONBody[RegisterBody]
) -> RegisterAnswer:
    """Store a document as the next version of its path."""
    found = await edge_of(request).catalog.register(data.content, data.resource_type)
    return registered(found)


@post("/api/catalog/list", status_code=HTTPStatus.OK)
async def list_entries(
    request: HttpRequest, data: JSONBody[CatalogListBody | None] = None
) -> EntriesAnswer:
    """Entries, newest first."""
    return await _listed(edge_of(request), data or CatalogListBody())


@post("/api/catalog/agents/list", status_code=HTTPStatus.OK)
async def list_agents(
    request: HttpRequest, data: JSONBody[CatalogListBody | None] = None
) -> EntriesAnswer:
    """Entries that are agents."""
    wanted = data or CatalogListBody()
    wanted.agent_only = True
    return await _listed(edge_of(request), wanted)


async def _listed(edge: Edge, wanted: CatalogListBody) -> EntriesAnswer:
    rows = await edge.ports.tables.catalog(
        kind=(wanted.resource_type or "").lower(), path=wanted.path or ""
    )
    capabilities = {*wanted.capabilities, *filter(None, [wanted.capability])}
    if capabilities or wanted.agent_only:
        rows = [row for row in rows if matches(row, capabilities, wanted.agent_only)]
    return EntriesAnswer(entries=[entry(row) for row in rows])


@post("/api/catalog/resource", status_code=HTTPStatus.OK)
async def resource(request: HttpRequest, data: JSONBody[ResourceBody]) -> EntryAnswer:
    """One entry, by catalog id or by path and version."""
    catalog_id = id_text(data.catalog_id, "catalog_id")
    version = version_number(data.version)
    return entry(
        await edge_of(request).catalog.row(data.path or "", version, catalog_id)
    )


@get("/api/catalog/list/{kind:path}")
async def list_paths(
    request: HttpRequest, kind: FromPath[str]
) -> list[str] | dict[str, Any]:
    """Paths of one kind."""
    name = kind.strip("/")
    if name.endswith("/ui_schema"):
        # A catalog path may begin with any word (RT-CAT-9).
        return await _ui_schema(request, f"list/{name}")
    rows = await edge_of(request).ports.tables.catalog(kind=name.lower())
    return sorted({row.path for row in rows})


@get("/api/catalog/playbook/content")
async def content(request: HttpRequest) -> ContentAnswer:
    """The text of one entry; ``playbook_id`` is a catalog id or a path."""
    row = await _by_playbook_id(request)
    return ContentAnswer(
        catalog_id=row.catalog_id,
        path=row.path,
        version=row.version,
        content=row.content,
    )


@put(["/api/catalog/playbook/content", "/api/catalog/playbook"])
async def store_content(
    request: HttpRequest, data: JSONBody[ContentBody]
) -> RegisterAnswer:
    """Store a text as the next version."""
    return registered(await edge_of(request).catalog.register(data.content, "Playbook"))


@post("/api/catalog/playbooks/validate", status_code=HTTPStatus.OK)
async def validate(request: HttpRequest, data: JSONBody[ContentBody]) -> ValidateAnswer:
    """What a validator says of a text; never an error for a bad playbook."""
    checked = edge_of(request).catalog.checked(content_text(data.content))
    return ValidateAnswer(
        valid=checked.playbook is not None,
        errors=[finding.message for finding in checked.errors],
        findings=Validation(
            errors=list(checked.errors), warnings=list(checked.warnings)
        ),
    )


@delete("/api/catalog/playbooks/{catalog_id:str}", status_code=HTTPStatus.OK)
async def archive(request: HttpRequest, catalog_id: FromPath[str]) -> dict[str, str]:
    """Hide an entry from lists; refused while executions of it are open."""
    edge = edge_of(request)
    wanted = id_text(catalog_id, "catalog id")
    opened = await edge.ports.rows.open_executions(wanted)
    if opened:
        raise ConflictError(f"catalog entry {wanted} has {opened} open executions")
    if not await edge.ports.tables.archive(wanted):
        raise NotFoundError(f"catalog entry {wanted} does not exist")
    return {"status": "deleted", "catalog_id": wanted}


@get("/api/catalog/{rest:path}")
async def ui_schema(request: HttpRequest, rest: FromPath[str]) -> dict[str, Any]:
    """The form of a playbook: ``/api/catalog/<path>/ui_schema`` (RT-CAT-8)."""
    return await _ui_schema(request, rest.strip("/"))


async def _ui_schema(request: HttpRequest, rest: str) -> dict[str, Any]:
    path, slash, what = rest.rpartition("/")
    if not slash or what != "ui_schema":
        raise NotFoundError(f"there is no route /api/catalog/{rest}")
    edge = edge_of(request)
    version = version_number(request.query_params.get("version"))
    row = await edge.catalog.row(path, version)
    document = read(row.content)
    metadata = document.value.get("metadata")
    meta = metadata if isinstance(metadata, dict) else {}
    return {
        "path": row.path,
        "version": row.version,
        "kind": row.kind,
        "title": meta.get("title") or meta.get("name") or row.path,
        "description_markdown": meta.get("description"),
        "exposed_in_ui": meta.get("exposed_in_ui", True) is not False,
        "fields": form_fields(document, row.content),
        "generated_at": timestamp(edge.ports.clock.now()),
    }


async def _by_playbook_id(request: HttpRequest) -> CatalogRow:
    wanted = request.query_params.get("playbook_id", "")
    if not wanted:
        raise InvalidError("playbook_id: give a catalog id or a path")
    catalog = edge_of(request).catalog
    if wanted.isdecimal():
        return await catalog.row("", None, wanted)
    return await catalog.row(wanted, None)


ROUTES = (
    register, list_entries, list_agents, resource, list_paths, content, store_content,
    validate, archive, ui_schema,
)  # fmt: skip
