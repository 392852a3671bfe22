"""The janitor drops what nobody needs, and nothing else (RT-LIM-5, design §4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from doubles import Counting, ManualClock
from msgspec import Raw

from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.topology import BusSettings
from noetl_worker.daemons.janitor import (
    Janitor,
    JanitorPorts,
    JanitorSettings,
    rows_reach,
    rows_until,
)
from noetl_worker.daemons.snapshots import SnapshotName, Snapshots
from state_builder.errors import UnavailableError
from state_builder.ids import Shard, event_id
from state_builder.index import ShardIndex
from state_builder.ports import LogInfo, LogMessage
from state_builder.records import Event, Record, encode_append, encode_json
from state_builder.rows import Position

pytestmark = pytest.mark.anyio

SHARDS = 2
RETENTION_S = 3600.0


@dataclass
class Kept:
    """A log of 1,000 old messages in which nothing keeps anything."""

    clock: ManualClock = field(default_factory=ManualClock)
    room: int = 1 << 20
    positions: dict[str, Position] = field(
        default_factory=lambda: {"all": Position(0, 1000)}
    )
    away: bool = False

    def __post_init__(self) -> None:
        settings = BusSettings(shard_count=SHARDS, log_bytes_max=self.room)
        self.broker = MemoryBroker(self.clock, settings)
        self.broker.create(settings)
        self.bus = MemoryBus(self.broker)
        self.observer = Counting()
        self.blobs = self.bus.blobs("s")

    async def fill(self, leases: tuple[int, int] = (999, 1000)) -> None:
        for number in range(1, 1001):
            if number in leases:
                shard = Shard(leases.index(number))
                assert await self.bus.log.take_lease(shard, "me", "") == number
            else:
                self.broker.store((Shard(0), "events", ""), b"x" * 80, message_id="")

    async def snapshot(self, shard: int, *covered: int, needed: int = 0) -> None:
        for each in covered:
            name = SnapshotName(shard, 0, each, needed or each + 1)
            await self.blobs.put(str(name), b"")

    async def snapshots(self) -> None:
        for shard in range(SHARDS):
            await self.snapshot(shard, 990, 1000)

    async def trim(self, retention_s: float = RETENTION_S) -> int:
        async def positions() -> dict[str, Position]:
            if self.away:
                raise UnavailableError("database: away")
            return self.positions

        ports = JanitorPorts(
            log=self.bus.log,
            snapshots=self.blobs,
            positions=positions,
            clock=self.clock,
            observer=self.observer,
        )
        return await Janitor(ports, JanitorSettings(retention_s=retention_s)).trim()


async def old_log() -> Kept:
    kept = Kept()
    await kept.fill()
    await kept.snapshots()
    kept.clock.advance(RETENTION_S + 1)
    return kept


async def test_what_every_floor_is_past_goes_and_the_floor_is_shown() -> None:
    kept = await old_log()
    assert await kept.trim() == 990
    assert kept.broker.info().first_sequence == 991
    assert kept.observer.gauges["noetl_log_floor_sequence"] == 991
    assert await kept.trim() == 0


async def test_the_older_kept_snapshot_must_still_reach_the_log() -> None:
    """RT-IDX-5, A15: with the newest damaged, the one before it is read."""
    kept = await old_log()
    await kept.snapshot(1, 400)
    for name in await kept.blobs.names("shard-00001/"):
        if "00990" in name:
            await kept.blobs.delete(name)
    assert await kept.trim() == 400


async def test_a_shard_without_two_snapshots_keeps_the_whole_log() -> None:
    kept = Kept()
    await kept.fill()
    await kept.snapshot(0, 990, 1000)
    await kept.snapshot(1, 1000)
    kept.clock.advance(RETENTION_S + 1)
    assert await kept.trim() == 0


async def test_a_command_still_to_be_run_stays() -> None:
    kept = await old_log()
    await kept.snapshot(1, 995, needed=300)
    assert await kept.trim() == 299


async def test_rows_not_on_disk_yet_stay() -> None:
    kept = await old_log()
    kept.positions = {"all": Position(0, 500)}
    assert await kept.trim() == 500


async def test_without_the_database_nothing_goes() -> None:
    kept = await old_log()
    kept.away = True
    with pytest.raises(UnavailableError):
        await kept.trim()
    assert kept.broker.info().first_sequence == 1


async def test_a_current_lease_stays() -> None:
    """Design §2 (f): a trimmed lease would refuse its rightful owner."""
    kept = Kept()
    await kept.fill(leases=(200, 1000))
    await kept.snapshots()
    kept.clock.advance(RETENTION_S + 1)
    assert await kept.trim() == 199
    assert await kept.bus.log.lease_sequence(Shard(0)) == 200


async def test_young_messages_stay_while_there_is_room() -> None:
    kept = Kept()
    await kept.fill()
    await kept.snapshots()
    kept.clock.advance(RETENTION_S - 1)
    assert await kept.trim() == 0


async def test_a_log_that_fills_up_is_not_kept_for_its_age() -> None:
    kept = Kept(room=250_000)
    await kept.fill()
    await kept.snapshots()
    assert await kept.trim() == 990


@pytest.mark.parametrize(
    ("positions", "reach"),
    [
        ({}, 0),
        ({"all": Position(0, 7)}, 7),
        ({"0,1": Position(0, 7), "2": Position(0, 5)}, 5),
        ({"0,1": Position(0, 7)}, 0),
        ({"all": Position(0, 2), "0,1": Position(0, 7), "2": Position(0, 5)}, 5),
        ({"all": Position(1, 7)}, 0),
    ],
)
def test_rows_reach_as_far_as_the_slowest_shard(
    positions: dict[str, Position], reach: int
) -> None:
    """A group that has not begun keeps all; one given up keeps nothing."""
    info = LogInfo(1, 10, 0, 3, 0, 0, "")
    assert rows_reach(positions, info) == reach


def index_with_a_command(issued_at: int) -> ShardIndex:
    """An index that read a start, and then a command at that sequence."""
    index = ShardIndex(0, 0)
    genesis = {"catalog_id": "1", "path": "p", "version": 1}
    enter = Event(type="step.enter", step="a", visit=1)
    issued = Event(type="command.issued", step="a", visit=1, command_id="1.a.1.1")
    begun = Event(type="playbook_started", context=Raw(encode_json(genesis)))
    for sequence, events in ((1, [begun]), (issued_at, [enter, issued])):
        data = encode_append([Record(execution_id="1", events=events)])
        index.apply(LogMessage(sequence, Shard(0), "events", data, 0.0))
    return index


async def test_a_snapshot_says_from_where_the_log_is_needed() -> None:
    """An unfinished command older than the snapshot keeps its message."""
    kept = Kept()
    snapshots = Snapshots(kept.blobs, kept.observer)
    index = index_with_a_command(issued_at=40)
    assert event_id(0, 40, 1) == index.open["1"].state.commands["1.a.1.1"].event
    name = await snapshots.write(index, 70)
    assert (name.covered, name.needed) == (70, 40)
    assert SnapshotName.parse(str(name)) == name


async def test_snapshots_of_an_earlier_life_of_the_log_are_dropped_first() -> None:
    """RT-NATS-36: sequences start again, the newer life still sorts above."""
    kept = Kept()
    snapshots = Snapshots(kept.blobs, kept.observer)
    await kept.snapshot(0, 5000, 6000)
    new = ShardIndex(0, 1, 3)
    await snapshots.write(new, 3)
    new.position = 9
    await snapshots.write(new, 9)
    info = LogInfo(5, 9, 1, SHARDS, 0, 0, "")
    names = [
        SnapshotName.parse(name) for name in await kept.blobs.names("shard-00000/")
    ]
    assert [(name.generation, name.covered) for name in names if name] == [
        (1, 3),
        (1, 9),
    ]
    restored = await snapshots.restore(0, info)
    assert restored is not None
    assert restored.position == 9


async def test_a_damaged_snapshot_falls_back_to_the_one_before() -> None:
    """RT-IDX-4, A15."""
    kept = Kept()
    snapshots = Snapshots(kept.blobs, kept.observer)
    index = ShardIndex(0, 0, 3)
    await snapshots.write(index, 3)
    index.position = 9
    newest = await snapshots.write(index, 9)
    await kept.blobs.put(str(newest), b"torn")
    restored = await snapshots.restore(0, LogInfo(4, 20, 0, SHARDS, 0, 0, ""))
    assert restored is not None
    assert restored.position == 3
    assert await snapshots.restore(0, LogInfo(6, 20, 0, SHARDS, 0, 0, "")) is None


async def test_rows_are_known_up_to_the_first_message_that_has_none() -> None:
    """RT-HSK-1: nobody takes an execution for unknown whose rows are on their way."""
    kept = Kept()
    await kept.fill()
    first = kept.clock.now()
    kept.clock.advance(60)
    now = kept.clock.now()
    log = kept.bus.log
    assert await rows_until(log, {"all": Position(0, 1000)}, now) == now
    assert await rows_until(log, {"all": Position(0, 400)}, now) == first
    assert await rows_until(log, {}, now) == first
    await log.trim(900)
    assert await rows_until(log, {}, now) == 0.0
