"""The ``Blobs`` port on a JetStream object store bucket.

Laid out as every NATS client expects it: chunks under ``$O.<bucket>.C.<id>``, one
description per name under ``$O.<bucket>.M.<name, base64>``. The description is written
last, so a name never points at half an object; the digest proves what is read.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from hashlib import sha256
from typing import NamedTuple, Protocol

import anyio
import structlog
from msgspec import Struct, field
from msgspec.json import decode, encode

from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.direct import BucketMissingError, get_batch
from noetl_worker.bus.nats.jetstream import STREAM_MISSING, JetStream, JetStreamError
from noetl_worker.bus.nats.wire import (
    NO_RESPONDERS,
    Reply,
    decode_pub_ack,
    headed_frame,
    publish_frame,
)
from noetl_worker.bus.topology import Config, Topology
from state_builder.errors import (
    LogFullError,
    LostDataError,
    UnavailableError,
)

CHUNK_BYTES = 256 * 1024
_WINDOW = 16
_READ_BYTES = 4 * 1024 * 1024
_READ_TRIES = 5
_FULL = 10077
_DIGEST = "SHA-256="
_ROLLUP = b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n"

log = structlog.get_logger(__name__)


class _Options(Struct):
    max_chunk_size: int = CHUNK_BYTES


class _Description(Struct, omit_defaults=True):
    """What the object store keeps about one object."""

    name: str
    bucket: str
    nuid: str
    size: int = 0
    chunks: int = 0
    digest: str = ""
    deleted: bool = False
    options: _Options | None = None
    metadata: dict[str, str] = field(default_factory=dict)


class ObjectInfo(NamedTuple):
    """Size, SHA-256 in hexadecimal, and what its writer noted."""

    bytes: int
    sha256: str
    metadata: dict[str, str]


class Proof(Protocol):
    """A digest in the making."""

    def digest(self) -> bytes:
        """Of everything so far."""


class _Written:
    """What was sent of an object so far."""

    def __init__(self) -> None:
        self.size = self.chunks = 0
        self.digest = sha256()

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self.chunks += 1
        self.digest.update(chunk)


class NatsBlobs:
    """See :class:`state_builder.ports.Blobs`. The bucket is made when missing."""

    def __init__(self, connection: Connection, topology: Topology, bucket: str) -> None:
        self._connection = connection
        self._jetstream = JetStream(connection)
        self._config = topology.blobs_config(bucket)
        self._bucket = bucket
        self._stream = f"OBJ_{bucket}"
        self._ensured = False

    async def put(self, name: str, data: bytes) -> None:
        """See the port.

        Raises:
            LogFullError: the bucket has no room left.
            UnavailableError: not known to be stored; the same call may be made again.
        """
        await self.put_chunks(name, _pieces(data), {})

    async def put_chunks(
        self, name: str, chunks: AsyncIterable[bytes], metadata: Mapping[str, str]
    ) -> ObjectInfo:
        """Store what comes, piece by piece; raises as :meth:`put` does."""
        await self._ensure()
        former = await self._description(name)
        nuid = self._connection.new_inbox().rpartition(".")[2]
        try:
            written = await self._store_chunks(f"$O.{self._bucket}.C.{nuid}", chunks)
            description = _Description(
                name=name,
                bucket=self._bucket,
                nuid=nuid,
                size=written.size,
                chunks=written.chunks,
                digest=_encoded(written.digest),
                options=_Options(),
                metadata=dict(metadata),
            )
            await self._store(
                lambda inbox: headed_frame(
                    self._subject(name), inbox, _ROLLUP, encode(description)
                )
            )
        except BaseException:
            # Whatever stopped it: half an object only takes room.
            with anyio.CancelScope(shield=True):
                await self._drop_quietly(nuid)
            raise
        if former is not None:
            await self._drop_quietly(former.nuid)
        return _info(description)

    async def open(self, name: str) -> tuple[ObjectInfo, AsyncIterator[bytes]] | None:
        """What is known of an object, and its bytes piece by piece.

        The pieces raise LostDataError at the end when they are not what was stored.
        """
        description = await self._description(name)
        if description is None:
            return None
        return _info(description), self._proven(description)

    async def _proven(self, description: _Description) -> AsyncIterator[bytes]:
        size, proof = 0, sha256()
        async for chunk in self._chunks(description):
            size += len(chunk)
            proof.update(chunk)
            yield chunk
        if size != description.size or _encoded(proof) != description.digest:
            raise self._damaged(description, size)

    def _damaged(self, description: _Description, size: int) -> LostDataError:
        return LostDataError(
            f"object {description.name!r} of bucket {self._bucket} is damaged: {size} "
            f"of {description.size} bytes, or another digest than was stored"
        )

    async def get(self, name: str) -> bytes | None:
        """See the port.

        Raises:
            LostDataError: the object is not what was stored.
        """
        tries = 0
        while True:
            description = await self._description(name)
            if description is None:
                return None
            data = b"".join([chunk async for chunk in self._chunks(description)])
            if len(data) == description.size and digest(data) == description.digest:
                return data
            # Replaced while it was read, or a replica that lags: look again.
            tries += 1
            if tries == _READ_TRIES:
                raise self._damaged(description, len(data))
            await asyncio.sleep(0.05 * 2**tries)

    async def names(self, prefix: str) -> list[str]:
        """See the port."""
        names: list[str] = []
        while True:
            try:
                info = await self._jetstream.stream_info(
                    self._stream, f"$O.{self._bucket}.M.>", offset=len(names)
                )
            except JetStreamError as error:
                if error.err_code == STREAM_MISSING:
                    return []
                raise
            names += [_name(subject) for subject in info.state.subjects]
            if not info.state.subjects or len(names) >= info.total:
                return sorted(name for name in names if name.startswith(prefix))

    async def delete(self, name: str) -> None:
        """See the port."""
        description = await self._description(name)
        if description is not None:
            await self._jetstream.purge(self._stream, {"filter": self._subject(name)})
            await self._drop_quietly(description.nuid)

    def _subject(self, name: str) -> str:
        encoded = base64.urlsafe_b64encode(name.encode()).decode()
        return f"$O.{self._bucket}.M.{encoded}"

    async def _ensure(self) -> None:
        if not self._ensured:
            await self._jetstream.ensure_stream(self._config)
            self._ensured = True

    async def _description(self, name: str) -> _Description | None:
        query: Config = {"last_by_subj": self._subject(name)}
        try:
            found = await self._jetstream.message(self._stream, query)
        except JetStreamError as error:
            if error.err_code == STREAM_MISSING:
                return None
            raise
        if found is None:
            return None
        description = decode(found.payload, type=_Description)
        return None if description.deleted else description

    async def _chunks(self, description: _Description) -> AsyncIterator[bytes]:
        subject = f"$O.{self._bucket}.C.{description.nuid}"
        sequence = 1
        left = description.chunks
        while left > 0:
            query: Config = {
                "seq": sequence,
                "next_by_subj": subject,
                "batch": left,
                "max_bytes": _READ_BYTES,
            }
            try:
                found = await get_batch(self._connection, self._stream, query)
            except BucketMissingError:
                return
            if not found:
                return
            left -= len(found)
            sequence = found[-1].sequence + 1
            for message in found:
                yield message.data

    async def _store_chunks(
        self, subject: str, chunks: AsyncIterable[bytes]
    ) -> _Written:
        """Chunks in order, a window of them at a time."""
        window: deque[asyncio.Future[None]] = deque()
        written = _Written()
        async for chunk in _even(chunks):
            written.add(chunk)
            if len(window) >= _WINDOW:
                await self._confirmed(window.popleft())
            window.append(self._start_store(subject, chunk))
        for stored in window:
            await self._confirmed(stored)
        return written

    def _start_store(self, subject: str, chunk: bytes) -> asyncio.Future[None]:
        stored: asyncio.Future[None] = self._connection.loop.create_future()

        def answered(reply: Reply) -> None:
            self._connection.unexpect(token)
            if not stored.done():
                problem = _problem(reply, self._bucket)
                if problem is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(problem)
                    stored.exception()  # looked at here: later ones are not awaited

        token, inbox = self._connection.expect(answered)
        if not self._connection.send(publish_frame(subject, chunk, inbox)):
            answered(Reply(b"", NO_RESPONDERS, b""))
        return stored

    async def _confirmed(self, stored: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(self._connection.settings.request_timeout_s):
                await stored
        except TimeoutError as error:
            raise UnavailableError(
                f"bucket {self._bucket}: a chunk was not confirmed in time"
            ) from error

    async def _store(self, frame_for: Callable[[str], bytes]) -> None:
        reply = await self._connection.request(
            frame_for, self._connection.settings.request_timeout_s
        )
        problem = _problem(reply, self._bucket)
        if problem is not None:
            raise problem

    async def _drop_quietly(self, nuid: str) -> None:
        """Remove chunks nobody points at; what is left only takes room."""
        try:
            subject = f"$O.{self._bucket}.C.{nuid}"
            await self._jetstream.purge(self._stream, {"filter": subject})
        except UnavailableError as error:
            log.warning("blob.remains_left", bucket=self._bucket, error=str(error))


def digest(data: bytes) -> str:
    """As the object store writes it."""
    return _encoded(sha256(data))


def _encoded(proof: Proof) -> str:
    return _DIGEST + base64.urlsafe_b64encode(proof.digest()).decode()


def _info(description: _Description) -> ObjectInfo:
    encoded = description.digest.removeprefix(_DIGEST)
    return ObjectInfo(
        description.size,
        base64.urlsafe_b64decode(encoded).hex(),
        description.metadata,
    )


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _even(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in chunks of the size a bucket has."""
    rest = b""
    async for given in chunks:
        view = memoryview(rest + given if rest else given)
        whole = len(view) - len(view) % CHUNK_BYTES
        for start in range(0, whole, CHUNK_BYTES):
            yield bytes(view[start : start + CHUNK_BYTES])
        rest = bytes(view[whole:])
    if rest:
        yield rest


def _name(subject: str) -> str:
    return base64.urlsafe_b64decode(subject.rpartition(".")[2]).decode()


def _problem(reply: Reply, bucket: str) -> UnavailableError | None:
    if reply.status:
        return UnavailableError(f"bucket {bucket}: nobody stores ({reply.status})")
    fault = decode_pub_ack(reply.data).error
    if fault is None:
        return None
    if fault.err_code == _FULL:
        return LogFullError(f"bucket {bucket} is full: give it more room")
    return UnavailableError(f"bucket {bucket}: {fault.description} ({fault.err_code})")
