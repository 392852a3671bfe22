"""Which shards this process owns: leases, members, boot, snapshots, hand-over (§4).

Heartbeats and rendezvous hashing only decide *when* to take a shard; the lease record
decides who owns it. A shard that somebody else should own is kept until his lease is
read: nobody waits without an owner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from anyio.abc import TaskGroup

from noetl_worker.daemons.owned import OwnedShard
from noetl_worker.daemons.owner import Owner
from noetl_worker.daemons.snapshots import Snapshots
from state_builder.errors import ConflictError, LostDataError, UnavailableError
from state_builder.ids import Shard, digest_of
from state_builder.ports import Blobs, Clock, EventLog, Members, Observer
from state_builder.records import timestamp

log = structlog.get_logger(__name__)

RENEW_AFTER_SHARE = 0.05
"""Leases of a log that is shorter, and smaller than this share of its room, stay."""

SETTLE_LOOK_S = 0.005


@dataclass(frozen=True, kw_only=True)
class OwnershipSettings:
    """How an owner takes and keeps shards.

    Attributes:
        member: this replica's name among the members.
        pinned: shards to own whatever the members say; None for all by membership.
        beat_s: how often to say we live and to look who does.
        snapshot_every_events, snapshot_every_s: RT-IDX-4.
        idle_snapshot_messages: a shard nothing happens in is written down again after
            so much in the others.
        index_bytes_max: memory for the states of open executions, all shards together.
        renew_look_s: how often to look whether leases are old.
        renew_after_messages: leases of a log that is shorter stay.
    """

    member: str
    shard_count: int
    pinned: tuple[int, ...] | None = None
    beat_s: float = 1.0
    snapshot_every_events: int = 5000
    snapshot_every_s: float = 30.0
    idle_snapshot_messages: int = 500
    index_bytes_max: int = 512 << 20
    renew_look_s: float = 10.0
    renew_after_messages: int = 10_000


@dataclass(frozen=True, kw_only=True)
class OwnershipPorts:
    """What ownership may touch."""

    log: EventLog
    members: Members
    snapshots: Blobs
    clock: Clock
    observer: Observer


def rightful_owner(shard: int, members: list[str]) -> str:
    """Rendezvous hashing: stable while membership is, spread evenly (RT-OWN-1)."""
    return max(members, key=lambda member: (digest_of(f"{member}:{shard}"), member))


class Ownership:
    """Takes, keeps and hands over shards."""

    def __init__(
        self,
        ports: OwnershipPorts,
        owner: Owner,
        tasks: TaskGroup,
        settings: OwnershipSettings,
        taken: Callable[[OwnedShard], object],
    ) -> None:
        self._ports = ports
        self._owner = owner
        self._tasks = tasks
        self._settings = settings
        self._taken = taken
        self._snapshots = Snapshots(ports.snapshots, ports.observer)
        self._snapshot_at: dict[int, float] = {}
        self._leaving = False
        self._looked_at = 0.0
        self.shards: dict[int, OwnedShard] = {}

    @property
    def ready(self) -> bool:
        """Every owned shard is rehydrated, and there was a look at the members."""
        return bool(self._snapshot_at) and all(
            owned.ready for owned in self.shards.values() if not owned.lost
        )

    async def run(self) -> None:
        """Beat, look, take; for as long as the process lives."""
        while not self._leaving:
            try:
                await self._round()
            except UnavailableError as error:
                log.warning("ownership.waits", reason=str(error))
            await self._ports.clock.sleep(self._settings.beat_s)

    async def _round(self) -> None:
        settings = self._settings
        owned = sorted(shard for shard, found in self.shards.items() if not found.lost)
        await self._ports.members.beat(settings.member, {"shards": list(owned)})
        wanted = [shard for shard in await self._wanted() if shard not in owned]
        if wanted and not self._leaving:
            await self._take(wanted)
        await self._snapshot_due()
        await self._renew_due()

    async def _wanted(self) -> list[int]:
        if self._settings.pinned is not None:
            return list(self._settings.pinned)
        alive = await self._ports.members.alive()
        members = sorted({*alive, self._settings.member})
        return [
            shard
            for shard in range(self._settings.shard_count)
            if rightful_owner(shard, members) == self._settings.member
        ]

    async def _take(self, wanted: list[int]) -> None:
        """Append leases, load snapshots, then read on from the oldest of them."""
        info = await self._ports.log.info()
        group: dict[int, OwnedShard] = {}
        for shard in wanted:
            index = await self._snapshots.restore(shard, info)
            if index is None:
                continue
            epoch = await self._lease(shard)
            if epoch:
                group[shard] = OwnedShard(
                    shard=Shard(shard),
                    holder=self._settings.member,
                    epoch=epoch,
                    index=index,
                    covered=index.position,
                    written=index.position,
                )
        if not group:
            return
        now = self._ports.clock.monotonic()
        for shard, owned in group.items():
            self.shards[shard] = owned
            self._snapshot_at[shard] = now
            self._taken(owned)
        log.info(
            "shards.taken",
            shards=sorted(group),
            epochs=[group[shard].epoch for shard in sorted(group)],
        )
        self._tasks.start_soon(self._follow, group)

    async def _lease(self, shard: int) -> int:
        at = timestamp(self._ports.clock.now())
        observer = self._ports.observer
        try:
            epoch = await self._ports.log.take_lease(
                Shard(shard), self._settings.member, at
            )
        except ConflictError:
            observer.count("noetl_lease_transitions_total", kind="take", outcome="lost")
            return 0
        observer.count("noetl_lease_transitions_total", kind="take", outcome="ok")
        return epoch

    async def _follow(self, group: dict[int, OwnedShard]) -> None:
        after = min(owned.index.position for owned in group.values())
        shards = [owned.shard for owned in group.values()]
        stream = self._ports.log.follow(shards, after=after)
        try:
            async for batch in stream:
                self._owner.read(group, batch)
                for owned in group.values():
                    owned.covered = max(owned.covered, batch[-1].sequence)
                if self._leaving or all(owned.lost for owned in group.values()):
                    return
        except LostDataError as error:
            # Another life of the log has begun, or will once its keepers have looked:
            # whoever takes the shards next reads from there.
            self._lose_all(group, str(error))

    def _lose_all(self, group: dict[int, OwnedShard], reason: str) -> None:
        for owned in group.values():
            self._owner.lose(owned, reason)

    async def _snapshot_due(self) -> None:
        now = self._ports.clock.monotonic()
        settings = self._settings
        for shard, owned in list(self.shards.items()):
            if owned.lost or not owned.ready:
                continue
            many = owned.since_snapshot >= settings.snapshot_every_events
            old = now - self._snapshot_at[shard] >= settings.snapshot_every_s
            behind = owned.covered - owned.written >= settings.idle_snapshot_messages
            if many or (old and (owned.since_snapshot or behind)):
                await self._snapshot(owned)

    async def _snapshot(self, owned: OwnedShard) -> None:
        covered = max(owned.covered, owned.index.position)
        owned.since_snapshot = 0
        self._snapshot_at[owned.shard] = self._ports.clock.monotonic()
        await self._snapshots.write(owned.index, covered)
        owned.written = covered
        self._bound_memory(owned)

    def _bound_memory(self, owned: OwnedShard) -> None:
        """Pack what has been idle longest where states take too much (RT-IDX-10)."""
        observer, most = self._ports.observer, self._settings.index_bytes_max
        kept = [found for found in self.shards.values() if not found.lost]
        used = sum(found.index.memory for found in kept)
        if used > most:
            packed = owned.index.pack(used - most)
            for execution_id in packed:
                owned.memos.pop(execution_id, None)
                owned.bulks.pop(execution_id, None)
            before, used = used, sum(found.index.memory for found in kept)
            observer.count("noetl_limit_hits_total", limit="index_bytes_max")
            told = log.warning if used > most else log.info
            told(
                "index.packed",
                shard=owned.shard,
                executions=len(packed),
                bytes_before=before,
                bytes_after=used,
                bytes_max=most,
            )
        observer.gauge("noetl_index_bytes", used)

    async def _renew_due(self) -> None:
        """Renew leases in the older half of the log: the janitor trims behind them.

        Reading its own lease back also tells the owner of an idle shard that nothing
        older is missing, so the shard's next snapshot covers that much.
        """
        now = self._ports.clock.monotonic()
        settings = self._settings
        if now - self._looked_at < settings.renew_look_s:
            return
        self._looked_at = now
        info = await self._ports.log.info()
        for owned in self.shards.values():
            if owned.index.generation != info.generation:
                self._owner.lose(owned, "the log is in another life")
        middle = (info.first_sequence + info.last_sequence) // 2
        length = info.last_sequence - info.first_sequence
        long = length >= settings.renew_after_messages
        if not long and info.bytes < info.bytes_max * RENEW_AFTER_SHARE:
            return
        for owned in list(self.shards.values()):
            if owned.ready and not owned.lost and owned.epoch < middle:
                await self.renew(owned)

    async def renew(self, owned: OwnedShard) -> None:
        """Take a newer lease; once it is read back nothing older was missed.

        A new epoch refuses what was sent under the old: settle that first.
        """
        owned.renewing = True
        try:
            while owned.in_flight and not owned.lost:
                await self._ports.clock.sleep(SETTLE_LOOK_S)
            epoch = await self._lease(owned.shard)
            if epoch:
                owned.epoch = max(owned.epoch, epoch)
            else:
                self._owner.lose(owned, "the lease went to another while renewing")
        finally:
            owned.renewing = False
        self._owner.drive_all(owned)

    async def catch_up(self, owned: OwnedShard) -> bool:
        """Read all that was stored in the shard before this call.

        A newer lease of ours is the mark: once it comes back, nothing older is on its
        way. False when the shard is not ours any more.
        """
        if not owned.renewing:
            await self.renew(owned)
        while not owned.lost and owned.index.position < owned.epoch:
            await self._owner.moved()
        return not owned.lost

    async def leave(self) -> None:
        """Hand over: stop deciding, settle what is sent, snapshot, go (RT-OWN-2)."""
        self._leaving = True
        try:
            await self._ports.members.leave(self._settings.member)
            for owned in self.shards.values():
                await self._leave_shard(owned)
        except UnavailableError as error:
            # Nothing is owed to a broker that is away: whoever takes the shards next
            # reads a little more of the log.
            log.warning("shards.left_behind", reason=str(error))
        log.info("shards.left", shards=sorted(self.shards))

    async def _leave_shard(self, owned: OwnedShard) -> None:
        while owned.in_flight and not owned.lost:
            await self._ports.clock.sleep(SETTLE_LOOK_S)
        if owned.ready and not owned.lost and owned.covered > owned.written:
            await self._snapshot(owned)
        owned.lost = True
