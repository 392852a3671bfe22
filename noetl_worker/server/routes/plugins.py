"""``/api/internal/plugins/{path}``: the module store of WebAssembly plug-ins."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, route
from litestar.enums import HttpMethod
from litestar.params import FromPath

from noetl_worker.server.edge import HttpRequest, edge_of
from noetl_worker.server.guards import internal
from noetl_worker.server.plugins import MODULE_BYTES_MAX, PluginStore, PluginVersion
from state_builder.errors import InvalidError
from state_builder.records import encode_json

PLUGIN = "/api/internal/plugins/{path:path}"
JSON_TYPE = "application/json"


@route(
    PLUGIN,
    http_method=[HttpMethod.PUT, HttpMethod.POST],
    guards=[internal],
    request_max_body_size=MODULE_BYTES_MAX + 1,
    status_code=200,
)
async def register(request: HttpRequest, path: FromPath[str]) -> Response[bytes]:
    """Store a module (raw bytes); ``capabilities`` is a list with commas."""
    query = request.query_params
    names = str(query.get("capabilities", "")).split(",")
    wanted = PluginVersion(
        path=path,
        version=0,
        digest=_digest(request),
        bytes=0,
        media_type=str(query.get("media_type", "application/wasm")),
        capabilities=tuple(name.strip() for name in names if name.strip()),
    )
    version = _version(request)
    found = await _store(request).put(
        path.strip("/"), version or None, await request.body(), wanted
    )
    return Response(encode_json(found), media_type=JSON_TYPE)


@get(PLUGIN, guards=[internal])
async def read(request: HttpRequest, path: FromPath[str]) -> Response[bytes]:
    """The bytes of a version, the newest by default; 304 where the caller has them."""
    store = _store(request)
    found = await store.find(path.strip("/"), _version(request), _digest(request))
    headers = {
        "etag": f'"{found.digest}"',
        "x-noetl-version": str(found.version),
        "x-noetl-capabilities": ",".join(found.capabilities),
    }
    if request.headers.get("if-none-match", "").strip('"') == found.digest:
        return Response(b"", status_code=304, headers=headers)
    code = await store.module(found)
    return Response(code, media_type=found.media_type, headers=headers)


def _store(request: HttpRequest) -> PluginStore:
    return PluginStore(edge_of(request).ports.plugins)


def _version(request: HttpRequest) -> int:
    text = str(request.query_params.get("version", ""))
    if text in ("", "latest"):
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 10:
        raise InvalidError("version must be a positive number or latest")
    return int(text)


def _digest(request: HttpRequest) -> str:
    return str(request.query_params.get("digest", "")).lower()


ROUTES: list[Any] = [register, read]
