"""``artifact`` and ``result_fetch``: values behind references (TL §3.10)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import unquote, urlsplit

from anyio import to_thread

from state_builder.records import JSON, ToolFailure, encode_json
from tools.contract import CallContext, Tool, ToolLimits, ToolResult, Values
from tools.doors import objects
from tools.doors.broker import stores
from tools.doors.broker.address import address_of, forbid_internal, subject_of
from tools.doors.broker.connections import Connections
from tools.doors.broker.payloads import value_of
from tools.doors.files import confined
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, first_of, map_of, text_of, wrong

SCHEMES: Final = (*("noetl", "eventlog", "nats-kv", "nats-obj", "s3", "gs", "file"),)
"""TL-AR-02."""

_REF_KEYS: Final = ("result_ref", "uri", "ref")
_PLATFORM: Final = frozenset(("noetl", "eventlog"))


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
        if action == "put" and "data" not in config:
            raise configuration("put needs data")
        return {
            "action": action,
            "uri": uri,
            "data": config.get("data"),
            "name": text_of(config, "name") or "",
            "scope": text_of(config, "scope") or "execution",
            **self._access(uri, config),
        }

    def _access(self, uri: str, config: Fields) -> Fields:
        scheme = urlsplit(uri).scheme
        if uri and scheme not in SCHEMES:
            raise configuration(
                f"'{uri[:200]}' has none of the schemes {', '.join(SCHEMES)}"
            )
        if scheme in ("s3", "gs"):
            objects.place_of(uri, "uri")
            return {"access": objects.access_of(scheme, config)}
        if scheme.startswith("nats"):
            return {"address": address_of(config, self._limits.nats_default_url)}
        if scheme == "file":
            path = unquote(urlsplit(uri).path)
            return {"path": str(confined(path, self._limits, field="uri"))}
        return {}

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The value as it was stored (TL-AR-03), or where it is now (TL-AR-04)."""
        if config["action"] == "inline":
            return ToolResult(data=config["data"])
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
            return await _values(call).read(call, uri)
        if scheme in ("s3", "gs"):
            place = objects.place_of(uri, "uri")
            access = map_of(config, "access")
            data = await objects.get(place, access, self._limits.result_bytes_max)
        elif scheme == "file":
            data = await to_thread.run_sync(self._read, str(config["path"]))
        else:
            data = await self._from_broker(uri, config, call)
        value, encoding = value_of(data)
        return {"data": value, "encoding": encoding} if encoding else value

    def _read(self, path: str) -> bytes:
        file = Path(path)
        if not file.is_file():
            raise _gone(f"there is no file {file.name}")
        size = file.stat().st_size
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

    async def _put(self, config: Fields, call: CallContext) -> JSON:
        uri, value = str(config["uri"]), config["data"]
        data = value.encode() if isinstance(value, str) and uri else encode_json(value)
        scheme = urlsplit(uri).scheme
        if not uri or scheme in _PLATFORM:
            name, scope = str(config["name"]), str(config["scope"])
            return await _values(call).write(call, name or call.step, data, scope)
        if scheme in ("s3", "gs"):
            place = objects.place_of(uri, "uri")
            await objects.put(place, map_of(config, "access"), data)
        elif scheme == "file":
            await to_thread.run_sync(_write, Path(str(config["path"])), data)
        else:
            await self._to_broker(uri, data, config, call)
        return {
            "ref": uri,
            "uri": uri,
            "store": objects.SCHEMES.get(scheme, scheme),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

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
            _, inner = first_of(found, ("ref", "uri", "_ref"))
            return inner if isinstance(inner, str) else found
        if found is not None:
            return found
    return None


def _values(call: CallContext) -> Values:
    found = call.ports.values
    if found is None:
        raise configuration("this worker has no result store")
    return found


def _gone(text: str) -> ToolCallError:
    return ToolCallError(
        ToolFailure(
            kind="missing_reference", code="REFERENCE_NOT_AVAILABLE", message=text
        )
    )


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(data)
    draft.replace(path)
