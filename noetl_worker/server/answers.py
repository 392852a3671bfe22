"""How the server answers when it cannot do what was asked (RT-API-3, RT-API-4).

Every refusal has the same four keys, whoever found it: our own errors, the HTTP
framework, or a fault of ours. Text that leaves here is masked (RT-API-12).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import structlog
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from noetl_worker.server.admission import BusyError
from noetl_worker.server.edge import HttpRequest, edge_of
from state_builder.errors import (
    ConflictError,
    InvalidError,
    LimitExceededError,
    NoetlError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UpstreamError,
)
from state_builder.playbook import PlaybookError
from state_builder.records import JSON, encode_json
from state_builder.redact import mask_text

log = structlog.get_logger(__name__)

RETRY_AFTER_S: Final = "1"

_STATUS: Final[tuple[tuple[type[NoetlError], int], ...]] = (
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (InvalidError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ConflictError, HTTPStatus.CONFLICT),
    (BusyError, HTTPStatus.TOO_MANY_REQUESTS),
    (UpstreamError, HTTPStatus.BAD_GATEWAY),
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (RefusedError, HTTPStatus.FORBIDDEN),
    (LimitExceededError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
)


_BY_CODE: Final[dict[str, int]] = {"no_pubkey": HTTPStatus.BAD_REQUEST}
"""What clients were promised where the class says another (SC-SE-05)."""


def status_of(error: NoetlError) -> int:
    """The HTTP status an error of ours is told as."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def refusal(
    status: int, message: str, headers: dict[str, str] | None = None, **more: JSON
) -> Response[bytes]:
    """The one shape of every refusal; ``more`` are further keys."""
    text = mask_text(message)
    body: dict[str, JSON] = {
        "error": text,
        "detail": text,
        "status": int(status),
        "message": text,
        **more,
    }
    return Response(
        encode_json(body),
        status_code=int(status),
        media_type="application/json",
        headers=headers,
    )


def on_our_error(request: HttpRequest, error: NoetlError) -> Response[bytes]:
    """An error of our tree."""
    status = status_of(error)
    if isinstance(error, LimitExceededError):
        observer = edge_of(request).ports.observer
        observer.count("noetl_limit_hits_total", limit=error.limit)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request.failed", path=request.url.path, exc_info=error)
    headers = {"retry-after": RETRY_AFTER_S} if error.retryable else None
    more: dict[str, JSON] = {"code": error.code}
    if isinstance(error, PlaybookError):
        more["findings"] = [
            {"id": f.id, "path": f.path, "line": f.line, "message": f.message}
            for f in error.findings
        ]
    return refusal(status, str(error), headers, **more)


def on_framework_error(request: HttpRequest, error: HTTPException) -> Response[bytes]:
    """What the framework refused: no such route, a wrong method, an unreadable body."""
    del request
    text = error.detail or HTTPStatus(error.status_code).phrase
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        parts = [
            f"{item.get('key', 'body')}: {item.get('message')}"
            for item in error.extra
            if isinstance(item, dict)
        ]
        text = "; ".join(parts) or text
    return refusal(error.status_code, text, dict(error.headers or {}))


def on_fault(request: HttpRequest, error: Exception) -> Response[bytes]:
    """A fault of ours: said in the log, not to the client."""
    log.error("request.failed", path=request.url.path, exc_info=error)
    return refusal(
        HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the server's log says more"
    )


HANDLERS: Final[ExceptionHandlersMap] = {
    NoetlError: on_our_error,
    HTTPException: on_framework_error,
    Exception: on_fault,
}
