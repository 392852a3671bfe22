"""The ``ResultStore`` port on object stores and directories, through ``obstore``.

An object is two: its bytes, then under ``<key>.about`` what is known of them. The
second is written last, so a key never points at half an object.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import obstore
from msgspec import Struct, field
from msgspec.json import decode, encode
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from state_builder.errors import LostDataError, SettingsError, UnavailableError
from state_builder.values import OpenObject, StoredObject

PART_BYTES: Final = 8 * 1024 * 1024
READ_BYTES: Final = 1024 * 1024
_ABOUT: Final = ".about"


class _About(Struct):
    bytes: int
    sha256: str
    about: dict[str, str] = field(default_factory=dict)


def open_store(tier: str, url: str, data_dir: str) -> ObjectResults:
    """The store of a tier: ``disk`` below a directory, else a bucket's address.

    Raises:
        SettingsError: an address the tier cannot have.
    """
    if tier == "disk":
        folder = Path(data_dir) / "results"
        return ObjectResults(tier, LocalStore(folder, mkdir=True))
    if not url:
        raise SettingsError(f"a result store in {tier} needs NOETL_RESULT_STORE_URL")
    try:
        return ObjectResults(tier, from_url(url))
    except (BaseError, ValueError) as error:
        raise SettingsError(f"NOETL_RESULT_STORE_URL: {error}") from error


class ObjectResults:
    """See :class:`state_builder.values.ResultStore`."""

    def __init__(self, tier: str, store: ObjectStore) -> None:
        self.tier = tier
        self._store = store

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], about: Mapping[str, str]
    ) -> StoredObject:
        """See the port."""
        size, proof = 0, sha256()
        async with _translated(key):
            writer = obstore.open_writer_async(
                self._store, key, buffer_size=PART_BYTES, max_concurrency=2
            )
            async with writer:
                async for chunk in chunks:
                    size += len(chunk)
                    proof.update(chunk)
                    await writer.write(chunk)
            known = _About(size, proof.hexdigest(), dict(about))
            await obstore.put_async(self._store, key + _ABOUT, encode(known))
        return StoredObject(key, size, known.sha256, known.about)

    async def open(self, key: str) -> OpenObject | None:
        """See the port."""
        async with _translated(key):
            try:
                found = await obstore.get_async(self._store, key + _ABOUT)
                known = decode(bytes(await found.bytes_async()), type=_About)
            except (NotFoundError, FileNotFoundError):
                return None
        info = StoredObject(key, known.bytes, known.sha256, known.about)
        return OpenObject(info, self._proven(info))

    async def keys(self, prefix: str) -> list[str]:
        """See the port."""
        # A store lists below whole segments; the rest of the prefix is looked at here.
        folder = prefix.rpartition("/")[0]
        found: list[str] = []
        async with _translated(prefix):
            async for page in obstore.list(self._store, folder or None):
                found += [meta["path"] for meta in page]
        keys = (key.removesuffix(_ABOUT) for key in found if key.endswith(_ABOUT))
        return sorted(key for key in keys if key.startswith(prefix))

    async def delete(self, key: str) -> None:
        """See the port."""
        async with _translated(key):
            for path in (key + _ABOUT, key):
                try:
                    await obstore.delete_async(self._store, path)
                except (NotFoundError, FileNotFoundError):
                    continue

    async def _proven(self, info: StoredObject) -> AsyncIterator[bytes]:
        size, proof = 0, sha256()
        async with _translated(info.key):
            try:
                found = await obstore.get_async(self._store, info.key)
            except (NotFoundError, FileNotFoundError) as error:
                raise LostDataError(
                    f"object {info.key!r} has lost its bytes"
                ) from error
            async for piece in found.stream(min_chunk_size=READ_BYTES):
                chunk = bytes(piece)
                size += len(chunk)
                proof.update(chunk)
                yield chunk
        if size != info.bytes or proof.hexdigest() != info.sha256:
            raise LostDataError(
                f"object {info.key!r} is damaged: {size} of {info.bytes} bytes, or "
                "another digest than was stored"
            )


@asynccontextmanager
async def _translated(key: str) -> AsyncIterator[None]:
    """Errors of the store as ours."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise UnavailableError(f"object {key!r}: {error}") from error
