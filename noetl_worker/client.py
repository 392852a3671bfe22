"""HTTP client of the server edge: for the CLI, the subscriber and the owners' catalog.

Answers of the server come back as they are (JSON, ids as texts); what it refuses is
raised in our own tree of errors with the server's words. Nothing is retried here but
reading a live stream, which goes on after the last event it saw.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, NamedTuple, Self, cast
from urllib.parse import quote

import anyio
import httpx
from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.errors import (
    ConflictError,
    InvalidError,
    NoetlError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from state_builder.ports import CatalogEntry
from state_builder.records import JSON, TERMINAL_STATUS, encode_json
from tools.contract import Plugin

Answer = dict[str, JSON]


class ServerAwayError(UnavailableError):
    """Nobody answers at the server's address."""

    code = "server_away"


_ERRORS: Final[dict[int, type[NoetlError]]] = {
    401: RefusedError,
    403: RefusedError,
    404: NotFoundError,
    409: ConflictError,
    429: UnavailableError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}
_AGAIN_S: Final = 0.5
_JSON_HEADERS: Final = {"content-type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """How to reach the server.

    Attributes:
        token: bearer token, of a session or of internal routes; empty for none.
        timeout_s: of one call; a live stream has none.
        cert, key, ca: files for TLS with a client certificate.
    """

    url: str
    token: str = ""
    timeout_s: float = 30.0
    connections_max: int = 100
    cert: str = ""
    key: str = ""
    ca: str = ""


class StreamEvent(NamedTuple):
    """One event of a live stream: its id, type, and the event as the API shows it."""

    event_id: str
    type: str
    data: Answer


class NoetlClient:
    """The server's routes as methods. Use as an async context manager."""

    def __init__(
        self, options: ClientOptions, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        headers = {}
        if options.token:
            headers["authorization"] = f"Bearer {options.token}"
        self._http = httpx.AsyncClient(
            base_url=options.url.rstrip("/"),
            headers=headers,
            timeout=options.timeout_s,
            limits=httpx.Limits(max_connections=options.connections_max),
            transport=transport,
            trust_env=False,
            verify=_tls(options),
        )
        self._url = options.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def health(self) -> Answer:
        """``/api/health``. Raises UnavailableError when the server says so."""
        return await self._object("GET", "/api/health")

    async def register(self, content: str, kind: str = "Playbook") -> Answer:
        """Store a document as the next version of its path."""
        body: Answer = {"content": content, "resource_type": kind}
        return await self._object("POST", "/api/catalog/register", body)

    async def validate(self, content: str) -> Answer:
        """``{valid, errors}`` of a playbook's text."""
        return await self._object(
            "POST", "/api/catalog/playbooks/validate", {"content": content}
        )

    async def catalog(self, kind: str = "", path: str = "") -> list[Answer]:
        """Entries of the catalog, newest first."""
        body: Answer = {}
        if kind:
            body["resource_type"] = kind
        if path:
            body["path"] = path
        answer = await self._object("POST", "/api/catalog/list", body)
        return cast(list[Answer], answer.get("entries") or [])

    async def resource(
        self, path: str = "", version: int | str = "latest", catalog_id: str = ""
    ) -> Answer:
        """One entry, by catalog id or by path. Raises NotFoundError."""
        body: Answer
        body = {"catalog_id": catalog_id} if catalog_id else {}
        if not catalog_id:
            body = {"path": path, "version": version}
        return await self._object("POST", "/api/catalog/resource", body)

    async def execute(
        self, path: str, workload: Answer | None = None, **more: JSON
    ) -> Answer:
        """Start an execution; ``more`` are further fields of RT-EXE-1."""
        body: Answer = {"path": path, "workload": workload or {}, **more}
        return await self._object("POST", "/api/execute", body)

    async def execute_batch(self, executions: Sequence[Answer]) -> Answer:
        """Start many; one answer for each, in order (RT-EXE-8)."""
        return await self._object(
            "POST", "/api/execute/batch", {"executions": list(executions)}
        )

    async def executions(self, **query: str | int) -> list[Answer]:
        """Rows of executions, newest first."""
        found = await self._call("GET", "/api/executions", query=query)
        return cast(list[Answer], found)

    async def execution(self, execution_id: str, **query: str | int) -> Answer:
        """One execution with a page of its events."""
        return await self._object("GET", _execution(execution_id), query=query)

    async def status(self, execution_id: str) -> Answer:
        """Live status (RT-EXN-4)."""
        return await self._object("GET", _execution(execution_id, "status"))

    async def why(self, execution_id: str) -> Answer:
        """What an execution waits for, and what was decided last."""
        return await self._object("GET", _execution(execution_id, "why"))

    async def events(self, execution_id: str, **query: str | int) -> Answer:
        """A page of events, newest first."""
        return await self._object(
            "GET", _execution(execution_id, "events"), query=query
        )

    async def cancel(
        self, execution_id: str, reason: str = "", cascade: bool = True
    ) -> Answer:
        """Ask for the end (RT-EXN-6)."""
        body: Answer = {"cascade": cascade}
        if reason:
            body["reason"] = reason
        return await self._object("POST", _execution(execution_id, "cancel"), body)

    async def finalize(self, execution_id: str, status: str, error: str = "") -> Answer:
        """End an execution that is stuck (RT-EXN-8)."""
        body: Answer = {"status": status}
        if error:
            body["error"] = error
        return await self._object("POST", _execution(execution_id, "finalize"), body)

    async def rerun(self, execution_id: str, workload: Answer | None = None) -> Answer:
        """Run the same playbook version again."""
        body: Answer = {"workload": workload} if workload else {}
        return await self._object("POST", _execution(execution_id, "rerun"), body)

    async def cleanup(self, older_than_minutes: int, dry_run: bool) -> Answer:
        """Cancel executions nothing has happened in (RT-EXN-9)."""
        body: Answer = {"older_than_minutes": older_than_minutes, "dry_run": dry_run}
        return await self._object("POST", "/api/executions/cleanup", body)

    async def request(
        self,
        method: str,
        path: str,
        body: JSON = None,
        query: Mapping[str, str | int] | None = None,
    ) -> JSON:
        """Any other route; the answer's JSON. Raises as every method does."""
        return await self._call(method, path, body, query)

    async def exchange(
        self,
        method: str,
        path: str,
        body: JSON = None,
        query: Mapping[str, str | int] | None = None,
    ) -> tuple[int, JSON]:
        """Status and JSON of any route, refusals too; None for what is no JSON.

        Raises UnavailableError when the server cannot be reached.
        """
        response = await self._send(method, path, body, query)
        try:
            return response.status_code, decode_json(response.content)
        except DecodeError:
            return response.status_code, None

    async def stream(
        self, execution_id: str, after: str = ""
    ) -> AsyncIterator[StreamEvent]:
        """Events of an execution, those that were and those that come, to its end.

        A connection that breaks is made again after the last event seen; ends with the
        terminal event. Raises NotFoundError for an unknown execution.
        """
        while True:
            try:
                async for event in self._stream_once(execution_id, after):
                    if event is None:
                        return
                    after = event.event_id
                    yield event
                    if event.type in TERMINAL_STATUS:
                        return
            except (httpx.TransportError, UnavailableError):
                pass
            await anyio.sleep(_AGAIN_S)

    async def export(self, execution_id: str) -> AsyncIterator[bytes]:
        """The lines of an execution's transcript; one that breaks off has no end.

        Raises NotFoundError, UnavailableError.
        """
        path = _execution(execution_id, "export")
        try:
            async with self._http.stream("GET", path) as response:
                if response.status_code != HTTPStatus.OK:
                    await response.aread()
                    raise _error(response)
                async for line in response.aiter_lines():
                    yield line.encode() + b"\n"
        except httpx.ConnectError as error:
            raise self._away(error) from error
        except httpx.TransportError as error:
            raise UnavailableError(
                f"server {self._url} broke off: {error or type(error).__name__}"
            ) from error

    def _away(self, error: Exception) -> ServerAwayError:
        told = str(error) or type(error).__name__
        return ServerAwayError(f"server {self._url} cannot be reached: {told}")

    async def _stream_once(
        self, execution_id: str, after: str
    ) -> AsyncIterator[StreamEvent | None]:
        """Events of one connection; None when the server has no more, ever."""
        headers = {"accept": "text/event-stream"}
        if after:
            headers["last-event-id"] = after
        async with self._http.stream(
            "GET", _execution(execution_id, "stream"), headers=headers, timeout=None
        ) as response:
            if response.status_code == HTTPStatus.NO_CONTENT:
                yield None
                return
            if response.status_code != HTTPStatus.OK:
                await response.aread()
                raise _error(response)
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields and "id" in fields:
                    yield StreamEvent(
                        fields["id"], fields.get("event", ""), _json(fields["data"])
                    )
                    fields = {}
                else:
                    fields = {}

    async def bytes_of(
        self, path: str, query: Mapping[str, str | int], headers: Mapping[str, str]
    ) -> httpx.Response:
        """An answer that is no JSON; 304 is one. Raises as the other methods do."""
        try:
            response = await self._http.get(path, params=query, headers=headers)
        except httpx.TransportError as error:
            raise self._away(error) from error
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise _error(response)
        return response

    async def put_bytes(self, path: str, data: bytes) -> None:
        """Store bytes as they are. Raises as the other methods do."""
        try:
            response = await self._http.put(path, content=data)
        except httpx.TransportError as error:
            raise self._away(error) from error
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise _error(response)

    async def _object(
        self,
        method: str,
        path: str,
        body: JSON = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Answer:
        answer = await self._call(method, path, body, query)
        if not isinstance(answer, dict):
            raise UnavailableError(f"{method} {path}: the answer is no JSON object")
        return answer

    async def _call(
        self,
        method: str,
        path: str,
        body: JSON = None,
        query: Mapping[str, str | int] | None = None,
    ) -> JSON:
        response = await self._send(method, path, body, query)
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise _error(response)
        return _json(response.content)

    async def _send(
        self,
        method: str,
        path: str,
        body: JSON,
        query: Mapping[str, str | int] | None,
    ) -> httpx.Response:
        content = None if body is None else encode_json(body)
        try:
            return await self._http.request(
                method, path, content=content, params=query, headers=_JSON_HEADERS
            )
        except httpx.TransportError as error:
            raise self._away(error) from error


class RemotePlugins:
    """The ``Plugins`` port over HTTP: what the caller has is not sent again."""

    def __init__(self, client: NoetlClient) -> None:
        self._client = client

    async def fetch(
        self, path: str, version: int, digest: str, have: str
    ) -> Plugin | None:
        """See the port."""
        query: dict[str, str | int] = {"version": version or "latest"}
        if digest:
            query["digest"] = digest
        response = await self._client.bytes_of(
            f"/api/internal/plugins/{quote(path)}",
            query,
            {"if-none-match": f'"{have}"'} if have else {},
        )
        if response.status_code == HTTPStatus.NOT_MODIFIED:
            return None
        names = response.headers.get("x-noetl-capabilities", "").split(",")
        return Plugin(
            path,
            int(response.headers.get("x-noetl-version", version)),
            response.headers.get("etag", "").strip('"'),
            response.content,
            frozenset(name for name in names if name),
        )


class RemoteCatalog:
    """The ``Catalog`` port over HTTP, for roles without a database.

    An entry is immutable: it is kept until ``kept_max`` others were used since.
    """

    def __init__(self, client: NoetlClient, kept_max: int = 512) -> None:
        self._client = client
        self._kept: OrderedDict[str, CatalogEntry] = OrderedDict()
        self._kept_max = kept_max

    async def entry(self, catalog_id: str) -> CatalogEntry | None:
        """That version, or None. Raises UnavailableError."""
        kept = self._kept.get(catalog_id)
        if kept is not None:
            self._kept.move_to_end(catalog_id)
            return kept
        return await self._fetch(catalog_id=catalog_id)

    async def resolve(self, path: str, version: int | None) -> CatalogEntry | None:
        """That version of the path, the latest when None. Raises UnavailableError."""
        return await self._fetch(path=path, version=version or "latest")

    async def _fetch(
        self, path: str = "", version: int | str = "latest", catalog_id: str = ""
    ) -> CatalogEntry | None:
        try:
            found = await self._client.resource(path, version, catalog_id)
        except NotFoundError:
            return None
        except InvalidError as error:
            raise UnavailableError(f"catalog: {error}") from error
        entry = CatalogEntry(
            catalog_id=str(found["catalog_id"]),
            path=str(found["path"]),
            version=int(cast(int, found["version"])),
            kind=str(found["kind"]),
            content=str(found["content"]),
        )
        self._kept[entry.catalog_id] = entry
        if len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)
        return entry


def _execution(execution_id: str, what: str = "") -> str:
    path = f"/api/executions/{quote(execution_id, safe='')}"
    return f"{path}/{what}" if what else path


def _tls(options: ClientOptions) -> ssl.SSLContext | bool:
    if not options.ca and not options.cert:
        return True
    context = ssl.create_default_context(cafile=options.ca or None)
    if options.cert:
        context.load_cert_chain(options.cert, options.key or None)
    return context


def _json(data: bytes | str) -> Answer:
    try:
        return cast(Answer, decode_json(data))
    except DecodeError as error:
        raise UnavailableError(f"the server's answer is no JSON: {error}") from error


def _error(response: httpx.Response) -> NoetlError:
    """The server's refusal in our own tree, with its words."""
    status = response.status_code
    try:
        body = decode_json(response.content)
    except DecodeError:
        body = None
    text = body.get("message") or body.get("error") if isinstance(body, dict) else None
    request = response.request
    message = f"{text or response.reason_phrase} ({status}, {request.method} "
    message += f"{request.url.path})"
    fallback = (
        UnavailableError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else InvalidError
    )
    return _ERRORS.get(status, fallback)(message)
