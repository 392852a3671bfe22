"""What an HTTP status means for whoever asked: kind of error, whether to try again."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from state_builder.records import ToolFailure
from tools.doors.web import WebResponse

_KINDS: Final[dict[int, tuple[str, bool]]] = {
    401: ("auth", False),
    403: ("auth", False),
    404: ("not_found", False),
    408: ("timeout", True),
    429: ("rate_limit", True),
}


def failure_of(response: WebResponse, what: str = "", source: str = "") -> ToolFailure:
    """The error of a status outside 2xx (TL-ERR-02, TL-HT-06).

    ``what`` says in front of the message who answered so.
    """
    status = response.status
    server = status >= 500
    kind, retryable = _KINDS.get(
        status, ("server_error" if server else "client_error", server)
    )
    reason = response.reason or _phrase(status)
    return ToolFailure(
        kind=kind,
        code=f"HTTP_{status}",
        message=f"{what}HTTP {status} {reason}".strip(),
        retryable=retryable,
        status_code=status,
        retry_after=_retry_after(response.header("retry-after")),
        source=source,
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _retry_after(value: str) -> float | None:
    """Seconds, or an HTTP date; None for anything else."""
    text = value.strip()
    if text.isascii() and text.isdecimal() and len(text) <= 9:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
