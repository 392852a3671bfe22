"""The canonical form of a request: one URL, checked headers, one body (TL-HT-01 to 11).

Nothing an untrusted value holds can end a header, leave its parameter or name another
host than the author's: values are encoded for the place they go to (TL-SEC-03).
"""

from __future__ import annotations

import re
from base64 import b64decode
from decimal import Decimal
from typing import Final
from urllib.parse import SplitResult, unquote, urlencode, urlsplit, urlunsplit

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.errors import TemplateError
from state_builder.records import JSON, encode_json
from state_builder.redact import mask_url
from tools.auth import basic, http_headers
from tools.errors import configuration
from tools.fields import (
    Fields,
    boolean_of,
    first_of,
    map_of,
    number_of,
    reference_of,
    text_of,
    wrong,
)

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
STORED: Final = "stored"
RESPONSE_TYPES: Final = ("auto", "json", "text", "binary", STORED)

_WITHOUT_BODY: Final = frozenset(("GET", "DELETE", "HEAD", "OPTIONS"))
_FORBIDDEN: Final = frozenset(("host", "content-length", "transfer-encoding"))
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

JSON_TYPE: Final = "application/json"
BYTES_TYPE: Final = "application/octet-stream"
FORM_TYPE: Final = "application/x-www-form-urlencoded"
MULTIPART_TYPE: Final = "multipart/form-data"


def canonical(config: Fields) -> Fields:
    """``method``, ``url``, ``headers``, ``content`` or ``multipart``, and options.

    Raises ToolCallError of ``configuration`` or ``auth``, and TemplateError.
    """
    method = (text_of(config, "method") or "GET").upper()
    if method not in METHODS:
        raise wrong("method", method, "one of " + ", ".join(METHODS))
    headers = _headers(_texts(config.get("headers"), "headers"))
    body = _body(config, method, headers.get("content-type", ("", ""))[1])
    url, userinfo = _url(config)
    added = http_headers(config.get("auth"))
    if userinfo and not added:
        added = {"Authorization": userinfo}
    _add(headers, _headers(added))
    kind = body.pop("type")
    if body["multipart"]:
        # Its boundary is known only when it is written.
        headers.pop("content-type", None)
    elif kind:
        _add(headers, {"content-type": ("Content-Type", str(kind))})
    wanted = text_of(config, "response_type") or "auto"
    if wanted not in RESPONSE_TYPES:
        raise wrong("response_type", wanted, "one of " + ", ".join(RESPONSE_TYPES))
    return {
        "method": method,
        "url": _with_params(url, body.pop("params")),
        "headers": dict(headers.values()),
        "secret_headers": [name.lower() for name in added],
        **body,
        "waits": _waits(config),
        "auth_retry": boolean_of(config, "auth_retry", False),
        "follow": boolean_of(config, "follow_redirects", True),
        "verify": boolean_of(
            config, first_of(config, ("verify_ssl", "verify"))[0], True
        ),
        "response_type": wanted,
    }


Headers = dict[str, tuple[str, str]]
"""Lower-case name → name as written, value."""


def _headers(given: dict[str, str]) -> Headers:
    """Checked headers (TL-HT-09)."""
    found: Headers = {}
    for name, value in given.items():
        if not _TOKEN.fullmatch(name):
            raise configuration(
                f"headers: {name[:60]!r} cannot be the name of a header"
            )
        if _CONTROL.search(value):
            raise configuration(f"headers.{name}: a line break or control character")
        if name.lower() in _FORBIDDEN:
            raise configuration(
                f"headers.{name} cannot be set; it follows from the rest"
            )
        found[name.lower()] = (name, value.strip())
    return found


def _add(headers: Headers, added: Headers) -> None:
    """Add headers the author did not give (TL-HT-11)."""
    for key, value in added.items():
        headers.setdefault(key, value)


def _texts(value: JSON, field: str) -> dict[str, str]:
    """A map coerced to texts, null entries dropped; also as JSON text (TL-HT-01)."""
    return {
        name: as_text(item)
        for name, item in _map(value, field).items()
        if item is not None
    }


def _map(value: JSON, field: str) -> Fields:
    if isinstance(value, str) and value.strip():
        try:
            value = decode_json(value)
        except DecodeError:
            raise wrong(field, value, "a map") from None
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise wrong(field, value, "a map")
    return value


def as_text(value: JSON) -> str:
    """A value in a header, a parameter or a form: numbers in plain decimal."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return encode_json(value).decode()


def _url(config: Fields) -> tuple[str, str]:
    """The address, and the basic auth of its userinfo (TL-HT-10)."""
    key, url = first_of(config, ("url", "endpoint"))
    if not isinstance(url, str) or not url.strip():
        raise wrong(key, url, "an http or https address")
    url = url.strip()
    if "{{" in url or "{%" in url:
        raise TemplateError(f"{key}: a template is left in '{url[:200]}'")
    parts = _split(key, url)
    userinfo, _, host = parts.netloc.rpartition("@")
    if not userinfo:
        return url, ""
    user, _, password = userinfo.partition(":")
    bare = urlunsplit(parts._replace(netloc=host))
    return bare, basic(unquote(user), unquote(password))


def _split(key: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme.lower() in ("http", "https") and parts.hostname:
            _ = parts.port
            return parts
    except ValueError:
        pass
    shown = url[:200] if "@" not in url else mask_url(url)[:200]
    raise configuration(f"{key}: '{shown}' is no http or https address")


def _with_params(url: str, params: JSON) -> str:
    """The address with parameters added to its query; a list repeats a name."""
    pairs: list[tuple[str, str]] = []
    for name, item in _map(params, "params").items():
        several = item if isinstance(item, list) else [item]
        pairs += [(name, as_text(one)) for one in several if one is not None]
    if not pairs:
        return url
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(pairs))))
    return urlunsplit(parts._replace(query=query))


def _body(config: Fields, method: str, content_type: str) -> Fields:
    """Content or parts, type, parameters: ``json``, else ``form``, else what
    ``body_ref`` names, else ``body``.

    The older ``data`` counts where none of them is given (TL-HT-02, TL-HT-03).
    """
    found: Fields = {"content": None, "multipart": [], "type": "", "body_ref": ""}
    found["params"] = config.get("params")
    json = first_of(config, ("json", "payload"))[1]
    if json is not None:
        return {**found, "content": encode_json(json).decode(), "type": JSON_TYPE}
    if config.get("form") is not None:
        return {**found, **_form(config["form"], "form")}
    if config.get("body_ref") is not None:
        reference = reference_of(config["body_ref"])
        if not reference:
            raise wrong("body_ref", config["body_ref"], "a reference to a stored value")
        return {**found, "body_ref": reference, "type": BYTES_TYPE}
    if config.get("body") is not None:
        return {**found, **_plain(config["body"])}
    if config.get("data") is None:
        return found
    params, body = _older(config["data"], method)
    if found["params"] is None:
        found["params"] = params
    return found if body is None else {**found, **_typed(body, content_type)}


def _older(data: JSON, method: str) -> tuple[JSON, JSON]:
    """Parameters and body of the older ``data``."""
    if isinstance(data, dict) and ("query" in data or "body" in data):
        return data.get("query"), data.get("body")
    return (data, None) if method in _WITHOUT_BODY else (None, data)


def _typed(body: JSON, content_type: str) -> Fields:
    """A body in the form its Content-Type asks for."""
    kind = content_type.partition(";")[0].strip().lower()
    if isinstance(body, str):
        return _plain(body)
    if kind == FORM_TYPE:
        return _form(body, "data")
    if kind == MULTIPART_TYPE:
        return {"multipart": _multipart(_map(body, "data"))}
    return {"content": encode_json(body).decode(), "type": JSON_TYPE}


def _form(value: JSON, field: str) -> Fields:
    return {"content": urlencode(_texts(value, field)), "type": FORM_TYPE}


def _plain(body: JSON) -> Fields:
    """A text as it is, anything else as JSON."""
    if not isinstance(body, str):
        return {"content": encode_json(body).decode(), "type": JSON_TYPE}
    kind = "text/plain"
    if body.lstrip()[:1] in ("{", "["):
        try:
            decode_json(body)
            kind = JSON_TYPE
        except (DecodeError, RecursionError):
            pass  # only looks like JSON
    return {"content": body, "type": kind}


def _multipart(form: Fields) -> list[JSON]:
    """Parts of a form; a map with ``filename`` is a file.

    Its content is ``content`` (text) or ``base64``; ``content_type`` is optional.
    """
    parts: list[JSON] = []
    for name, value in form.items():
        if isinstance(value, dict) and "filename" in value:
            parts.append({"name": name, **_file(f"data.{name}", value)})
        elif value is not None:
            parts.append({"name": name, "value": as_text(value)})
    return parts


def _file(field: str, value: Fields) -> Fields:
    found: Fields = {
        "filename": text_of(value, "filename", f"{field}."),
        "content_type": text_of(value, "content_type", f"{field}."),
        "value": as_text(value.get("content") or ""),
    }
    encoded = value.get("base64")
    if encoded is not None:
        try:
            b64decode(str(encoded), validate=True)
        except ValueError as error:
            raise configuration(f"{field}.base64: {error}") from error
        found["base64"] = str(encoded)
    return found


def _waits(config: Fields) -> Fields:
    """``spec.timeout: {connect, read}`` in seconds (TL-SPC-06)."""
    given = map_of(config, "spec").get("timeout")
    if not isinstance(given, dict):
        return {}
    waits: Fields = {}
    for key in ("connect", "read"):
        seconds = number_of(given, key)
        if seconds is not None and seconds <= 0:
            raise wrong(f"spec.timeout.{key}", seconds, "a positive number of seconds")
        if seconds is not None:
            waits[key] = seconds
    return waits
