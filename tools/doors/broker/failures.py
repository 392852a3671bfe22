"""Errors of the client and of the server as tool errors (TL-NA-03)."""

from __future__ import annotations

import asyncio
from typing import Final

import nats.errors
import nats.js.errors
from nats.js.errors import APIError

from state_builder.records import ToolFailure
from tools.errors import ToolCallError

CLIENT_ERRORS: Final = (nats.errors.Error, OSError, asyncio.TimeoutError, ValueError)
"""What a call into the client may raise for reasons outside of this program."""

_AUTH: Final = ("authorization", "permissions", "authentication", "credentials")


def missing(what: str, name: str) -> ToolCallError:
    """Something that must exist and does not."""
    text = f"{what} '{name}' does not exist"
    return ToolCallError(ToolFailure(kind="not_found", message=text, source="nats"))


def failure_of(error: Exception, what: str) -> ToolCallError:
    """The tool error of a client's error; ``what`` says what was tried."""
    text = f"{what}: {error or type(error).__name__}"
    lowered = text.lower()
    if any(word in lowered for word in _AUTH):
        return _failure("auth", "auth", text)
    if isinstance(error, nats.js.errors.NoStreamResponseError):
        return _failure("not_found", "", f"{what}: no stream takes that subject")
    if isinstance(error, nats.js.errors.NotFoundError):
        return _failure("not_found", str(error.err_code or ""), text)
    if isinstance(error, APIError):
        server = (error.code or 500) >= 500
        kind = "server_error" if server else "client_error"
        return _failure(kind, str(error.err_code or ""), text, retryable=server)
    if isinstance(error, nats.js.errors.Error | ValueError):
        return _failure("configuration", "", text)
    if isinstance(error, nats.errors.MaxPayloadError):
        return _failure("limit", "max_payload", text)
    return _failure("connection", "CONNECTION", text, retryable=True)


def _failure(
    kind: str, code: str, message: str, *, retryable: bool = False
) -> ToolCallError:
    failure = ToolFailure(
        kind=kind, code=code, message=message, retryable=retryable, source="nats"
    )
    return ToolCallError(failure)
