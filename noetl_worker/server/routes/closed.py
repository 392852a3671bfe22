"""Routes that clients know and this build does not have: each says so, and why.

An older client gets a reason to show instead of a bare 404 (RT-API-4).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from litestar import Response, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler

from noetl_worker.server.answers import RETRY_AFTER_S, refusal

_NO_ASSISTANT: Final = "no assistant is configured: this build has none"
_NO_SESSIONS: Final = "sign-in is not configured: the gateway authenticates people"
_NO_SUBSCRIBER: Final = (
    "this build has no subscriber: let a step of kind 'subscription' take messages, "
    "or start executions by POST /api/execute"
)
_NO_REPAIR: Final = "rows are repaired by the command 'noetl repair'"
_NO_PURGE: Final = (
    "nothing is purged by request: expired results and caches go by themselves, "
    "rows of events and commands stay"
)
_GET: Final = (HttpMethod.GET,)
_POST: Final = (HttpMethod.POST,)

_UNCONFIGURED: Final[tuple[tuple[str, str], ...]] = (
    ("/api/catalog/playbooks/explain/ai", _NO_ASSISTANT),
    ("/api/catalog/playbooks/generate/ai", _NO_ASSISTANT),
    ("/api/executions/{execution_id:str}/analyze/ai", _NO_ASSISTANT),
    ("/api/auth/session/validate", _NO_SESSIONS),
    ("/api/auth/login", _NO_SESSIONS),
    ("/api/auth/check-playbook-access", _NO_SESSIONS),
)
"""503: these need something an operator would have to set up."""

_ABSENT: Final[tuple[tuple[str, tuple[HttpMethod, ...], str], ...]] = (
    ("/api/subscriptions", _GET + _POST, _NO_SUBSCRIBER),
    ("/api/subscriptions/register", _POST, _NO_SUBSCRIBER),
    ("/api/subscriptions/{subscription_id:str}", _GET, _NO_SUBSCRIBER),
    ("/api/subscriptions/{subscription_id:str}/{what:str}", _POST, _NO_SUBSCRIBER),
    ("/api/internal/ingress/{listener:path}", _GET, _NO_SUBSCRIBER),
    ("/api/internal/events/project", _POST, _NO_REPAIR),
    ("/api/internal/events/materialize", _POST, _NO_REPAIR),
    ("/api/internal/projection/advance", _POST, _NO_REPAIR),
    ("/api/internal/cleanup/purge", _POST, _NO_PURGE),
)
"""501: these are done in another way, or not at all."""


def _closed(
    path: str, methods: tuple[HttpMethod, ...], status: HTTPStatus, reason: str
) -> HTTPRouteHandler:
    again = status == HTTPStatus.SERVICE_UNAVAILABLE
    headers = {"retry-after": RETRY_AFTER_S} if again else None

    @route(path, http_method=list(methods), include_in_schema=False)
    async def closed() -> Response[Any]:
        return refusal(status, reason, headers)

    return closed


ROUTES: Final = (
    *(
        _closed(path, _POST, HTTPStatus.SERVICE_UNAVAILABLE, reason)
        for path, reason in _UNCONFIGURED
    ),
    *(
        _closed(path, methods, HTTPStatus.NOT_IMPLEMENTED, reason)
        for path, methods, reason in _ABSENT
    ),
)
