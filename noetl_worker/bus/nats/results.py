"""The ``ResultStore`` port on a JetStream object store bucket."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping

from noetl_worker.bus.nats.blobs import NatsBlobs
from state_builder.values import OpenObject, StoredObject


class NatsResults:
    """See :class:`state_builder.values.ResultStore`."""

    def __init__(self, blobs: NatsBlobs, tier: str = "object") -> None:
        self.tier = tier
        self._blobs = blobs

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], about: Mapping[str, str]
    ) -> StoredObject:
        """See the port."""
        return StoredObject(key, *await self._blobs.put_chunks(key, chunks, about))

    async def open(self, key: str) -> OpenObject | None:
        """See the port."""
        found = await self._blobs.open(key)
        if found is None:
            return None
        info, chunks = found
        return OpenObject(StoredObject(key, *info), chunks)

    async def keys(self, prefix: str) -> list[str]:
        """See the port."""
        return await self._blobs.names(prefix)

    async def delete(self, key: str) -> None:
        """See the port."""
        await self._blobs.delete(key)
