"""What messages hold, as JSON and back (TL-NA-02)."""

from __future__ import annotations

import base64
import binascii

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.records import JSON, encode_json
from tools.errors import configuration
from tools.fields import Fields, wrong


def bytes_of(value: JSON, encoding: str = "utf-8") -> bytes:
    """A text as it is, anything else as JSON; base64 where asked for."""
    if encoding == "base64":
        if not isinstance(value, str):
            raise wrong("data", value, "base64 text")
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise configuration("data is not base64") from error
    return value.encode() if isinstance(value, str) else encode_json(value)


def value_of(data: bytes, encoding: str = "") -> tuple[JSON, str]:
    """JSON if it is, else text, else base64; and which, where it is base64."""
    if encoding != "base64":
        try:
            found: JSON = decode_json(data)
            return found, ""
        except (DecodeError, UnicodeDecodeError, RecursionError):
            pass
        try:
            return data.decode(), ""
        except UnicodeDecodeError:
            pass
    return base64.b64encode(data).decode(), "base64"


def headers_of(config: Fields) -> dict[str, str]:
    """Headers of a message as the author gives them."""
    found: dict[str, str] = {}
    given = config.get("headers")
    if given is None:
        return found
    if not isinstance(given, dict):
        raise wrong("headers", given, "a map")
    for name, value in given.items():
        text = value if isinstance(value, str) else encode_json(value).decode()
        if not name or set(name) & set(": \r\n\0") or set(text) & set("\r\n\0"):
            raise configuration(
                f"headers.{name[:40]!r} has a letter no header may have"
            )
        if value is not None:
            found[name] = text
    return found


def named(headers: dict[str, str] | None) -> dict[str, JSON]:
    """Headers of a message that came; names in lower case."""
    return {name.lower(): value for name, value in (headers or {}).items()}
