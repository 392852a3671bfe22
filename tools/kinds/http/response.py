"""What an answer says: parsed body, readable headers."""

from __future__ import annotations

import base64
import re
from typing import Final

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.records import JSON
from state_builder.redact import mask_url
from tools.doors.web import WebResponse
from tools.fields import Fields

_BINARY: Final = re.compile(
    r"(?:image/(?!svg)|audio/|video/|font/|application/(?:octet-stream|zip|gzip|x-gzip"
    r"|x-tar|x-7z|pdf|x-protobuf|vnd\.apache\.(?:arrow|parquet)|wasm|x-bzip|zstd))",
    re.IGNORECASE,
)
_CHARSET: Final = re.compile(r"charset=\"?([\w.:-]+)", re.IGNORECASE)


def data_of(response: WebResponse, wanted: str) -> Fields:
    """The data of TL-HT-04; ``data`` is a view of ``body`` and is not stored twice."""
    return {
        "status_code": response.status,
        "headers": headers_of(response),
        "body": body_of(response, wanted) if response.kept is None else response.kept,
        "url": mask_url(response.url),
        "elapsed": round(response.elapsed_s, 6),
    }


def headers_of(response: WebResponse) -> Fields:
    """By lower-case name; cookies as a list, which never leaves the command."""
    found: Fields = {}
    cookies: list[JSON] = []
    for name, value in response.headers:
        if name == "set-cookie":
            cookies.append(value)
        else:
            found[name] = f"{found[name]}, {value}" if name in found else value
    return {**found, "set-cookie": cookies} if cookies else found


def is_binary(response: WebResponse, wanted: str) -> bool:
    """Whether the body is given as base64."""
    if wanted == "auto":
        return _BINARY.match(response.header("content-type")) is not None
    return wanted == "binary"


def body_of(response: WebResponse, wanted: str) -> JSON:
    """The parsed body; null when empty (TL-HT-05)."""
    raw = response.body
    if not raw:
        return None
    if is_binary(response, wanted):
        return {"base64": base64.b64encode(raw).decode(), "size": len(raw)}
    if wanted in ("auto", "json"):
        try:
            decoded: JSON = decode_json(raw.removeprefix(b"\xef\xbb\xbf"))
        except (DecodeError, RecursionError):
            pass  # not JSON: the text itself is the body
        else:
            return decoded
    return text_of_body(response)


def text_of_body(response: WebResponse) -> str:
    """The body as text in its declared charset, else UTF-8; always possible."""
    charset = _CHARSET.search(response.header("content-type"))
    try:
        return response.body.decode(charset[1] if charset else "utf-8-sig", "replace")
    except (LookupError, UnicodeError):
        return response.body.decode("utf-8", "replace")
