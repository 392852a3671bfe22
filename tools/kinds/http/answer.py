"""What an HTTP answer means: data, success or error (TL-HT-04 to 06, TL-ERR-02)."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Sequence
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Final

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.records import JSON, ToolFailure
from state_builder.redact import mask_url
from tools.contract import ToolResult
from tools.doors.web import WebResponse
from tools.errors import ToolCallError

TEXT_MAX: Final = 4096
"""Characters of the body beside the data, as ``stdout`` (TL-HT-05)."""

_BINARY_MAIN: Final = frozenset(("image", "audio", "video", "font"))
_BINARY: Final = frozenset(
    (
        *("application/octet-stream", "application/pdf", "application/zip"),
        *("application/gzip", "application/x-gzip", "application/x-tar"),
        *("application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"),
        *("application/x-protobuf", "application/wasm", "application/x-7z-compressed"),
    )
)
_KINDS: Final[dict[int, str]] = {
    401: "auth",
    403: "auth",
    404: "not_found",
    408: "timeout",
    429: "rate_limit",
}


def result_of(response: WebResponse, response_type: str) -> ToolResult:
    """Data of a 2xx; any other status raises ToolCallError with the same data."""
    headers = _headers(response.headers)
    body, shown = _body(response, response_type)
    data: JSON = {
        "status_code": response.status,
        "headers": headers,
        "body": body,
        "url": mask_url(response.url),
        "elapsed": round(response.elapsed_s, 6),
    }
    success = 200 <= response.status < 300
    helpers: dict[str, JSON] = {
        "http": {"status": response.status, "headers": headers},
        "exit_code": 0 if success else 1,
        "stdout": shown[:TEXT_MAX],
    }
    if success:
        return ToolResult(data=data, form="http", helpers=helpers)
    raise ToolCallError(_failure(response), data=data, form="http", helpers=helpers)


def _failure(response: WebResponse) -> ToolFailure:
    status = response.status
    kind = _KINDS.get(status) or ("server_error" if status >= 500 else "client_error")
    return ToolFailure(
        kind=kind,
        code=f"HTTP_{status}",
        message=f"HTTP {status} {response.reason}".rstrip(),
        retryable=status in (408, 429) or status >= 500,
        status_code=status,
        retry_after=_retry_after(response.headers),
    )


def _retry_after(headers: Sequence[tuple[str, str]]) -> float | None:
    """Seconds, also where a date was sent; None when it is neither."""
    value = next((text for name, text in headers if name == "retry-after"), None)
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _headers(headers: Sequence[tuple[str, str]]) -> dict[str, JSON]:
    """Lower-case names; repeated values joined, cookies as a list (TL-HT-04)."""
    found: dict[str, JSON] = {}
    cookies: list[JSON] = []
    for name, value in headers:
        if name == "set-cookie":
            cookies.append(value)
            found[name] = cookies
        else:
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _body(response: WebResponse, response_type: str) -> tuple[JSON, str]:
    """The body's value, and its text for people."""
    if not response.body:
        return None, ""
    content_type = next(
        (value for name, value in response.headers if name == "content-type"), ""
    )
    message = Message()
    message["content-type"] = content_type
    kind = message.get_content_type() if content_type else ""
    if response_type == "binary" or (response_type == "auto" and _is_binary(kind)):
        return _binary(response.body)
    charset = str(message.get_param("charset") or "utf-8")
    try:
        decoded = response.body.decode(charset)
    except (UnicodeDecodeError, LookupError):
        if response_type == "auto" and not kind:
            return _binary(response.body)
        decoded = response.body.decode("utf-8", "replace")
    if response_type == "text":
        return decoded, decoded
    try:
        return decode_json(decoded), decoded
    except (DecodeError, RecursionError):
        return decoded, decoded


def _is_binary(kind: str) -> bool:
    main, _, sub = kind.partition("/")
    if main in _BINARY_MAIN:
        return sub != "svg+xml"
    return kind in _BINARY


def _binary(body: bytes) -> tuple[JSON, str]:
    encoded: JSON = {"base64": b64encode(body).decode(), "size": len(body)}
    return encoded, f"<{len(body)} bytes>"
