"""Snapshots of shards: what they are called, written and read back (RT-IDX-4).

A name says all the janitor must know: the life of the log, the sequence the snapshot
covers, and the first one that is needed beside it. Names of a shard sort by age.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple, Self

import structlog

from state_builder.errors import LostDataError, RecordError
from state_builder.index import ShardIndex
from state_builder.ports import Blobs, LogInfo, Observer

log = structlog.get_logger(__name__)

KEPT = 2
"""One may turn out to be damaged; then the one before it is read."""

_ALL = "shard-"


class SnapshotName(NamedTuple):
    """Where a snapshot is kept.

    Attributes:
        covered: everything up to this sequence is in it.
        needed: the first message an owner with this snapshot still needs: what comes
            after it, or an older command that is not finished.
    """

    shard: int
    generation: int
    covered: int
    needed: int

    def __str__(self) -> str:
        place = f"{self.generation:06d}-{self.covered:020d}-{self.needed:020d}"
        return f"{prefix(self.shard)}{place}"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """What a name says; None when it is no snapshot's."""
        shard, _, place = name.removeprefix(_ALL).partition("/")
        numbers = [shard, *place.split("-")]
        if not all(number.isdecimal() for number in numbers) or len(numbers) != 4:
            return None
        return cls(*map(int, numbers))


def prefix(shard: int) -> str:
    """What the names of a shard's snapshots begin with."""
    return f"{_ALL}{shard:05d}/"


class Snapshots:
    """The snapshots of every shard, in one place."""

    def __init__(self, blobs: Blobs, observer: Observer) -> None:
        self._blobs = blobs
        self._observer = observer

    async def restore(self, shard: int, info: LogInfo) -> ShardIndex | None:
        """The newest index that can be read and reaches the log's first message.

        None when there is none and the log was trimmed: the shard cannot be owned.
        """
        for name in reversed(await self._blobs.names(prefix(shard))):
            try:
                data = await self._blobs.get(name)
                if data is None:
                    continue
                index = ShardIndex.restore(shard, info.generation, data)
            except (LostDataError, RecordError) as error:
                log.error("snapshot.refused", name=name, reason=str(error))
                continue
            if info.first_sequence - 1 <= index.position <= info.last_sequence:
                return index
        if info.first_sequence <= 1:
            return ShardIndex(shard, info.generation)
        log.error(
            "shard.unreadable",
            shard=shard,
            first_sequence=info.first_sequence,
            hint="the log is trimmed and no snapshot reaches it: run noetl repair",
        )
        return None

    async def write(self, index: ShardIndex, covered: int) -> SnapshotName:
        """Write an index down, then drop what nobody will read any more."""
        name = SnapshotName(
            index.shard, index.generation, covered, index.needed(covered)
        )
        data = index.snapshot(covered)
        await self._blobs.put(str(name), data)
        self._observer.count("noetl_checkpoint_bytes_total", len(data))
        for old in (await self._blobs.names(prefix(index.shard)))[:-KEPT]:
            await self._blobs.delete(old)
        return name

    async def floor(self, shard_count: int, generation: int) -> int:
        """The first message some owner may still need; 1 while one needs them all."""
        found: dict[int, list[SnapshotName]] = defaultdict(list)
        for text in await self._blobs.names(_ALL):
            name = SnapshotName.parse(text)
            if name is not None and name.generation == generation:
                found[name.shard].append(name)
        if any(len(found[shard]) < KEPT for shard in range(shard_count)):
            return 1
        # Whichever of those that are kept is read in the end, the log must reach it.
        return min(
            min(name.needed for name in names[-KEPT:])
            for shard, names in found.items()
            if shard < shard_count
        )
