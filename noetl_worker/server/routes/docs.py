"""``/api/docs``: the description of all routes as a page, without any other server."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from litestar import Response, get
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.params import FromPath

from state_builder.errors import NotFoundError

ASSETS: Final = "/api/docs/assets"
_TYPES: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui-standalone-preset.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_CACHE: Final = {"cache-control": "public, max-age=86400"}

PLUGINS: Final = (
    SwaggerRenderPlugin(
        js_url=f"{ASSETS}/swagger-ui-bundle.js",
        css_url=f"{ASSETS}/swagger-ui.css",
        standalone_preset_js_url=f"{ASSETS}/swagger-ui-standalone-preset.js",
        favicon=f"<link rel='icon' type='image/png' href='{ASSETS}/favicon-32x32.png'>",
    ),
    JsonRenderPlugin(),
)


@get(ASSETS + "/{name:str}", include_in_schema=False)
async def asset(name: FromPath[str]) -> Response[bytes]:
    """A file of the page."""
    if name not in _TYPES:
        raise NotFoundError(f"'{name[:40]}' is no part of the documentation")
    return Response(_read(name), media_type=_TYPES[name], headers=_CACHE)


@cache
def _read(name: str) -> bytes:
    return (files("swagger_ui") / "static" / name).read_bytes()


ROUTES = (asset,)
