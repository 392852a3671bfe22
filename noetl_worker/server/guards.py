"""Who may call internal routes (RT-API-11)."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from noetl_worker.server.edge import Edge
from state_builder.errors import RefusedError, UnavailableError

_CLOSED: Final = ("/api/internal/", "/api/keychain/", "/api/gcp/")


def closed_to_browsers(scope: Scope) -> Scope:
    """Routes that give secrets answer no page of another origin: they never see where
    a request comes from, so nothing is allowed (SC-TR-03)."""
    path = scope["path"]
    sealed = path.startswith("/api/credentials/") and path.endswith("/sealed")
    with_data = b"include_data" in scope["query_string"]
    if sealed or with_data or path.startswith(_CLOSED):
        # The same scope, not a copy: others read in it what the router puts there.
        kept = [pair for pair in scope["headers"] if pair[0] != b"origin"]
        scope["headers"] = kept
    return scope


def internal(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """Let through whoever has the internal token.

    Raises UnavailableError when none is configured, RefusedError for another one.
    """
    del handler
    edge: Edge = connection.app.state["edge"]
    check_token(edge, connection.headers.get("authorization", ""))


def check_token(edge: Edge, authorization: str) -> None:
    """As :func:`internal`, for a route that asks only sometimes."""
    token = edge.settings.internal_token
    if not token:
        raise UnavailableError(
            "internal routes are closed: NOETL_INTERNAL_API_TOKEN is not set"
        )
    scheme, _, given = authorization.partition(" ")
    matches = compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not matches:
        raise RefusedError("this route needs the internal token")
