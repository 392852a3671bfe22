"""Sends one request and says what came of it; retries and pages are the playbook's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import ClassVar, Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from state_builder.records import JSON, ToolFailure
from state_builder.values import OpenObject
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.statuses import failure_of
from tools.doors.web import Keep, Part, Web, WebRequest, WebResponse
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, map_of
from tools.kinds.http.request import STORED, canonical
from tools.kinds.http.response import data_of, is_binary, text_of_body

DEFAULT_TIMEOUT_S: Final = 30.0

STDOUT_MAX: Final = 4096
"""Characters of a body that later rules see as ``stdout`` (TL-HT-05)."""

INTERNAL_API: Final = "/api/internal"

_TOO_LARGE_TO_READ: Final = (
    "with response_type: stored it goes into the result store piece by piece, and "
    "body.ref names it"
)


class Http(Tool):
    """One pooled client for all calls of a worker (TL-HT-13)."""

    kind: ClassVar[str] = "http"
    clamped: ClassVar[bool] = True
    timeout_as: ClassVar[tuple[str, str]] = ("timeout", "TIMEOUT")

    def __init__(self, limits: ToolLimits) -> None:
        super().__init__(limits)
        self._web = Web(limits)
        self._server = urlsplit(limits.server_url)

    def blank(self, failure: ToolFailure) -> Fields:
        """A call without an answer."""
        return {"http": {"status": 0, "headers": {}}, "exit_code": 1}

    def validate(self, config: Fields) -> Fields:
        """See :func:`tools.kinds.http.request.canonical`."""
        return canonical(config)

    def default_timeout_s(self, config: Fields) -> float | None:
        """TL §3.3: 30 s where nobody says otherwise."""
        return DEFAULT_TIMEOUT_S

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """Success is 2xx; anything else is an error that keeps the whole data."""
        self._refuse_internal(str(config["url"]), call.path)
        response = await self._answer(_request(config, call))
        wanted = str(config["response_type"])
        if wanted == STORED:
            # What was not kept is an error's body, and read as any other.
            wanted = "auto"
        data = data_of(response, wanted)
        helpers: Fields = {
            "http": {"status": response.status, "headers": data["headers"]},
            "exit_code": 0,
        }
        if response.body and not is_binary(response, wanted):
            helpers["stdout"] = text_of_body(response)[:STDOUT_MAX]
        if 200 <= response.status < 300:
            return ToolResult(data=data, form="http", helpers=helpers)
        helpers["exit_code"] = 1
        raise ToolCallError(
            failure_of(response, source="http"), data=data, form="http", helpers=helpers
        )

    async def _answer(self, request: WebRequest) -> WebResponse:
        try:
            return await self._web.fetch(request)
        except ToolCallError as error:
            if error.failure.code != "http_body_bytes_max" or request.keep is not None:
                raise
            text = f"{error.failure.message}; {_TOO_LARGE_TO_READ}"
            failure = replace(error.failure, message=text)
            raise ToolCallError(failure, helpers=error.helpers) from error

    async def close(self) -> None:
        """Drop the connections."""
        await self._web.close()

    def _refuse_internal(self, url: str, path: str) -> None:
        """The server's own internal API is for system playbooks alone (TL-SEC-05)."""
        parts = urlsplit(url)
        server = self._server
        if (parts.hostname, parts.port) != (server.hostname, server.port):
            return
        if parts.path.startswith(INTERNAL_API) and not path.startswith("system/"):
            raise configuration(
                "url: the server's internal API is not open to playbooks"
            )


def _request(config: Fields, call: CallContext) -> WebRequest:
    headers = {name: str(text) for name, text in map_of(config, "headers").items()}
    known = {name.lower() for name in headers}
    if "idempotency-key" not in known:
        headers["Idempotency-Key"] = call.key
    if call.traceparent and "traceparent" not in known:
        headers["traceparent"] = call.traceparent
    content, secret = config["content"], config["secret_headers"]
    waits = map_of(config, "waits")
    assert isinstance(secret, list)
    return WebRequest(
        method=str(config["method"]),
        url=str(config["url"]),
        headers=headers,
        content=content.encode() if isinstance(content, str) else None,
        multipart=_parts(config["multipart"]),
        secret_headers=frozenset(map(str, secret)),
        connect_s=_wait(waits.get("connect"), call),
        read_s=_wait(waits.get("read"), call),
        verify=config["verify"] is True,
        follow_redirects=config["follow"] is True,
        source=_source(str(config["body_ref"]), call),
        keep=_keep(call) if config["response_type"] == STORED else None,
    )


def _source(ref: str, call: CallContext) -> Callable[[], Awaitable[OpenObject]] | None:
    """The stored value that is the request's body."""
    if not ref:
        return None

    async def opened() -> OpenObject:
        return await call.values.open(call, ref)

    return opened


def _keep(call: CallContext) -> Keep:
    """Puts a body into the result store."""
    values, name = call.values, call.label or call.step

    async def keep(content_type: str, chunks: AsyncIterator[bytes]) -> Fields:
        return await values.stream(call, name, chunks, {"content_type": content_type})

    return keep


def _wait(given: JSON, call: CallContext) -> float:
    return float(given) if isinstance(given, int | float) else call.timeout_s


def _parts(given: JSON) -> tuple[Part, ...]:
    assert isinstance(given, list)
    return tuple(Part(**part) for part in given if isinstance(part, dict))  # type: ignore[arg-type]
