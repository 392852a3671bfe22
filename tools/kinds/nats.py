"""``nats``: buckets, objects and streams of a broker (TL §3.9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final

from state_builder.records import JSON, ToolFailure
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.broker import stores, streams
from tools.doors.broker.address import address_of, forbid_internal, subject_of
from tools.doors.broker.connections import Connections
from tools.doors.broker.payloads import bytes_of, headers_of, named, value_of
from tools.doors.broker.pulling import (
    BATCH_MAX,
    WAIT_MS_MAX,
    Pulled,
    pull,
    settle_reply,
)
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, boolean_of, integer_of, map_of, text_of, wrong

_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "kv_get": ("bucket", "key"),
    "kv_put": ("bucket", "key", "value"),
    "kv_delete": ("bucket", "key"),
    "kv_purge": ("bucket", "key"),
    "kv_keys": ("bucket",),
    "object_put": ("bucket", "name", "data"),
    "object_get": ("bucket", "name"),
    "object_delete": ("bucket", "name"),
    "object_info": ("bucket", "name"),
    "object_list": ("bucket",),
    "js_publish": ("subject", "data"),
    "js_consume": ("stream", "consumer"),
    "js_get_msg": ("stream",),
    "js_stream_info": ("stream",),
}
"""Operation → the fields it cannot do without (TL-NA-01)."""


class Nats(Tool):
    """One operation on one connection, which is kept for the next."""

    kind: ClassVar[str] = "nats"

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._connections = Connections()

    def validate(self, config: Fields) -> Fields:
        """``operation``, ``address`` and the operation's own fields."""
        operation = text_of(config, "operation")
        if operation not in _NEEDS:
            known = ", ".join(_NEEDS)
            raise configuration(f"operation must be one of {known}, got {operation!r}")
        for name in _NEEDS[operation]:
            if name not in config or (config[name] is None and name != "value"):
                raise configuration(f"{operation} needs {name}")
        encoding = text_of(config, "encoding") or "utf-8"
        if encoding not in ("utf-8", "base64"):
            raise wrong("encoding", encoding, "utf-8 or base64")
        return {
            "operation": operation,
            "address": address_of(config, self._limits.nats_default_url),
            "encoding": encoding,
            **{
                name: text_of(config, name)
                for name in ("bucket", "name", "stream", "consumer", "description")
            },
            **{
                name: config.get(name)
                for name in ("key", "pattern", "subject", "value", "data", "last")
            },
            "headers": {**headers_of(config)},
            "msg_id": text_of(config, "msg_id"),
            "seq": integer_of(config, "seq", least=1, most=(1 << 63) - 1),
            "batch": integer_of(config, "batch", least=1, most=1 << 31) or 100,
            "timeout_ms": integer_of(config, "timeout_ms", least=0, most=1 << 31),
            "ack": boolean_of(config, "ack", True),
        }

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """What the operation gives; a missing key is ``not_found``, not an error."""
        operation = str(config["operation"])
        for name in ("bucket", "stream"):
            if config[name]:
                forbid_internal(str(config[name]), call.path, name)
        job = _Job(config, call.path, self._limits.result_bytes_max)
        async with self._connections.use(map_of(config, "address")) as client:
            given = await _OPERATIONS[operation](job, client)
        return ToolResult(data={"status": "success", "operation": operation, **given})

    async def close(self) -> None:
        """End every connection."""
        await self._connections.close()


class _Job:
    """One operation's own fields."""

    def __init__(self, config: Fields, path: str, bytes_max: int) -> None:
        self.config = config
        self.bucket = str(config["bucket"])
        self.name = str(config["name"])
        self.stream = str(config["stream"])
        self.encoding = str(config["encoding"])
        self.path = path
        self.bytes_max = bytes_max

    def key(self) -> str:
        """The key, checked."""
        return subject_of(self.config["key"], "key", self.path)

    def data(self, field: str) -> bytes:
        """The bytes to write."""
        return bytes_of(self.config[field], self.encoding)

    def read(self, data: bytes, field: str) -> Fields:
        """The bytes as JSON under that field; base64 says so beside it."""
        asked = "base64" if self.encoding == "base64" else ""
        value, encoding = value_of(data, asked)
        return {field: value, **({"encoding": encoding} if encoding else {})}


async def _kv_get(job: _Job, client: Any) -> Fields:
    key = job.key()
    found = await stores.kv_get(client, job.bucket, key)
    where: Fields = {"bucket": job.bucket, "key": key}
    if found is None:
        return {**where, "status": "not_found", "value": None}
    return {**where, **job.read(found[0], "value"), "revision": found[1]}


async def _kv_put(job: _Job, client: Any) -> Fields:
    key = job.key()
    revision = await stores.kv_put(client, job.bucket, key, job.data("value"))
    return {"bucket": job.bucket, "key": key, "revision": revision}


async def _kv_remove(job: _Job, client: Any) -> Fields:
    key = job.key()
    purge = job.config["operation"] == "kv_purge"
    await stores.kv_remove(client, job.bucket, key, purge=purge)
    return {"bucket": job.bucket, "key": key}


async def _kv_keys(job: _Job, client: Any) -> Fields:
    pattern = job.config["pattern"] or ""
    if not isinstance(pattern, str) or set(pattern) & set(" \t\r\n"):
        raise wrong("pattern", pattern, "a pattern of keys like orders.*")
    keys = await stores.kv_keys(client, job.bucket, pattern)
    return {"keys": [*keys], "count": len(keys)}


async def _object_put(job: _Job, client: Any) -> Fields:
    description = job.config["description"]
    size = await stores.object_put(
        client,
        job.bucket,
        job.name,
        job.data("data"),
        description if isinstance(description, str) else None,
    )
    return {"name": job.name, "size": size}


async def _object_get(job: _Job, client: Any) -> Fields:
    data = await stores.object_get(client, job.bucket, job.name, job.bytes_max)
    return {"name": job.name, **job.read(data, "data"), "size": len(data)}


async def _object_delete(job: _Job, client: Any) -> Fields:
    await stores.object_delete(client, job.bucket, job.name)
    return {"name": job.name}


async def _object_info(job: _Job, client: Any) -> Fields:
    info = await stores.object_info(client, job.bucket, job.name)
    return {"name": job.name, "info": info}


async def _object_list(job: _Job, client: Any) -> Fields:
    found = await stores.object_list(client, job.bucket)
    return {"objects": [*found], "count": len(found)}


async def _js_publish(job: _Job, client: Any) -> Fields:
    subject = subject_of(job.config["subject"], "subject", job.path)
    headers = {k: str(v) for k, v in map_of(job.config, "headers").items()}
    if job.config["msg_id"]:
        headers["Nats-Msg-Id"] = str(job.config["msg_id"])
    found = await streams.publish(client, subject, job.data("data"), headers)
    return {"stream": found.stream, "seq": found.seq, "duplicate": found.duplicate}


async def _js_consume(job: _Job, client: Any) -> Fields:
    batch = integer_of(job.config, "batch", least=1, most=1 << 31) or 100
    wait = integer_of(job.config, "timeout_ms", least=0, most=1 << 31)
    wait_ms = min(1_000 if wait is None else wait, WAIT_MS_MAX)
    messages = await pull(
        client,
        (job.stream, str(job.config["consumer"])),
        min(batch, BATCH_MAX),
        max(wait_ms, 1) / 1000,
    )
    size = sum(len(message.data) for message in messages)
    if size > job.bytes_max:
        # Nothing is acknowledged: the messages come again, in a smaller batch.
        text = f"the batch has {size:,} bytes, at most {job.bytes_max:,} fit"
        failure = ToolFailure(kind="limit", code="result_bytes_max", message=text)
        raise ToolCallError(failure)
    shown: list[JSON] = [_message(job, message) for message in messages]
    if job.config["ack"]:
        for message in messages:
            await settle_reply(client, message.reply, "ack")
        await client.flush()
    acked = len(messages) if job.config["ack"] else 0
    return {"count": len(messages), "acked": acked, "messages": shown}


def _message(job: _Job, message: Pulled) -> Fields:
    return {
        "subject": message.subject,
        "stream_seq": message.stream_seq,
        "consumer_seq": message.consumer_seq,
        "delivered": message.delivered,
        "pending": message.pending,
        **job.read(message.data, "data"),
        "headers": named(message.headers),
    }


async def _js_get_msg(job: _Job, client: Any) -> Fields:
    seq, subject = streams.wanted(job.config)
    found = await streams.get_message(client, job.stream, seq=seq, subject=subject)
    return {
        "subject": found.subject,
        "seq": found.seq,
        **job.read(found.data, "data"),
        "headers": named(found.headers),
    }


async def _js_stream_info(job: _Job, client: Any) -> Fields:
    return await streams.stream_info(client, job.stream)


_OPERATIONS: Final[dict[str, Callable[[_Job, Any], Awaitable[Fields]]]] = {
    "kv_get": _kv_get,
    "kv_put": _kv_put,
    "kv_delete": _kv_remove,
    "kv_purge": _kv_remove,
    "kv_keys": _kv_keys,
    "object_put": _object_put,
    "object_get": _object_get,
    "object_delete": _object_delete,
    "object_info": _object_info,
    "object_list": _object_list,
    "js_publish": _js_publish,
    "js_consume": _js_consume,
    "js_get_msg": _js_get_msg,
    "js_stream_info": _js_stream_info,
}
