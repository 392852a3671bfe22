"""Repair after lost data: open executions come back from their rows (RT-IDX-6).

The log lost them, with its volume, its tail, or the snapshots of a log that was
trimmed; the tables still show them open. What each of them was is folded from its rows
and written into the newest snapshot of its shard, from where the shard's next owner
takes it. To write there, repair takes the lease of the shard: an owner that read an
older snapshot is refused and reads again. Commands that were lost with the log are
issued again by the owner's backstop.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from materializer.projection import event_of
from noetl_worker.daemons.snapshots import Snapshots
from state_builder.errors import ConflictError, UnavailableError
from state_builder.ids import Shard, shard_of
from state_builder.index import Entry, ShardIndex
from state_builder.ports import Blobs, Clock, EventLog, LogInfo, Observer
from state_builder.records import timestamp
from state_builder.state import State, fold
from state_builder.stores import EventFilter, ExecutionFilter, RowReader

log = structlog.get_logger(__name__)

HOLDER = "repair"
ROUNDS_MAX = 10
"""An owner that keeps writing snapshots of its own is given up on."""

PAGE = 500
OPEN = ("RUNNING", "PENDING")


@dataclass(frozen=True, kw_only=True)
class RepairPorts:
    """What repair may touch."""

    log: EventLog
    snapshots: Blobs
    rows: RowReader
    clock: Clock
    observer: Observer


@dataclass(kw_only=True)
class Repaired:
    """What was found, and done about it.

    Attributes:
        generation: the life the log is in.
        open: executions the tables show open.
        missing: those of them that the log does not have.
        restored: of the missing, those that will go on.
        beyond_repair: of the missing, those whose rows have no beginning.
    """

    generation: int = 0
    open: int = 0
    missing: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    beyond_repair: list[str] = field(default_factory=list)


class Repair:
    """Compares tables and log, once."""

    def __init__(self, ports: RepairPorts) -> None:
        self._ports = ports
        self._snapshots = Snapshots(ports.snapshots, ports.observer)

    async def run(self, *, dry: bool = False) -> Repaired:
        """Restore what only the tables have; with ``dry`` only look.

        Raises:
            UnavailableError: log or tables are away.
            ConflictError: a shard's owner could not be kept off; try again.
        """
        info = await self._ports.log.info()
        found = Repaired(generation=info.generation)
        by_shard: dict[Shard, list[str]] = defaultdict(list)
        for execution_id in await self._open_in_rows():
            by_shard[shard_of(execution_id, info.shard_count)].append(execution_id)
            found.open += 1
        for shard, execution_ids in sorted(by_shard.items()):
            missing = await self._missing(shard, execution_ids, info)
            found.missing += missing
            if missing and not dry:
                await self._restore(shard, missing, found)
        return found

    async def _open_in_rows(self) -> list[str]:
        found: list[str] = []
        for status in OPEN:
            offset = 0
            while True:
                wanted = ExecutionFilter(status=status, limit=PAGE, offset=offset)
                page = await self._ports.rows.executions(wanted)
                found += [row.execution_id for row in page]
                offset += len(page)
                if len(page) < PAGE:
                    break
        return found

    async def _missing(
        self, shard: Shard, execution_ids: list[str], info: LogInfo
    ) -> list[str]:
        """Those that whoever owns the shard does not have."""
        index = await self._read(shard, {}, info.last_sequence)
        known = index.open.keys() | index.tombstones.keys()
        return [each for each in execution_ids if each not in known]

    async def _read(
        self, shard: Shard, added: dict[str, State], until: int
    ) -> ShardIndex:
        """The shard as its owner has it, and with what was added to its snapshot."""
        info = await self._ports.log.info()
        index = await self._snapshots.restore(shard, info)
        if index is None:
            index = ShardIndex(shard, info.generation, info.first_sequence - 1)
        for execution_id, state in added.items():
            if execution_id not in index.tombstones:
                index.open.setdefault(execution_id, Entry(state))
        if index.position >= until:
            return index
        # All shards: a message of another one tells that this one's were read.
        batches = self._ports.log.follow(None, after=index.position)
        async with aclosing(batches) as reading:  # type: ignore[type-var]
            async for batch in reading:
                for message in batch:
                    if message.shard == shard and message.kind != "lease":
                        index.apply(message)
                if batch[-1].sequence >= until:
                    break
        index.position = max(index.position, until)
        return index

    async def _restore(self, shard: Shard, missing: list[str], found: Repaired) -> None:
        states = {each: await self._fold(each) for each in missing}
        hopeless = [each for each, state in states.items() if state.genesis is None]
        found.beyond_repair += hopeless
        added = {each: states[each] for each in missing if each not in hopeless}
        left = list(added)
        for _ in range(ROUNDS_MAX):
            epoch = await self._take(shard)
            info = await self._ports.log.info()
            left = await self._missing(shard, list(added), info)
            if not left:
                # This lease sent away whoever had read an older snapshot.
                found.restored += added
                log.warning("executions.restored", shard=shard, executions=len(added))
                return
            index = await self._read(shard, added, epoch)
            await self._snapshots.write(index, index.position)
        raise ConflictError(
            f"shard {shard}: its owner wrote a snapshot each time; {len(left)} "
            "executions are still missing: run noetl repair again"
        )

    async def _take(self, shard: Shard) -> int:
        for _ in range(ROUNDS_MAX):
            at = timestamp(self._ports.clock.now())
            try:
                return await self._ports.log.take_lease(shard, HOLDER, at)
            except ConflictError:
                continue
        raise UnavailableError(f"the lease of shard {shard} is taken all the time")

    async def _fold(self, execution_id: str) -> State:
        state = State(execution_id=execution_id)
        read = 0
        while True:
            wanted = EventFilter(offset=read, limit=PAGE, ascending=True)
            page = await self._ports.rows.events(execution_id, wanted)
            for row in page.events:
                fold(state, event_of(row), int(row.event_id))
            read += len(page.events)
            if len(page.events) < PAGE:
                return state
