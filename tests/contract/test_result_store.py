"""Large values by key, in every store: in memory, on NATS, in a directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import pytest
from bus_fleet import Counting, Fleet, ManualClock

from materializer.memory.results import MemoryResultRows
from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.bus.nats import NatsBus
from noetl_worker.results.objects import ObjectResults, open_store
from noetl_worker.results.purge import Purger
from noetl_worker.results.values import Values, ValueSettings
from state_builder.errors import (
    InvalidError,
    LimitExceededError,
    LostDataError,
    ReferenceMissingError,
    RefusedError,
    SettingsError,
    UnavailableError,
)
from state_builder.ids import snowflake
from state_builder.locator import Locator
from state_builder.values import OpenObject, ResultRow, ResultStore, StoredObject

pytestmark = pytest.mark.anyio
Store: TypeAlias = ResultStore
PLACE = Locator("results", ("7423", "load", "1", "0", "1"), "v1")
SIZES = [0, 1, 131_071, 131_072, 131_073, 5_000_001]


@pytest.fixture(params=["bus", "disk"])
async def store(
    request: pytest.FixtureRequest, fleet: Fleet, unique_name: str, tmp_path: Path
) -> Store:
    if request.param == "disk":
        return open_store("disk", "", str(tmp_path))
    bus = await fleet.bus()
    return bus.results(unique_name) if isinstance(bus, NatsBus) else MemoryResults()


def some(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def all_of(opened: OpenObject | None) -> bytes:
    assert opened is not None
    return b"".join([chunk async for chunk in opened.chunks])


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_put_is_what_is_read(store: Store, size: int) -> None:
    """TL-RR-50: of any size, piece by piece, with its digest and notes."""
    data = some(size)
    stored = await store.put("a/k@1", pieces(data), {"form": "http", "scope": "step"})
    opened = await store.open("a/k@1")
    assert await all_of(opened) == data
    assert opened is not None and opened.info == stored
    assert stored.sha256 == sha256(data).hexdigest() and stored.bytes == size
    assert stored.about == {"form": "http", "scope": "step"}


async def test_what_is_not_there_is_none(store: Store) -> None:
    assert await store.open("a") is None
    assert await store.keys("") == []
    await store.delete("a")
    await store.put("b", pieces(b"x"), {})
    assert await store.open("a") is None


async def test_half_an_object_is_never_found(store: Store) -> None:
    """TL-RR-55: whole under its name, or not there; what was there before stays."""

    async def torn() -> AsyncIterator[bytes]:
        yield some(300_000)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        await store.put("torn", torn(), {})
    assert await store.open("torn") is None
    assert await store.keys("") == []


async def test_keys_are_listed_by_prefix_and_deleted(store: Store) -> None:
    names = ["e=1/results/a@1", "e=1/results/b@1", "e=12/results/a@1", "x"]
    await asyncio.gather(*(store.put(name, pieces(b"1"), {}) for name in names))
    assert await store.keys("e=1/") == names[:2]
    assert await store.keys("e=1/results/b") == names[1:2]
    await store.delete(names[1])
    assert await store.keys("e=1/") == names[:1]
    assert await store.open(names[1]) is None
    assert await all_of(await store.open(names[2])) == b"1"


async def test_many_at_once_do_not_mix(store: Store) -> None:
    values = {f"k{number}": some(200_000 + number) for number in range(8)}
    await asyncio.gather(
        *(store.put(key, pieces(data), {}) for key, data in values.items())
    )
    for key, data in values.items():
        assert await all_of(await store.open(key)) == data


def values_of(store: Store, **more: int) -> Values:
    return Values(store, ManualClock(), Counting(), ValueSettings(**more))


async def test_a_value_is_found_by_its_reference(store: Store) -> None:
    """TL-RR-02, RT-EVT-15, RT-RES-5: by name alone, without a database."""
    reference = await values_of(store).keep(PLACE, b'{"a":1}', {"form": "plain"})
    assert reference.ref == str(PLACE) and reference.kind == "result_ref"
    assert reference.store == store.tier and reference.meta.bytes == 7
    assert reference.meta.sha256 == sha256(b'{"a":1}').hexdigest()
    assert reference.meta.media_type == "application/json"
    assert await values_of(store).fetch(reference) == b'{"a":1}'


async def test_a_value_that_is_gone_says_so(store: Store) -> None:
    """TL-RR-43, TL-RR-54: no wrong data, but an error of its own kind."""
    values = values_of(store)
    reference = await values.keep(PLACE, b"1", {})
    for key in await store.keys(""):
        await store.delete(key)
    with pytest.raises(ReferenceMissingError, match="gone"):
        await values.fetch(reference)
    reference.ref = "noetl://execution/1/result/n/1"
    with pytest.raises(RefusedError):
        await values.fetch(reference)
    reference.ref = "s3://elsewhere"
    with pytest.raises(InvalidError):
        await values.fetch(reference)


async def test_other_bytes_than_the_reference_says_are_refused(store: Store) -> None:
    """TL-RR-04: the digest is verified on read."""
    values = values_of(store)
    reference = await values.keep(PLACE, b"1", {})
    reference.meta.sha256 = "0" * 64
    with pytest.raises(LostDataError):
        await values.fetch(reference)


async def test_a_value_too_large_for_memory_is_refused(store: Store) -> None:
    """TL-LIM-04: before any of it is read."""
    values = values_of(store, bytes_max=1000)
    reference = await values.keep(PLACE, some(1001), {})
    with pytest.raises(LimitExceededError, match="pass the reference on"):
        await values.fetch(reference)


async def test_a_value_is_fetched_once_and_kept_within_bounds(store: Store) -> None:
    """TL-RR-44: asked for by many at once, fetched once; the oldest goes first."""
    counting = Counting()
    values = Values(store, ManualClock(), counting, ValueSettings(cache_bytes=2500))
    places = [PLACE._replace(version=f"v{number}") for number in range(3)]
    kept = [await values.keep(place, some(1000), {}) for place in places]
    await asyncio.gather(*(values.fetch(kept[0]) for _ in range(10)))
    assert fetches(counting) == 1
    for reference in (kept[1], kept[2], kept[0]):
        await values.fetch(reference)
    assert fetches(counting) == 4


def fetches(counting: Counting) -> float:
    return sum(n for name, n in counting.counts.items() if "fetched" in name)


class Away(MemoryResults):
    """A store that is away for a while."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    async def put(self, *args: object, **more: object) -> StoredObject:  # type: ignore[override]
        if self.left:
            self.left -= 1
            raise UnavailableError("the store is away")
        return await super().put(*args, **more)  # type: ignore[arg-type]


class Hurried(ManualClock):
    """Waits are over at once, and remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


async def test_a_store_that_is_away_is_tried_again() -> None:
    """TL-RR-03: with waits that grow; a lasting failure is told, nothing is lost."""
    clock = Hurried()
    values = Values(Away(2), clock, Counting())
    assert (await values.keep(PLACE, b"1", {})).meta.bytes == 1
    assert clock.waits == [0.2, 0.4]
    with pytest.raises(UnavailableError):
        await Values(Away(99), clock, Counting()).keep(PLACE, b"1", {})


async def test_damage_in_a_directory_is_noticed(tmp_path: Path) -> None:
    """TL-RR-04, TL-RR-55: whoever changed the file."""
    store = open_store("disk", "", str(tmp_path))
    await store.put("a", pieces(b"right"), {})
    (tmp_path / "results" / "a").write_bytes(b"wrong")
    with pytest.raises(LostDataError):
        await all_of(await store.open("a"))
    (tmp_path / "results" / "a").unlink()
    with pytest.raises(LostDataError):
        await all_of(await store.open("a"))


def test_a_bucket_needs_an_address(tmp_path: Path) -> None:
    """TL-OS-04: a configuration error, no other tier behind one's back."""
    for tier in ("s3", "gcs", "azure"):
        with pytest.raises(SettingsError, match="NOETL_RESULT_STORE_URL"):
            open_store(tier, "", str(tmp_path))
    with pytest.raises(SettingsError):
        open_store("s3", "nonsense", str(tmp_path))
    made = open_store("s3", "s3://bucket/prefix", str(tmp_path))
    assert isinstance(made, ObjectResults) and made.tier == "s3"


class Rows(MemoryResultRows):
    """An index that says which executions are over."""

    def __init__(self, over: dict[str, float], now: float) -> None:
        self._over_since, self._at = over, now

    async def expired(self, limit: int) -> list[ResultRow]:
        return []

    async def forget(self, result_ids: Sequence[str]) -> None:
        assert not result_ids

    async def unneeded(self, execution_ids: list[str], after_s: float) -> set[str]:
        return {
            eid
            for eid in execution_ids
            if self._at - self._over_since.get(eid, self._at) > after_s
            or eid not in self._over_since
        }


async def test_values_go_some_time_after_their_execution(store: Store) -> None:
    """TL-RR-54, RT-LIM-5, RT-HSK-1: by scope; orphans too; open executions never."""
    clock = ManualClock()
    day = 86_400.0
    old = str(snowflake(int((clock.now() - 30 * day) * 1000), 1, 1))
    orphan = str(snowflake(int((clock.now() - 30 * day) * 1000), 1, 2))
    still_open = str(snowflake(int((clock.now() - 30 * day) * 1000), 1, 3))
    young = str(snowflake(int((clock.now() - 60) * 1000), 1, 4))
    values = Values(store, clock, Counting())
    for eid in (old, orphan, still_open, young):
        for scope in ("execution", "workflow", "permanent"):
            place = Locator("results", (eid, scope, "1", "0", "1"), "v")
            await values.keep(place, b"1", {"scope": scope})
    since = {old: clock.now() - 2 * day, still_open: clock.now()}
    rows = Rows(since, clock.now())
    told = [0.0, clock.now()]

    async def rows_until() -> float:
        return told.pop(0)

    purger = Purger([store], values, rows, rows_until, (clock, Counting()))
    # While rows are missing, that an execution has none says nothing of it.
    assert await purger.purge() == 0
    assert await purger.purge() == 3
    left = {
        (parts[8].partition("=")[2], parts[10])
        for parts in (key.split("/") for key in await store.keys(""))
    }
    assert {scope for eid, scope in left if eid == old} == {"workflow", "permanent"}
    assert {scope for eid, scope in left if eid == orphan} == {"permanent"}
    assert sum(eid in (still_open, young) for eid, _ in left) == 6


async def test_a_value_goes_when_its_time_is_over(store: Store) -> None:
    """TL-RR-54, TL-OS-01: gone at once for readers, cached or not, then for good."""
    clock = ManualClock()
    began = str(snowflake(int((clock.now() - 30 * 86_400) * 1000), 1, 1))
    place = Locator("results", (began, "load", "1", "0", "1"), "v")
    values = Values(store, clock, Counting())
    about = {"scope": "permanent", "ttl_s": "60"}
    reference = await values.keep(place, b"1", about)
    assert reference.expires_at
    assert await values.fetch(reference) == b"1"

    async def rows_until() -> float:
        return clock.now()

    purger = Purger(
        [store], values, Rows({}, clock.now()), rows_until, (clock, Counting())
    )
    assert await purger.purge() == 0
    clock.advance(61)
    for read in (values.fetch(reference), values.open(reference.ref)):
        with pytest.raises(ReferenceMissingError, match="was kept until"):
            await read
    assert await purger.purge() == 1
    assert await store.keys("") == []
