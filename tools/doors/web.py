"""HTTP out: pooled clients, capped bodies, checked addresses, honest redirects.

The address a connection really reached is checked before the first byte is sent, on
every connection and so on every hop of a redirect (TL-SEC-05). Cookies are never kept.
"""

from __future__ import annotations

import ssl
import time
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address, ip_network
from typing import Any, Final, TypeAlias
from urllib.parse import urljoin, urlsplit

import anyio
import httpx
import structlog

from state_builder.records import JSON, ToolFailure
from state_builder.redact import mask_url
from state_builder.values import OpenObject
from tools.contract import ToolLimits
from tools.doors.encodings import ENCODINGS, decoder_of
from tools.errors import ToolCallError, configuration

log = structlog.get_logger()

REDIRECTS_MAX: Final = 10
USER_AGENT: Final = "noetl"

IDLE_MAX: Final = 50
"""Connections kept for later requests."""

KEEPALIVE_S: Final = 30.0
"""How long a connection is kept that nobody uses."""

_Origin: TypeAlias = tuple[str, str, int | None]

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_BODY_HEADERS: Final = frozenset(("content-type", "content-length", "content-encoding"))
_CREDENTIAL_HEADERS: Final = frozenset(
    ("authorization", "cookie", "proxy-authorization", "x-api-key", "api-key")
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a multipart form; one with a file name is a file.

    Attributes:
        base64: the content where it is no text.
    """

    name: str
    value: str = ""
    base64: str = ""
    filename: str | None = None
    content_type: str | None = None

    @property
    def content(self) -> bytes:
        """The bytes of the part."""
        return b64decode(self.base64) if self.base64 else self.value.encode()


Keep: TypeAlias = Callable[[str, AsyncIterator[bytes]], Awaitable[dict[str, JSON]]]
"""Content type and body of an answer → what stands for it."""


@dataclass(frozen=True, kw_only=True)
class WebRequest:
    """One request.

    Attributes:
        headers: name → value, as the author spells names.
        multipart: parts of a multipart form; then ``content`` is not used.
        source: opens the body where it is sent piece by piece, not from memory.
        secret_headers: lower-case names that stay with the origin (TL-HT-08).
        body_bytes_max: cap of the answer's body; 0 = the worker's.
        keep: takes the body of a 2xx answer piece by piece, however long it is.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    multipart: tuple[Part, ...] = ()
    source: Callable[[], Awaitable[OpenObject]] | None = None
    secret_headers: frozenset[str] = frozenset()
    connect_s: float = 30.0
    read_s: float = 30.0
    verify: bool = True
    follow_redirects: bool = True
    body_bytes_max: int = 0
    keep: Keep | None = None


@dataclass(frozen=True, kw_only=True)
class WebResponse:
    """One answer, read to its end.

    Attributes:
        headers: in order, names lower-case; a name may occur again.
        body: empty where the request's ``keep`` took it; then ``kept`` is its answer.
        url: of the last hop.
    """

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    kept: dict[str, JSON] | None = None
    url: str
    elapsed_s: float

    def header(self, name: str) -> str:
        """The first header of that lower-case name, else an empty text."""
        return next((value for known, value in self.headers if known == name), "")


class _Lanes(httpx.AsyncBaseTransport):
    """A pool of one connection for each request on its way.

    The library's pool looks at each of its connections, several times over, whenever a
    request comes or goes: with 50 of them that is most of what a call costs. A worker's
    slots bound how many lanes are in use.
    """

    def __init__(self, verify: bool) -> None:
        self._context = httpx.create_ssl_context(verify=verify, trust_env=False)
        self._idle: list[tuple[_Origin, httpx.AsyncHTTPTransport]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See the library."""
        url = request.url
        origin = (url.scheme, url.host, url.port)
        lane = self._take(origin)
        try:
            response = await lane.handle_async_request(request)
        except BaseException:
            await _leave(lane)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Lent(response.stream, partial(self._give, origin, lane))
        return response

    async def aclose(self) -> None:
        """Close what is idle."""
        idle, self._idle = self._idle, []
        for _, lane in idle:
            await _leave(lane)

    def _take(self, origin: _Origin) -> httpx.AsyncHTTPTransport:
        """The lane used last, so that those no longer needed grow old."""
        for place in reversed(range(len(self._idle))):
            if self._idle[place][0] == origin:
                return self._idle.pop(place)[1]
        limits = httpx.Limits(max_connections=1, keepalive_expiry=KEEPALIVE_S)
        return httpx.AsyncHTTPTransport(
            verify=self._context, trust_env=False, limits=limits
        )

    async def _give(self, origin: _Origin, lane: httpx.AsyncHTTPTransport) -> None:
        self._idle.append((origin, lane))
        if len(self._idle) > IDLE_MAX:
            await _leave(self._idle.pop(0)[1])


class _Lent(httpx.AsyncByteStream):
    """The body of an answer; closing it gives the lane back."""

    def __init__(
        self, body: httpx.AsyncByteStream, give: Callable[[], Awaitable[None]]
    ) -> None:
        self._body = body
        self._give = give

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            yield part

    async def aclose(self) -> None:
        """See the library; called once."""
        await self._body.aclose()
        await self._give()


async def _leave(lane: httpx.AsyncHTTPTransport) -> None:
    with anyio.CancelScope(shield=True):
        await lane.aclose()


class Web:
    """One client for each way to verify; made when first needed."""

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self._denied = [ip_network(cidr) for cidr in limits.http_deny_cidrs]
        self._allowed = [ip_network(cidr) for cidr in limits.http_allow_cidrs]
        self._unverified: set[str] = set()

    async def fetch(self, request: WebRequest) -> WebResponse:
        """The answer to a request, redirects followed where asked.

        Raises ToolCallError: ``configuration``, ``timeout``, ``connection``, ``limit``.
        """
        started = time.monotonic()
        for _ in range(REDIRECTS_MAX + 1):
            response, body, kept = await self._hop(request)
            location = response.headers.get("location")
            redirected = response.status_code in _REDIRECTS and location
            if not redirected or not request.follow_redirects:
                elapsed = time.monotonic() - started
                answer = _answer(response, body, request.url, elapsed)
                return replace(answer, kept=kept)
            request = _next(request, response.status_code, str(location))
        raise _failure(
            "client_error", "TOO_MANY_REDIRECTS", f"more than {REDIRECTS_MAX} redirects"
        )

    async def close(self) -> None:
        """Close all connections."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()

    async def _hop(
        self, request: WebRequest
    ) -> tuple[httpx.Response, bytes, dict[str, JSON] | None]:
        try:
            host = urlsplit(request.url).hostname or ""
            self._check_address(host, host)
            client = self._client(request.verify, host)
            opened = await request.source() if request.source else None
            response = await client.send(
                self._built(client, request, host, opened),
                stream=True,
                auth=None,
                follow_redirects=False,
            )
            try:
                if request.keep is not None and response.is_success:
                    kind = response.headers.get("content-type", "")
                    kept = await request.keep(kind, _pieces(response))
                    return response, b"", kept
                return response, await self._read(response, request), None
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except (httpx.InvalidURL, ValueError, UnicodeError) as error:
            raise configuration(f"url: {error}") from error
        except httpx.HTTPError as error:
            raise _transport_failure(error, mask_url(request.url)) from error

    def _built(
        self,
        client: httpx.AsyncClient,
        request: WebRequest,
        host: str,
        opened: OpenObject | None,
    ) -> httpx.Request:
        parts = [
            (part.name, (part.filename, part.content, part.content_type))
            for part in request.multipart
        ]
        headers = [
            (name.encode(), text.encode()) for name, text in request.headers.items()
        ]
        if opened is not None:
            headers.append((b"Content-Length", b"%d" % opened.info.bytes))
        content = request.content if opened is None else opened.chunks
        return client.build_request(
            request.method,
            request.url,
            headers=headers,
            content=None if parts else content,
            files=parts or None,
            timeout=httpx.Timeout(request.read_s, connect=request.connect_s),
            extensions={"trace": self._guard(host)},
        )

    async def _read(self, response: httpx.Response, request: WebRequest) -> bytes:
        """The whole body, decompressed, within the cap (TL-LIM-04)."""
        limit = request.body_bytes_max or self._limits.http_body_bytes_max
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise _too_large(limit)
        body = bytearray()
        async for piece in _pieces(response):
            body += piece
            if len(body) > limit:
                raise _too_large(limit)
        return bytes(body)

    def _client(self, verify: bool, host: str) -> httpx.AsyncClient:
        if not verify and host not in self._unverified:
            self._unverified.add(host)
            log.warning("http.certificates_not_verified", host=host)
        client = self._clients.get(verify)
        if client is None:
            client = self._clients[verify] = httpx.AsyncClient(
                verify=verify,
                trust_env=self._limits.http_trust_env,
                headers={"user-agent": USER_AGENT, "accept-encoding": ENCODINGS},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                # Proxies of the environment need the library's own choice of ways.
                transport=None if self._limits.http_trust_env else _Lanes(verify),
            )
        return client

    def _guard(self, host: str) -> Any:
        """A callback that sees each new connection before anything is sent on it."""

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            if event != "connection.connect_tcp.complete":
                return
            stream = info["return_value"]
            address = stream.get_extra_info("server_addr")
            try:
                self._check_address(str(address[0]), host)
            except ToolCallError:
                await stream.aclose()
                raise

        return trace

    def _check_address(self, text: str, host: str) -> None:
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return  # A name: what it leads to is checked when connected.
        mapped = getattr(address, "ipv4_mapped", None)
        reached = (address,) if mapped is None else (address, mapped)
        for network in self._denied:
            if any(one in network for one in reached):
                text = f"url: {host} is at {address}, in the denied range {network}"
                raise configuration(text)
        if self._allowed and not any(
            one in network for network in self._allowed for one in reached
        ):
            text = f"url: {host} is at {address}, in none of the allowed ranges"
            raise configuration(text)


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body, decompressed. Raises ToolCallError."""
    decoder = decoder_of(response.headers.get("content-encoding", ""))
    async for chunk in response.aiter_raw():
        try:
            for piece in decoder.pieces(chunk):
                yield piece
        except zlib.error as error:
            text = f"the response body cannot be decompressed: {error}"
            raise _failure("server_error", "DECODING", text) from error


def _next(request: WebRequest, status: int, location: str) -> WebRequest:
    """The request a redirect asks for (TL-HT-08)."""
    url = urljoin(request.url, location)
    old, new = urlsplit(request.url), urlsplit(url)
    if new.scheme not in ("http", "https") or not new.hostname:
        text = f"redirect to {mask_url(url)[:200]}, which is no http URL"
        raise _failure("client_error", "REDIRECT", text)
    dropped: frozenset[str] = frozenset()
    if _origin(old.scheme, old.hostname, old.port) != _origin(
        new.scheme, new.hostname, new.port
    ):
        dropped = _CREDENTIAL_HEADERS | request.secret_headers
    method = request.method
    becomes_get = status == 303 and method != "HEAD"
    if becomes_get or (status in (301, 302) and method == "POST"):
        dropped |= _BODY_HEADERS
        request = replace(
            request, method="GET", content=None, multipart=(), source=None
        )
    headers = {
        name: value
        for name, value in request.headers.items()
        if name.lower() not in dropped
    }
    return replace(request, url=url, headers=headers)


def _origin(scheme: str, host: str | None, port: int | None) -> tuple[str, str, int]:
    return scheme, (host or "").lower(), port or (443 if scheme == "https" else 80)


def _answer(
    response: httpx.Response, body: bytes, url: str, elapsed_s: float
) -> WebResponse:
    return WebResponse(
        status=response.status_code,
        reason=response.reason_phrase,
        headers=[
            (name.lower(), value) for name, value in response.headers.multi_items()
        ],
        body=body,
        url=url,
        elapsed_s=elapsed_s,
    )


def _transport_failure(error: httpx.HTTPError, url: str) -> ToolCallError:
    """TL-ERR-02: no answer at all."""
    text = f"{url}: {_chain(error)}"
    if isinstance(error, httpx.TimeoutException):
        return _failure("timeout", "TIMEOUT", text, retryable=True)
    if isinstance(error, httpx.UnsupportedProtocol):
        return configuration(f"url: {text}")
    return _failure(
        "connection", "CONNECTION", text, retryable=not _is_certificate(error)
    )


def _too_large(limit: int) -> ToolCallError:
    text = f"the response body is larger than {limit:,} bytes"
    return _failure("limit", "http_body_bytes_max", text)


def _is_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _chain(error: BaseException) -> str:
    """``outer: inner: root``, each said once (TL-ERR-03)."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < 5:
        text = str(current) or type(current).__name__
        if not parts or text != parts[-1]:
            parts.append(text)
        current = current.__cause__
    return ": ".join(parts)


def _failure(
    kind: str, code: str, message: str, *, retryable: bool = False
) -> ToolCallError:
    helpers: dict[str, JSON] = {"http": {"status": 0, "headers": {}}, "exit_code": 1}
    return ToolCallError(
        ToolFailure(kind=kind, code=code, message=message, retryable=retryable),
        helpers=helpers,
    )
