"""Sends what the configuration says and reads the answer (TL §3.3)."""

from __future__ import annotations

from typing import ClassVar, Final, cast

from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.web import Web, WebRequest
from tools.fields import Fields
from tools.kinds.http.answer import result_of
from tools.kinds.http.config import canonical

TIMEOUT_S: Final = 30.0


class Http(Tool):
    """HTTP requests over pooled connections; no retries, no pagination (TL-HT-12)."""

    kind: ClassVar[str] = "http"
    clamped: ClassVar[bool] = True
    timeout_as: ClassVar[tuple[str, str]] = ("timeout", "TIMEOUT")

    def __init__(self, limits: ToolLimits) -> None:
        self._web = Web(limits)

    def validate(self, config: Fields) -> Fields:
        """See :mod:`tools.kinds.http.config`."""
        return canonical(config)

    def default_timeout_s(self, config: Fields) -> float | None:
        """30 s (TL §3.3)."""
        return TIMEOUT_S

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """``{status_code, headers, body, url, elapsed}`` of a 2xx answer."""
        response = await self._web.fetch(_request(config, call))
        return result_of(response, str(config["response_type"]))

    async def close(self) -> None:
        """Close all connections."""
        await self._web.close()


def _request(config: Fields, call: CallContext) -> WebRequest:
    headers = dict(cast("dict[str, str]", config["headers"]))
    names = {name.lower() for name in headers}
    if call.traceparent and "traceparent" not in names:
        headers["traceparent"] = call.traceparent
    content = config.get("content")
    pairs = cast("list[list[str]]", config.get("multipart") or [])
    return WebRequest(
        method=str(config["method"]),
        url=str(config["url"]),
        headers=headers,
        content=content.encode() if isinstance(content, str) else None,
        multipart=tuple((name, value) for name, value in pairs),
        secret_headers=frozenset(cast("list[str]", config["secret_headers"])),
        connect_s=cast("float", config.get("connect_s", call.timeout_s)),
        read_s=cast("float", config.get("read_s", call.timeout_s)),
        verify=config["verify"] is True,
        follow_redirects=config["follow_redirects"] is True,
    )
