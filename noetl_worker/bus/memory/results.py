"""The ``ResultStore`` port in memory."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from hashlib import sha256

from state_builder.errors import LostDataError
from state_builder.values import OpenObject, StoredObject


class MemoryResults:
    """See :class:`state_builder.values.ResultStore`.

    Attributes:
        objects: key → bytes and what is known of them; shared by the processes that
            pretend to use one store.
    """

    tier = "object"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, StoredObject]] = {}

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], about: Mapping[str, str]
    ) -> StoredObject:
        """See the port."""
        data = b"".join([chunk async for chunk in chunks])
        proof = sha256(data).hexdigest()
        info = StoredObject(key, len(data), proof, dict(about))
        self.objects[key] = (data, info)
        return info

    async def open(self, key: str) -> OpenObject | None:
        """See the port."""
        if key not in self.objects:
            return None
        data, info = self.objects[key]
        return OpenObject(info, _proven(data, info))

    async def keys(self, prefix: str) -> list[str]:
        """See the port."""
        return sorted(key for key in self.objects if key.startswith(prefix))

    async def delete(self, key: str) -> None:
        """See the port."""
        self.objects.pop(key, None)


async def _proven(data: bytes, info: StoredObject) -> AsyncIterator[bytes]:
    if data:
        yield data
    if sha256(data).hexdigest() != info.sha256:
        raise LostDataError(f"object {info.key!r} is damaged")
