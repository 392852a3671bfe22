"""``artifact`` and ``result_fetch``: values behind references (TL §3.10)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import unquote, urlsplit

from anyio import open_file, to_thread

from state_builder.records import JSON, ToolFailure, encode_json
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors import objects
from tools.doors.broker import stores
from tools.doors.broker.address import address_of, forbid_internal, subject_of
from tools.doors.broker.connections import Connections
from tools.doors.broker.payloads import value_of
from tools.doors.files import confined
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, first_of, map_of, reference_of, text_of, wrong

SCHEMES: Final = (*("noetl", "eventlog", "nats-kv", "nats-obj", "s3", "gs", "file"),)
"""TL-AR-02."""

_REF_KEYS: Final = ("result_ref", "uri", "ref")
_PLATFORM: Final = frozenset(("noetl", "eventlog"))
_LOCAL: Final = _PLATFORM | {"", "file"}
"""What needs no credential."""

_PIECE_BYTES: Final = 1024 * 1024


class Artifact(Tool):
    """Reads a value by its reference, or stores one."""

    kind: ClassVar[str] = "artifact"

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._connections = Connections()

    def validate(self, config: Fields) -> Fields:
        """``action``, ``uri`` (empty: the result store), what opens it, ``data``."""
        action = text_of(config, "action") or "get"
        if action not in ("get", "put"):
            raise wrong("action", action, "get or put")
        reference = _reference(config)
        if action == "get" and isinstance(reference, dict):
            return {"action": "inline", "data": reference}
        uri = reference if isinstance(reference, str) else ""
        if action == "get" and not uri:
            raise configuration("result_ref is required: what to get")
        source = reference_of(config.get("source")) if action == "put" else ""
        if action == "put" and bool(source) == ("data" in config):
            raise configuration("put needs data, or source: a reference to copy from")
        return {
            "action": action,
            "uri": uri,
            "source": source,
            "data": config.get("data"),
            "name": text_of(config, "name") or "",
            "scope": text_of(config, "scope") or "execution",
            **self._access(uri, source, config),
        }

    def _access(self, uri: str, source: str, config: Fields) -> Fields:
        """What opens the one end that is elsewhere."""
        for field, one in (("uri", uri), ("source", source)):
            self._check(one, field)
        away = [one for one in (uri, source) if urlsplit(one).scheme not in _LOCAL]
        if len(away) > 1:
            raise configuration(
                "source and uri each need a credential: copy into the result store "
                "first (put without uri), then from there"
            )
        scheme = urlsplit(away[0]).scheme if away else ""
        if scheme in ("s3", "gs"):
            return {"access": objects.access_of(scheme, config)}
        if scheme:
            return {"address": address_of(config, self._limits.nats_default_url)}
        return {}

    def _check(self, uri: str, field: str) -> None:
        scheme = urlsplit(uri).scheme
        if uri and scheme not in SCHEMES:
            raise configuration(
                f"'{uri[:200]}' has none of the schemes {', '.join(SCHEMES)}"
            )
        if scheme in ("s3", "gs"):
            objects.place_of(uri, field)
        elif scheme == "file":
            self._path(uri, field)

    def _path(self, uri: str, field: str) -> Path:
        return confined(unquote(urlsplit(uri).path), self._limits, field=field)

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The value as it was stored (TL-AR-03), or where it is now (TL-AR-04)."""
        if config["action"] == "inline":
            return ToolResult(data=config["data"])
        if config["source"]:
            return ToolResult(data=await self._copy(config, call))
        if config["action"] == "put":
            return ToolResult(data=await self._put(config, call))
        return ToolResult(data=await self._get(config, call))

    async def close(self) -> None:
        """End every connection."""
        await self._connections.close()

    async def _get(self, config: Fields, call: CallContext) -> JSON:
        uri = str(config["uri"])
        scheme = urlsplit(uri).scheme
        if scheme in _PLATFORM:
            found = await call.values.read(call, uri)
            if not isinstance(found, bytes):
                return found
            data = found
        elif scheme in ("s3", "gs"):
            place = objects.place_of(uri, "uri")
            access = map_of(config, "access")
            data = await objects.get(place, access, self._limits.result_bytes_max)
        elif scheme == "file":
            data = await to_thread.run_sync(self._read, self._path(uri, "uri"))
        else:
            data = await self._from_broker(uri, config, call)
        value, encoding = value_of(data)
        return {"data": value, "encoding": encoding} if encoding else value

    def _read(self, file: Path) -> bytes:
        size = _there(file).stat().st_size
        if size > self._limits.result_bytes_max:
            text = f"{file.name} has {size:,} bytes, more than a result may have"
            failure = ToolFailure(kind="limit", code="result_bytes_max", message=text)
            raise ToolCallError(failure)
        return file.read_bytes()

    async def _from_broker(self, uri: str, config: Fields, call: CallContext) -> bytes:
        parts = urlsplit(uri)
        bucket, name = parts.netloc, unquote(parts.path.removeprefix("/"))
        forbid_internal(bucket, call.path, "uri")
        async with self._connections.use(map_of(config, "address")) as client:
            if parts.scheme == "nats-obj":
                most = self._limits.result_bytes_max
                return await stores.object_get(client, bucket, name, most)
            key = subject_of(name, "uri", call.path)
            found = await stores.kv_get(client, bucket, key)
        if found is None:
            raise _gone(f"bucket '{bucket}' has no key '{key}'")
        return found[0]

    async def _copy(self, config: Fields, call: CallContext) -> JSON:
        """Piece by piece from where ``source`` is; never all of it in memory."""
        content_type, chunks = await self._opened(config, call)
        uri, scheme = str(config["uri"]), urlsplit(str(config["uri"])).scheme
        if not uri or scheme in _PLATFORM:
            about = {"scope": str(config["scope"]), "content_type": content_type}
            name = str(config["name"]) or call.step
            return await call.values.stream(call, name, chunks, about)
        passing = _Passing(chunks, self._limits.stream_bytes_max)
        if scheme in ("s3", "gs"):
            place = objects.place_of(uri, "uri")
            attributes = {"Content-Type": content_type} if content_type else {}
            access = map_of(config, "access")
            await objects.put(place, access, passing.chunks(), attributes)
        elif scheme == "file":
            await _write(self._path(uri, "uri"), passing.chunks(), call.key)
        else:
            passing.limit = min(passing.limit, self._limits.result_bytes_max)
            data = b"".join([chunk async for chunk in passing.chunks()])
            await self._to_broker(uri, data, config, call)
        return _placed(uri, passing.size, passing.proof.hexdigest())

    async def _opened(
        self, config: Fields, call: CallContext
    ) -> tuple[str, AsyncIterator[bytes]]:
        """Content type, where it is known, and bytes of the source."""
        source = str(config["source"])
        scheme = urlsplit(source).scheme
        if scheme in _PLATFORM:
            opened = await call.values.open(call, source)
            return opened.info.about.get("content_type", ""), opened.chunks
        if scheme in ("s3", "gs"):
            place = objects.place_of(source, "source")
            return "", objects.read(place, map_of(config, "access"))
        if scheme == "file":
            return "", _pieces(_there(self._path(source, "source")))
        return "", _one(await self._from_broker(source, config, call))

    async def _put(self, config: Fields, call: CallContext) -> JSON:
        uri, value = str(config["uri"]), config["data"]
        data = value.encode() if isinstance(value, str) and uri else encode_json(value)
        scheme = urlsplit(uri).scheme
        if not uri or scheme in _PLATFORM:
            name, scope = str(config["name"]), str(config["scope"])
            return await call.values.write(call, name or call.step, data, scope)
        if scheme in ("s3", "gs"):
            place = objects.place_of(uri, "uri")
            await objects.put(place, map_of(config, "access"), data)
        elif scheme == "file":
            await _write(self._path(uri, "uri"), _one(data), call.key)
        else:
            await self._to_broker(uri, data, config, call)
        return _placed(uri, len(data), hashlib.sha256(data).hexdigest())

    async def _to_broker(
        self, uri: str, data: bytes, config: Fields, call: CallContext
    ) -> None:
        parts = urlsplit(uri)
        bucket, name = parts.netloc, unquote(parts.path.removeprefix("/"))
        forbid_internal(bucket, call.path, "uri")
        async with self._connections.use(map_of(config, "address")) as client:
            if parts.scheme == "nats-obj":
                await stores.object_put(client, bucket, name, data, None)
                return
            key = subject_of(name, "uri", call.path)
            await stores.kv_put(client, bucket, key, data)


class ResultFetch(Artifact):
    """Reads a value by its reference, over HTTP where the worker has no store."""

    kind: ClassVar[str] = "result_fetch"

    def validate(self, config: Fields) -> Fields:
        """As ``artifact`` with action ``get`` (TL-AR-06)."""
        prefer = text_of(config, "prefer") or "http"
        if prefer not in ("http", "flight"):
            raise wrong("prefer", prefer, "http or flight")
        if config.get("flight_endpoint"):
            raise configuration(
                "Arrow Flight is not available in this build; leave flight_endpoint out"
            )
        return super().validate({**config, "action": "get"})


def _reference(config: Fields) -> JSON:
    """What is named, at the top or in the input; a reference object's ``ref``, then
    ``uri``; an object without either is the value itself."""
    inputs = config.get("input")
    for place in (config, inputs if isinstance(inputs, dict) else {}):
        _, found = first_of(place, _REF_KEYS)
        if isinstance(found, dict):
            return reference_of(found) or found
        if found is not None:
            return found
    return None


class _Passing:
    """Bytes on their way: how many, their digest, and no more than may be."""

    def __init__(self, chunks: AsyncIterator[bytes], limit: int) -> None:
        self._chunks = chunks
        self.limit = limit
        self.size, self.proof = 0, hashlib.sha256()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes. Raises ToolCallError of ``limit``."""
        async for chunk in self._chunks:
            self.size += len(chunk)
            self.proof.update(chunk)
            if self.size > self.limit:
                text = f"the source has more than {self.limit:,} bytes"
                raise ToolCallError(
                    ToolFailure(kind="limit", code="stream_bytes_max", message=text)
                )
            yield chunk


def _placed(uri: str, size: int, digest: str) -> JSON:
    scheme = urlsplit(uri).scheme
    return {
        "ref": uri,
        "uri": uri,
        "store": objects.SCHEMES.get(scheme, scheme),
        "bytes": size,
        "sha256": digest,
    }


def _there(file: Path) -> Path:
    if not file.is_file():
        raise _gone(f"there is no file {file.name}")
    return file


def _gone(text: str) -> ToolCallError:
    return ToolCallError(
        ToolFailure(
            kind="missing_reference", code="REFERENCE_NOT_AVAILABLE", message=text
        )
    )


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    async with await open_file(file, "rb") as opened:
        while chunk := await opened.read(_PIECE_BYTES):
            yield chunk


async def _write(path: Path, chunks: AsyncIterator[bytes], key: str) -> None:
    """Whole or not at all: a reader never sees half of it (TL-RR-55)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256(key.encode()).hexdigest()[:16]
    draft = path.with_name(f".{mark}.part")
    try:
        async with await open_file(draft, "wb") as opened:
            async for chunk in chunks:
                await opened.write(chunk)
            await opened.flush()
            await to_thread.run_sync(os.fsync, opened.wrapped.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
