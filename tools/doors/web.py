"""The way out to HTTP: pooled clients, egress rules, bounded bodies (TL-SEC-05).

Every address is resolved and checked before it is called, and again after each
redirect; a body is read only as far as its limit.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

import anyio
import httpx

from state_builder.records import ToolFailure
from tools.contract import ToolLimits
from tools.errors import ToolCallError, configuration

REDIRECTS_MAX: Final = 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SECRET_HEADERS: Final = ("authorization", "cookie", "x-api-key", "proxy-authorization")


@dataclass(frozen=True, kw_only=True)
class WebRequest:
    """One request, ready to go."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None = None
    timeout_s: float = 30.0
    verify: bool = True
    follow: bool = True


@dataclass(frozen=True, kw_only=True)
class WebResponse:
    """What came back: the final address, and the whole body."""

    status: int
    reason: str
    headers: httpx.Headers
    body: bytes
    url: str


class Web:
    """Clients of one worker, one per way of checking certificates (TL-HT-13)."""

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._denied = [ipaddress.ip_network(one) for one in limits.http_deny_cidrs]
        self._clients: dict[bool, httpx.AsyncClient] = {}

    async def close(self) -> None:
        """Drop the connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    def _client(self, verify: bool) -> httpx.AsyncClient:
        client = self._clients.get(verify)
        if client is None:
            client = self._clients[verify] = httpx.AsyncClient(
                verify=verify,
                trust_env=self._limits.http_trust_env,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=200, max_keepalive_connections=50),
            )
        return client

    async def send(self, request: WebRequest) -> WebResponse:
        """Send, follow redirects, read the body.

        Raises:
            ToolCallError: transport trouble, a denied address, a body over the limit.
        """
        method, url, content = request.method, request.url, request.content
        headers = {name.lower(): value for name, value in request.headers.items()}
        for _ in range(REDIRECTS_MAX + 1):
            await self._check(url)
            response = await self._once(request, method, url, headers, content)
            location = response.headers.get("location")
            if not request.follow or response.status not in _REDIRECTS or not location:
                return response
            target = urljoin(url, location)
            if response.status == 303 or (
                response.status in (301, 302) and method == "POST"
            ):
                method, content = "GET", None
                headers.pop("content-type", None)
            if _origin(target) != _origin(url):
                headers = {
                    name: value
                    for name, value in headers.items()
                    if name not in _SECRET_HEADERS
                }
            url = target
        raise ToolCallError(
            ToolFailure(
                kind="client_error", message=f"more than {REDIRECTS_MAX} redirects"
            )
        )

    async def _once(
        self,
        request: WebRequest,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes | None,
    ) -> WebResponse:
        client = self._client(request.verify)
        try:
            async with client.stream(
                method,
                url,
                headers=dict(headers),
                content=content,
                timeout=request.timeout_s,
            ) as response:
                return WebResponse(
                    status=response.status_code,
                    reason=response.reason_phrase,
                    headers=response.headers,
                    body=await self._body(response),
                    url=url,
                )
        except httpx.TimeoutException as error:
            text = f"no answer from {_shown(url)} within {request.timeout_s:g} s"
            raise _failure("timeout", "TIMEOUT", text, True) from error
        except httpx.TransportError as error:
            certificate = isinstance(error.__cause__, ssl.SSLCertVerificationError)
            text = f"{_shown(url)}: {error or type(error).__name__}"
            raise _failure("connection", "CONNECTION", text, not certificate) from error
        except httpx.InvalidURL as error:
            raise configuration(f"url: {error}") from error

    async def _body(self, response: httpx.Response) -> bytes:
        most = self._limits.http_body_bytes_max
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > most:
                text = f"the response body is larger than {most} bytes"
                raise _failure("limit", "http_body_bytes_max", text, False)
            parts.append(part)
        return b"".join(parts)

    async def _check(self, url: str) -> None:
        """Refuse addresses that tools may not call, as the name resolves now."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise configuration("url must be http://… or https://… with a host")
        if not self._denied:
            return
        try:
            found = await anyio.getaddrinfo(parts.hostname, None)
        except socket.gaierror as error:
            text = f"{parts.hostname}: the name cannot be resolved"
            raise _failure("connection", "CONNECTION", text, True) from error
        for _, _, _, _, place in found:
            address = ipaddress.ip_address(str(place[0]).partition("%")[0])
            mapped = getattr(address, "ipv4_mapped", None)
            if any((mapped or address) in network for network in self._denied):
                raise configuration(
                    f"url: {parts.hostname} is an address tools may not call"
                )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"


def _failure(kind: str, code: str, message: str, retryable: bool) -> ToolCallError:
    failure = ToolFailure(kind=kind, code=code, message=message, retryable=retryable)
    return ToolCallError(failure, helpers={"http": {"status": 0, "headers": {}}})
