"""``http``: one request, its body parsed, failures by status (TL §3.3)."""

from __future__ import annotations

import base64
import re
import time
from email.utils import parsedate_to_datetime
from typing import ClassVar, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.records import JSON, ToolFailure, encode_json
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.web import Web, WebRequest, WebResponse
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, boolean_of, first_of, map_of, text_of, wrong

METHODS: Final = frozenset(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
_WITHOUT_BODY: Final = frozenset(["GET", "DELETE", "HEAD", "OPTIONS"])
_FORBIDDEN: Final = frozenset({"host", "content-length", "transfer-encoding"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BINARY: Final = re.compile(
    r"(image|audio|video|font)/|application/(octet|zip|gzip|pdf)"
)
DEFAULT_TIMEOUT_S: Final = 30.0


class Http(Tool):
    """Sends one request; retries and pagination are the playbook's business."""

    kind: ClassVar[str] = "http"

    def __init__(self, limits: ToolLimits) -> None:
        self._web = Web(limits)

    def validate(self, config: Fields) -> Fields:
        """Canonical ``method``, ``url``, ``headers``, ``content`` and options."""
        _, url = first_of(config, ("url", "endpoint"))
        if not isinstance(url, str) or not url:
            raise configuration("url is required")
        method = (text_of(config, "method") or "GET").upper()
        if method not in METHODS:
            raise wrong("method", method, "one of " + ", ".join(sorted(METHODS)))
        legacy = _legacy(config, method)
        headers = _headers({**_auth(config), **_texts(config, "headers")})
        content, kind = _content({**legacy, **config}, headers)
        if kind and "content-type" not in {name.lower() for name in headers}:
            headers["content-type"] = kind
        url, userinfo = _without_userinfo(url)
        if userinfo and "authorization" not in {name.lower() for name in headers}:
            headers["authorization"] = userinfo
        _, verify = first_of(config, ("verify_ssl", "verify"))
        return {
            "method": method,
            "url": _with_params(url, _params({**legacy, **config})),
            "headers": dict(headers),
            "content": content,
            "follow": boolean_of(config, "follow_redirects", True),
            "verify": boolean_of({"verify": verify}, "verify", True),
            "response_type": text_of(config, "response_type") or "auto",
        }

    def default_timeout_s(self, config: Fields) -> float | None:
        """TL §3.3: 30 s where nobody says otherwise."""
        return DEFAULT_TIMEOUT_S

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """Success is 2xx; anything else is an error that keeps the whole data."""
        headers = {name: str(text) for name, text in map_of(config, "headers").items()}
        headers.setdefault("Idempotency-Key", call.command_id)
        if call.traceparent:
            headers.setdefault("traceparent", call.traceparent)
        content = config["content"]
        request = WebRequest(
            method=str(config["method"]),
            url=str(config["url"]),
            headers=headers,
            content=content.encode() if isinstance(content, str) else None,
            read_s=call.timeout_s,
            verify=bool(config["verify"]),
            follow_redirects=bool(config["follow"]),
        )
        begun = time.monotonic()
        response = await self._web.fetch(request)
        elapsed = time.monotonic() - begun
        data = _data(response, str(config["response_type"]), elapsed)
        helpers: Fields = {
            "http": {"status": response.status, "headers": data["headers"]}
        }
        if 200 <= response.status < 300:
            return ToolResult(data=data, form="http", helpers=helpers)
        raise ToolCallError(_failure(response), data=data, form="http", helpers=helpers)

    async def close(self) -> None:
        """Drop the connections."""
        await self._web.close()


def _texts(config: Fields, key: str) -> dict[str, str]:
    """A map coerced to texts; null entries dropped (TL-HT-01)."""
    value = config.get(key)
    if isinstance(value, str) and value.strip():
        try:
            value = decode_json(value)
        except DecodeError as error:
            raise wrong(key, value, "a map") from error
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise wrong(key, value, "a map")
    return {name: _text(item) for name, item in value.items() if item is not None}


def _text(value: JSON) -> str:
    if isinstance(value, str):
        return value
    return encode_json(value).decode()


def _headers(given: dict[str, str]) -> dict[str, str]:
    for name, value in given.items():
        if not _TOKEN.fullmatch(name) or any(char in value for char in "\r\n\0"):
            raise configuration(f"headers: '{name[:40]}' is no valid header")
        if name.lower() in _FORBIDDEN:
            raise configuration(f"headers: {name} cannot be set")
    return given


def _auth(config: Fields) -> dict[str, str]:
    """A structured block as a header (TL-AUT-02)."""
    auth = config.get("auth")
    if not isinstance(auth, dict):
        return {}
    kind = str(auth.get("type") or "none")
    if kind == "none":
        return {}
    if kind == "bearer":
        return {"authorization": f"Bearer {auth.get('token') or ''}"}
    if kind == "basic":
        pair = f"{auth.get('username') or ''}:{auth.get('password') or ''}"
        return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    if kind == "api_key":
        return {str(auth.get("header") or "X-API-Key"): str(auth.get("token") or "")}
    raise configuration(f"auth.type '{kind}': use bearer, basic, api_key or none")


def _legacy(config: Fields, method: str) -> Fields:
    """The older ``data`` key (TL-HT-03); explicit keys win over it."""
    data = config.get("data")
    if data is None:
        return {}
    if isinstance(data, dict) and ("query" in data or "body" in data):
        return {"params": data.get("query"), "body": data.get("body")}
    return {"params": data} if method in _WITHOUT_BODY else {"json": data}


def _content(config: Fields, headers: dict[str, str]) -> tuple[str | None, str]:
    """Body text and its type: ``json`` > ``form`` > ``body`` (TL-HT-02)."""
    _, value = first_of(config, ("json", "payload"))
    if value is not None:
        return _text(value) if not isinstance(value, str) else value, "application/json"
    form = _texts(config, "form")
    if form:
        return urlencode(form), "application/x-www-form-urlencoded"
    body = config.get("body")
    if body is None:
        return None, ""
    if isinstance(body, str):
        structured = body.strip()[:1] in ("{", "[")
        return body, "application/json" if structured else "text/plain"
    return encode_json(body).decode(), "application/json"


def _params(config: Fields) -> list[tuple[str, str]]:
    value = config.get("params")
    if isinstance(value, str) and value.strip():
        value = decode_json(value)
    if not value:
        return []
    if not isinstance(value, dict):
        raise wrong("params", value, "a map")
    pairs: list[tuple[str, str]] = []
    for name, item in value.items():
        several = item if isinstance(item, list) else [item]
        pairs += [(name, _text(one)) for one in several if one is not None]
    return pairs


def _with_params(url: str, pairs: list[tuple[str, str]]) -> str:
    if not pairs:
        return url
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(pairs))))
    return urlunsplit(parts._replace(query=query))


def _without_userinfo(url: str) -> tuple[str, str]:
    """User and password of an address become basic auth (TL-HT-10)."""
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, ""
    header = "Basic " + base64.b64encode(userinfo.encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), header


def _data(response: WebResponse, wanted: str, elapsed: float) -> Fields:
    headers: Fields = {}
    for name, value in response.headers:
        known = headers.get(name)
        headers[name] = f"{known}, {value}" if known else value
    if "set-cookie" in headers:
        headers["set-cookie"] = "[REDACTED]"
    parts = urlsplit(response.url)
    return {
        "status_code": response.status,
        "headers": headers,
        "body": _body(response, wanted),
        "url": urlunsplit(parts._replace(fragment="")),
        "elapsed": round(elapsed, 6),
    }


def _header(response: WebResponse, name: str) -> str | None:
    """The first header of that lower-case name."""
    return next((value for known, value in response.headers if known == name), None)


def _body(response: WebResponse, wanted: str) -> JSON:
    """The parsed body (TL-HT-05)."""
    raw = response.body
    if not raw:
        return None
    kind = _header(response, "content-type") or ""
    if wanted == "binary" or (wanted == "auto" and _BINARY.match(kind)):
        return {"base64": base64.b64encode(raw).decode(), "size": len(raw)}
    if wanted in ("auto", "json"):
        try:
            decoded: JSON = decode_json(raw)
        except DecodeError:
            pass  # not JSON: the text itself is the body
        else:
            return decoded
    charset = re.search(r"charset=([\w-]+)", kind)
    try:
        return raw.decode(charset.group(1) if charset else "utf-8", "replace")
    except LookupError:
        return raw.decode("utf-8", "replace")


_KINDS: Final[dict[int, tuple[str, bool]]] = {
    401: ("auth", False),
    403: ("auth", False),
    404: ("not_found", False),
    408: ("timeout", True),
    429: ("rate_limit", True),
}


def _failure(response: WebResponse) -> ToolFailure:
    """The error of a status outside 2xx (TL-ERR-02)."""
    status = response.status
    server = status >= 500
    kind, retryable = _KINDS.get(
        status, ("server_error" if server else "client_error", server)
    )
    return ToolFailure(
        kind=kind,
        code=f"HTTP_{status}",
        message=f"HTTP {status} {response.reason}".strip(),
        retryable=retryable,
        status_code=status,
        retry_after=_retry_after(_header(response, "retry-after")),
        source="http",
    )


def _retry_after(value: str | None) -> float | None:
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
