"""The canonical configuration of ``http``: one URL, one body, checked headers.

{"method", "url", "headers": {name: value}, "content"?: text, "form"?: [[k, v]…],
 "multipart"?: [[k, v]…], "response_type", "follow_redirects", "verify",
 "secret_headers": [name…], "connect_s"?, "read_s"?}
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.records import JSON, ToolFailure, encode_json
from tools.auth import basic, http_headers
from tools.errors import ToolCallError, configuration
from tools.fields import (
    Fields,
    boolean_of,
    first_of,
    map_of,
    number_of,
    text_of,
    wrong,
)

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
RESPONSE_TYPES: Final = ("auto", "json", "text", "binary")

_BODYLESS: Final = frozenset(("GET", "DELETE", "HEAD", "OPTIONS"))
_FORBIDDEN: Final = frozenset(("host", "content-length", "transfer-encoding"))
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_NOT_IN_VALUES: Final = re.compile(r"[\r\n\0]")
_URLENCODED: Final = "application/x-www-form-urlencoded"

Pairs = list[tuple[str, str]]


def canonical(config: Fields) -> Fields:
    """See the module. Raises ToolCallError naming the field."""
    method = (text_of(config, "method") or "GET").upper()
    if method not in METHODS:
        raise wrong("method", config["method"], f"one of {', '.join(METHODS)}")
    headers = _headers(config)
    params = _pairs(config, "params")
    body = _body(config, method, headers, params)
    url, userinfo = _url(config, params)
    given = {name.lower() for name in headers}
    if userinfo and "authorization" not in given:
        headers["Authorization"] = userinfo
        given.add("authorization")
    secret = _add_auth(config, headers, given)
    return {
        "method": method,
        "url": url,
        "headers": dict(headers),
        **body,
        "secret_headers": secret,
        "response_type": _response_type(config),
        "follow_redirects": boolean_of(config, "follow_redirects", True),
        "verify": boolean_of(
            config, first_of(config, ("verify_ssl", "verify"))[0], True
        ),
        **_timeouts(config),
    }


def _url(config: Fields, params: Pairs) -> tuple[str, str]:
    """The URL without userinfo, and what the userinfo means (TL-HT-10)."""
    key, _ = first_of(config, ("url", "endpoint"))
    url = text_of(config, key)
    if url is None:
        raise configuration("http needs a url")
    if "{{" in url:
        failure = ToolFailure(
            kind="template", message=f"{key}: '{url}' still holds a template"
        )
        raise ToolCallError(failure)
    try:
        parts = urlsplit(url.strip())
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise configuration(f"{key}: {error}") from error
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise wrong(key, url, "an http or https URL")
    userinfo, _, netloc = parts.netloc.rpartition("@")
    query = "&".join(part for part in (parts.query, urlencode(params)) if part)
    authorization = ""
    if userinfo:
        user, _, password = userinfo.partition(":")
        authorization = basic(unquote(user), unquote(password))
    assert port is None or port >= 0
    return (
        urlunsplit(parts._replace(netloc=netloc, query=query, fragment="")),
        authorization,
    )


def text(value: JSON) -> str | None:
    """A value as a header, a parameter or a form field; null is none (TL-HT-01)."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(Decimal(repr(value)).normalize(), "f")
    if isinstance(value, int):
        return str(value)
    return encode_json(value).decode()


def _parsed(config: Fields, key: str) -> Fields:
    """A map, also given as JSON text (TL-HT-01)."""
    value = config.get(key)
    if isinstance(value, str) and value.strip():
        try:
            value = decode_json(value)
        except DecodeError as error:
            raise wrong(key, config[key], "a map") from error
    return map_of({key: value or None}, key)


def _pairs(config: Fields, key: str) -> Pairs:
    return _spread(_parsed(config, key))


def _spread(fields: Fields) -> Pairs:
    pairs: Pairs = []
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            found = text(item)
            if found is not None:
                pairs.append((name, found))
    return pairs


def _headers(config: Fields) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in _parsed(config, "headers").items():
        found = text(value)
        if found is not None:
            _check_header(name, found)
            headers[name] = found
    return headers


def _check_header(name: str, value: str) -> None:
    """TL-HT-09."""
    if not _TOKEN.match(name):
        raise configuration(f"headers: '{name[:60]}' is no name of a header")
    if name.lower() in _FORBIDDEN:
        raise configuration(f"headers: {name} cannot be set")
    if _NOT_IN_VALUES.search(value):
        raise configuration(f"headers.{name} contains a line break or NUL")


def _add_auth(config: Fields, headers: dict[str, str], given: set[str]) -> list[JSON]:
    """Credentials as headers; the author's own header wins (TL-HT-11)."""
    secret: list[JSON] = []
    for name, value in http_headers(config.get("auth")).items():
        _check_header(name, value)
        if name.lower() not in given:
            headers[name] = value
            secret.append(name.lower())
    return secret


def _content_type(headers: dict[str, str]) -> str:
    for name, value in headers.items():
        if name.lower() == "content-type":
            return value.partition(";")[0].strip().lower()
    return ""


def _body(
    config: Fields, method: str, headers: dict[str, str], params: Pairs
) -> Fields:
    """The body, by TL-HT-02; ``params`` grows where older ``data`` means it."""
    for key in ("json", "payload"):
        if config.get(key) is not None:
            return _json(config[key], headers)
    if config.get("form") is not None:
        return _form(_pairs(config, "form"), headers)
    if config.get("body") is not None:
        return _raw(config["body"], headers)
    data = config.get("data")
    return {} if data is None else _legacy(data, method, headers, params)


def _json(value: JSON, headers: dict[str, str]) -> Fields:
    if not _content_type(headers):
        headers["Content-Type"] = "application/json"
    return {"content": encode_json(value).decode()}


def _form(pairs: Pairs, headers: dict[str, str]) -> Fields:
    kind = _content_type(headers)
    if kind == "multipart/form-data":
        # The client writes it again, with the boundary it chose.
        for name in [name for name in headers if name.lower() == "content-type"]:
            del headers[name]
        return {"multipart": [list(pair) for pair in pairs]}
    if not kind:
        headers["Content-Type"] = _URLENCODED
    return {"content": urlencode(pairs)}


def _raw(value: JSON, headers: dict[str, str]) -> Fields:
    """A text as it is, anything else as JSON."""
    if not isinstance(value, str):
        return _json(value, headers)
    if not _content_type(headers):
        kind = "application/json" if _is_document(value) else "text/plain"
        headers["Content-Type"] = kind
    return {"content": value}


def _is_document(value: str) -> bool:
    if value.lstrip()[:1] not in ("{", "["):
        return False
    try:
        decode_json(value)
    except (DecodeError, RecursionError):
        return False
    return True


def _legacy(data: JSON, method: str, headers: dict[str, str], params: Pairs) -> Fields:
    """Older ``data``: parameters or body, by method and content type (TL-HT-03)."""
    if isinstance(data, dict) and data and data.keys() <= {"query", "body"}:
        query, body = data.get("query"), data.get("body")
        if isinstance(query, dict) or body is not None:
            params.extend(_spread(_parsed(data, "query")))
            return {} if body is None else _typed(body, headers)
    if method not in _BODYLESS:
        return _typed(data, headers)
    if isinstance(data, str) and not _is_document(data):
        params.extend(parse_qsl(data, keep_blank_values=True))
    else:
        params.extend(_pairs({"data": data}, "data"))
    return {}


def _typed(value: JSON, headers: dict[str, str]) -> Fields:
    form = _content_type(headers) in (_URLENCODED, "multipart/form-data")
    if form and isinstance(value, dict):
        return _form(_spread(value), headers)
    return _raw(value, headers)


def _response_type(config: Fields) -> str:
    kind = text_of(config, "response_type") or "auto"
    if kind not in RESPONSE_TYPES:
        known = ", ".join(RESPONSE_TYPES)
        raise wrong("response_type", config["response_type"], f"one of {known}")
    return kind


def _timeouts(config: Fields) -> Fields:
    """``spec.timeout: {connect, read}`` (TL-SPC-06)."""
    parts = map_of(config, "spec").get("timeout")
    found: Fields = {}
    if isinstance(parts, dict):
        for key in ("connect", "read"):
            seconds = number_of(parts, key)
            if seconds is not None and seconds <= 0:
                raise wrong(f"timeout.{key}", parts[key], "a positive number")
            if seconds is not None:
                found[f"{key}_s"] = seconds
    return found
