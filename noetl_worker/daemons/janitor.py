"""The janitor: trims the log up to what nobody needs any more (RT-LIM-5, design §4).

A message may go when every shard's kept snapshots reach past it, its rows are safe on
disk, no current lease and no command that is still to be run lies at or before it, and
it is old enough. A log that fills up is not kept for its age; every other floor stands
whatever the log's size, and the fullest of them is named where people look.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from noetl_worker.daemons.snapshots import Snapshots
from state_builder.ids import Shard
from state_builder.ports import Blobs, Clock, EventLog, LogInfo, Observer
from state_builder.rows import Position

log = structlog.get_logger(__name__)

FILLING_AT = 0.7
"""Share of the log's room above which it is an alert and age keeps nothing."""

ALL_SHARDS = "all"
"""Name of the materializer's group that holds every shard; others list theirs."""


@dataclass(frozen=True, kw_only=True)
class JanitorSettings:
    """How the log is kept short.

    Attributes:
        retention_s: least time a message stays while there is room.
        trim_messages_min: less is not worth a purge.
    """

    retention_s: float = 86_400.0
    trim_messages_min: int = 100


@dataclass(frozen=True, kw_only=True)
class JanitorPorts:
    """What the janitor may touch.

    Attributes:
        positions: of every shard group, what no crash of the database takes back.
    """

    log: EventLog
    snapshots: Blobs
    positions: Callable[[], Awaitable[Mapping[str, Position]]]
    clock: Clock
    observer: Observer


class Janitor:
    """Trims the log, a look at a time."""

    def __init__(self, ports: JanitorPorts, settings: JanitorSettings) -> None:
        self._ports = ports
        self._settings = settings
        self._snapshots = Snapshots(ports.snapshots, ports.observer)

    async def trim(self) -> int:
        """Drop what nobody needs; how many messages went.

        Raises UnavailableError: then nothing is known of one of the floors, and
        nothing goes.
        """
        info = await self._ports.log.info()
        used = info.bytes / info.bytes_max if info.bytes_max > 0 else 0.0
        floors = await self._floors(info, filling=used >= FILLING_AT)
        name = min(floors, key=lambda each: floors[each])
        floor = floors[name]
        gauge = self._ports.observer.gauge
        gauge("noetl_log_floor_sequence", floor)
        gauge("noetl_log_used_ratio", used)
        for each, sequence in floors.items():
            gauge("noetl_log_kept_messages", info.last_sequence + 1 - sequence, by=each)
        if used >= FILLING_AT:
            log.warning(
                "log.filling", used=round(used, 3), kept_by=name, floor=floor, **floors
            )
        little = floor - info.first_sequence < self._settings.trim_messages_min
        if little and used < FILLING_AT:
            return 0
        went = await self._ports.log.trim(floor)
        if went:
            self._ports.observer.count("noetl_log_trimmed_messages_total", went)
            log.info("log.trimmed", messages=went, floor=floor, kept_by=name)
        return went

    async def _floors(self, info: LogInfo, *, filling: bool) -> dict[str, int]:
        """The first message that must stay, for each reason there is."""
        found = {
            "snapshot": await self._snapshots.floor(info.shard_count, info.generation),
            "rows": rows_reach(await self._ports.positions(), info) + 1,
            "lease": await self._oldest_lease(info.shard_count),
        }
        if not filling:
            found["age"] = await self._first_young(info)
        return found

    async def _oldest_lease(self, shard_count: int) -> int:
        """A shard nobody ever owned keeps everything: its facts wait for an owner."""
        leases = [
            await self._ports.log.lease_sequence(Shard(shard))
            for shard in range(shard_count)
        ]
        return max(1, min(leases))

    async def _first_young(self, info: LogInfo) -> int:
        """The first message younger than the retention; times grow with sequences."""
        limit = self._ports.clock.now() - self._settings.retention_s
        low, high = info.first_sequence, info.last_sequence + 1
        while low < high:
            middle = (low + high) // 2
            message = await self._ports.log.read(middle)
            if message is None or message.stored_at < limit:
                low = middle + 1
            else:
                high = middle
        return low


def rows_reach(positions: Mapping[str, Position], info: LogInfo) -> int:
    """The sequence up to which the rows of every shard are stored.

    A shard counts with the group that is furthest: one that was given up when the
    groups were cut anew keeps nothing.
    """
    reach = [0] * info.shard_count
    for group, position in positions.items():
        if position.generation != info.generation:
            continue
        shards = range(info.shard_count)
        listed = shards if group == ALL_SHARDS else map(int, group.split(","))
        for shard in listed:
            if shard < info.shard_count:
                reach[shard] = max(reach[shard], position.sequence)
    return min(reach)


async def rows_until(
    log: EventLog, positions: Mapping[str, Position], now: float
) -> float:
    """The Unix time up to which all that was logged has its rows; 0 when unknown."""
    info = await log.info()
    reach = rows_reach(positions, info)
    if reach >= info.last_sequence:
        return now
    waiting = await log.read(reach + 1)
    return 0.0 if waiting is None else waiting.stored_at
