"""Key-value buckets and object stores; none is ever made here (TL-NA-03)."""

from __future__ import annotations

from typing import Any, Final

import nats.js.errors
from nats.aio.client import Client
from nats.js.api import ObjectInfo, ObjectMeta
from nats.js.kv import KeyValue
from nats.js.object_store import ObjectStore

from state_builder.records import ToolFailure
from tools.doors.broker.failures import missing
from tools.errors import ToolCallError
from tools.fields import Fields

KEYS_MAX: Final = 100_000


async def _bucket(client: Client, name: str) -> KeyValue:
    try:
        return await client.jetstream().key_value(name)
    except nats.js.errors.NotFoundError as error:
        raise missing("bucket", name) from error


async def kv_get(client: Client, bucket: str, key: str) -> tuple[bytes, int] | None:
    """Value and revision of a key, or None."""
    store = await _bucket(client, bucket)
    try:
        entry = await store.get(key)
    except nats.js.errors.KeyNotFoundError:
        return None
    return entry.value or b"", entry.revision or 0


async def kv_put(client: Client, bucket: str, key: str, value: bytes) -> int:
    """The new revision."""
    return await (await _bucket(client, bucket)).put(key, value)


async def kv_remove(client: Client, bucket: str, key: str, *, purge: bool) -> None:
    """Delete a key, or purge it with its history."""
    store = await _bucket(client, bucket)
    await (store.purge(key) if purge else store.delete(key))


async def kv_keys(client: Client, bucket: str, pattern: str) -> list[str]:
    """Keys that match, sorted. Raises ToolCallError ``limit`` beyond KEYS_MAX."""
    store = await _bucket(client, bucket)
    try:
        keys = await store.keys()
    except nats.js.errors.NoKeysError:
        return []
    if pattern:
        keys = [key for key in keys if _matches(key.split("."), pattern.split("."))]
    if len(keys) > KEYS_MAX:
        text = f"bucket '{bucket}' has more than {KEYS_MAX:,} such keys; give a pattern"
        raise ToolCallError(ToolFailure(kind="limit", code="keys_max", message=text))
    return sorted(keys)


def _matches(key: list[str], pattern: list[str]) -> bool:
    """As subjects match: ``*`` is one word, ``>`` at the end is the rest."""
    if pattern[-1] == ">":
        key, pattern = key[: len(pattern) - 1], pattern[:-1]
    return len(key) == len(pattern) and all(
        wanted in ("*", word) for word, wanted in zip(key, pattern, strict=True)
    )


async def _objects(client: Client, name: str) -> ObjectStore:
    try:
        return await client.jetstream().object_store(name)
    except nats.js.errors.NotFoundError as error:
        raise missing("object store", name) from error


async def object_put(
    client: Client, bucket: str, name: str, data: bytes, description: str | None
) -> int:
    """How many bytes are stored now under that name."""
    store = await _objects(client, bucket)
    meta = ObjectMeta(name=name, description=description)
    return (await store.put(name, data, meta)).size or 0


async def object_get(client: Client, bucket: str, name: str, bytes_max: int) -> bytes:
    """All bytes of an object. Raises ToolCallError ``not_found`` and ``limit``."""
    store = await _objects(client, bucket)
    info = await _info(store, name)
    if (info.size or 0) > bytes_max:
        text = f"object '{name}' has {info.size:,} bytes, at most {bytes_max:,} fit"
        failure = ToolFailure(kind="limit", code="result_bytes_max", message=text)
        raise ToolCallError(failure)
    found = await store.get(name)
    return found.data or b""


async def object_delete(client: Client, bucket: str, name: str) -> None:
    """Remove an object that is there."""
    store = await _objects(client, bucket)
    await _info(store, name)
    await store.delete(name)


async def object_info(client: Client, bucket: str, name: str) -> Fields:
    """What is known of one object."""
    return _about(await _info(await _objects(client, bucket), name))


async def object_list(client: Client, bucket: str) -> list[Fields]:
    """What is known of every object."""
    store = await _objects(client, bucket)
    try:
        found = await store.list(ignore_deletes=True)
    except nats.js.errors.NotFoundError:
        return []
    return [_about(one) for one in found if not one.deleted]


async def _info(store: ObjectStore, name: str) -> ObjectInfo:
    try:
        return await store.get_info(name)
    except nats.js.errors.NotFoundError as error:
        raise missing("object", name) from error


def _about(info: ObjectInfo) -> Fields:
    found: dict[str, Any] = {
        "name": info.name,
        "size": info.size or 0,
        "description": info.description,
        "chunks": info.chunks or 0,
    }
    return found
