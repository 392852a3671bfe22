"""The ``ValueStore`` port: names, digests, a bounded cache, one fetch at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping

import anyio
from msgspec import Struct
from msgspec.json import decode as decode_json

from noetl_worker.results.columns import ARROW_TYPE, columnar, from_columns
from state_builder.errors import (
    InvalidError,
    LimitExceededError,
    LostDataError,
    ReferenceMissingError,
    RefusedError,
    UnavailableError,
)
from state_builder.locator import KeyRoot, Locator, object_key, parse
from state_builder.ports import Clock, Observer
from state_builder.records import (
    Reference,
    ReferenceMeta,
    decode_reference,
    encode_json,
    timestamp,
)
from state_builder.template import StepResult, plain
from state_builder.values import MANIFEST_TYPE, Manifest, OpenObject, ResultStore

RETRY_FIRST_S = 0.2

JSON_TYPE = "application/json"

BYTES_FORM = "bytes"
"""Form of what is no JSON but somebody's bytes, as they came."""

_MADE_OF_PARTS = frozenset({MANIFEST_TYPE, ARROW_TYPE})

_ANY_TIER = frozenset({"", "auto", "memory", "db"})
"""Words for the one configured store; the last two are older names of it."""


class ValueSettings(Struct, frozen=True, kw_only=True):
    """How values are kept.

    Attributes:
        bytes_max: most bytes of one value fetched into memory.
        stream_bytes_max: most bytes that are stored piece by piece.
        cache_bytes: of all values kept after they were fetched (TL-RR-44).
        tries: of a store that is away, with waits that double from 0.2 s.
    """

    root: KeyRoot = KeyRoot()
    bytes_max: int = 64 << 20
    stream_bytes_max: int = 512 << 20
    cache_bytes: int = 256 << 20
    tries: int = 5


class Values:
    """Keeps and fetches values; see :class:`state_builder.values.ValueStore`.

    ``others`` are tiers an author may ask for by name (TL-RR-50).
    """

    def __init__(
        self,
        store: ResultStore,
        clock: Clock,
        observer: Observer,
        settings: ValueSettings | None = None,
        others: Mapping[str, ResultStore] | None = None,
    ) -> None:
        self._store = store
        self._stores = {**(others or {}), store.tier: store}
        self._clock = clock
        self._observer = observer
        self._settings = settings or ValueSettings()
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0
        self._locks: dict[str, anyio.Lock] = {}

    async def keep(
        self, locator: Locator, data: bytes, about: Mapping[str, str]
    ) -> Reference:
        """See the port."""
        if locator.kind == "results":
            data, about = await columnar(data, about)
        wait_s = RETRY_FIRST_S
        for left in reversed(range(self._settings.tries)):
            try:
                return await self._put(locator, _whole(data), about)
            except UnavailableError:
                if not left:
                    raise
                await self._clock.sleep(wait_s)
                wait_s *= 2
        raise AssertionError("a store is tried at least once")

    async def keep_stream(
        self, locator: Locator, chunks: AsyncIterator[bytes], about: Mapping[str, str]
    ) -> Reference:
        """The same for bytes that come piece by piece; they cannot be sent twice.

        Raises LimitExceededError too; then nothing is stored.
        """
        return await self._put(locator, self._bounded(chunks), about)

    async def _bounded(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size, limit = 0, self._settings.stream_bytes_max
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                self._observer.count("noetl_limit_hits_total", limit="stream_bytes_max")
                raise LimitExceededError(
                    "stream_bytes_max",
                    f"more than {limit:,} bytes came, the most that is stored as one "
                    "value: raise NOETL_RESULT_STREAM_MAX_BYTES or ask for less",
                )
            yield chunk

    async def _put(
        self, locator: Locator, chunks: AsyncIterator[bytes], about: Mapping[str, str]
    ) -> Reference:
        store = self._tier(about.get("tier", ""))
        expires_at = ""
        if "ttl_s" in about:
            expires_at = timestamp(self._clock.now() + float(about["ttl_s"]))
            about = {**about, "expires_at": expires_at}
        key = object_key(locator, self._settings.root)
        stored = await store.put(key, chunks, about)
        self._observer.count("noetl_results_stored_total", tier=store.tier)
        media_type = about.get("media_type", JSON_TYPE)
        return Reference(
            ref=str(locator),
            uri=str(locator),
            store=store.tier,
            scope=about.get("scope", "execution"),
            expires_at=expires_at,
            meta=ReferenceMeta(
                bytes=stored.bytes,
                value_bytes=int(about.get("value_bytes", 0)),
                sha256=stored.sha256,
                media_type=media_type,
                content_type=about.get("content_type", media_type),
            ),
        )

    async def fetch(self, reference: Reference) -> bytes:
        """See the port."""
        self._check_age(reference.expires_at, reference.ref)
        name = f"{reference.ref}#{reference.meta.sha256}"
        found = self._cache.get(name)
        if found is not None:
            self._cache.move_to_end(name)
            return found
        lock = self._locks.setdefault(name, anyio.Lock())
        try:
            async with lock:
                found = self._cache.get(name)
                if found is None:
                    found = await self._fetched(reference)
                    self._remember(name, found)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(name, None)
        return found

    async def open(self, ref: str) -> OpenObject:
        """See the port. What must be put together first is in memory meanwhile."""
        opened = await self._open(ref)
        about = opened.info.about
        form = about.get("form", "plain")
        if form != "pipeline" and about.get("media_type") not in _MADE_OF_PARTS:
            return opened
        data = whole_value(await self.fetch(Reference(ref=ref)), form)
        about = {**about, "media_type": JSON_TYPE}
        info = opened.info._replace(bytes=len(data), about=about)
        return OpenObject(info, _whole(data))

    async def read(self, ref: str) -> tuple[bytes, bool]:
        """All of it, as :meth:`open` gives it, and whether it is JSON."""
        about = (await self._open(ref)).info.about
        form = about.get("form", "plain")
        data = whole_value(await self.fetch(Reference(ref=ref)), form)
        return data, form != BYTES_FORM

    async def drop(self, ref: str) -> None:
        """See the port."""
        locator = parse(ref)
        if isinstance(locator, Locator):
            key = object_key(locator, self._settings.root)
            for store in self._stores.values():
                await store.delete(key)

    async def _open(self, ref: str) -> OpenObject:
        locator = parse(ref)
        if not isinstance(locator, Locator):
            raise RefusedError(f"{ref} is known to the server alone")
        key = object_key(locator, self._settings.root)
        for store in dict.fromkeys((self._store, *self._stores.values())):
            found = await store.open(key)
            if found is not None:
                self._check_age(found.info.about.get("expires_at", ""), ref)
                return found
        raise ReferenceMissingError(f"nothing is stored at {ref}: it is gone")

    def _tier(self, asked: str) -> ResultStore:
        """The store an author asked for by name (TL-RR-50, TL-OS-04)."""
        if asked in _ANY_TIER:
            return self._store
        found = self._stores.get(asked)
        if found is None:
            known = ", ".join(sorted(self._stores))
            raise InvalidError(
                f"output.store.kind '{asked}' is not configured here (there is {known})"
            )
        return found

    async def _fetched(self, reference: Reference) -> bytes:
        opened = await self._open(reference.ref)
        about = opened.info.about
        size = max(opened.info.bytes, int(about.get("value_bytes", 0)))
        self._check_size(size, reference.ref)
        data = b"".join([chunk async for chunk in opened.chunks])
        wanted = reference.meta.sha256
        if wanted and wanted != opened.info.sha256:
            raise LostDataError(f"{reference.ref} is not what its reference says")
        self._observer.count("noetl_results_fetched_total", tier=reference.store)
        if about.get("media_type") == MANIFEST_TYPE:
            return await self._assembled(decode_json(data, type=Manifest))
        if about.get("media_type") == ARROW_TYPE:
            return await from_columns(data)
        return data

    async def _assembled(self, manifest: Manifest) -> bytes:
        """A value stored by parts, in their order (TL-OS-06)."""
        self._check_size(manifest.total_bytes, "the result of the loop")
        parts: list[bytes] = []
        for part in manifest.parts:
            if not part.reference:
                parts.append(bytes(part.value))
                continue
            data = await self.fetch(decode_reference(part.reference))
            parts.append(whole_value(data, part.form))
        joined = b",".join(parts)
        rest = bytes(manifest.rest)[1:-1]
        return b'{"%b":[%b],%b}' % (manifest.merge_path.encode(), joined, rest)

    def _check_age(self, expires_at: str, ref: str) -> None:
        """Past its ``ttl`` a value is gone, removed already or not (TL-RR-54)."""
        if expires_at and expires_at <= timestamp(self._clock.now()):
            raise ReferenceMissingError(
                f"{ref} was kept until {expires_at}: it is gone"
            )

    def _check_size(self, size: int, what: str) -> None:
        limit = self._settings.bytes_max
        if size > limit:
            self._observer.count("noetl_limit_hits_total", limit="result_bytes_max")
            raise LimitExceededError(
                "result_bytes_max",
                f"{what} has {size:,} bytes, at most {limit:,} are taken into memory: "
                "pass the reference on, or copy it with artifact put and source",
            )

    def _remember(self, name: str, data: bytes) -> None:
        if len(data) > self._settings.cache_bytes:
            return
        self._cache[name] = data
        self._cached += len(data)
        while self._cached > self._settings.cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped)


def whole_value(data: bytes, form: str) -> bytes:
    """What a reader of the whole result sees: merged keys of a pipeline and all."""
    if form != "pipeline":
        return data
    return encode_json(plain(StepResult(decode_json(data), form)))


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
