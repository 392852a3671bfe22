"""The backstop: commands nobody starts, and commands that got lost (design §4).

Nothing here is needed while the fleet does what it promises. A command whose pool has
acknowledged it and that has no answer up to the end of the log is issued again as the
next attempt; one that nobody starts for a day fails; and what waits because nobody
serves its pool is shown, for it would wait for ever.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import structlog

from noetl_worker.daemons.owned import OwnedShard
from noetl_worker.daemons.owner import Owner
from state_builder.errors import UnavailableError
from state_builder.ids import event_position
from state_builder.index import Entry
from state_builder.ports import Clock, CommandQueue, EventLog, Observer, PoolProgress
from state_builder.state import OpenCommand

log = structlog.get_logger(__name__)

HOLD_LOOPS_AT = 0.9
"""Share of the log's room from which on loops issue no further iterations."""

UNSERVED_AFTER_S = 30.0
"""A command nobody started for so long counts, if nobody asks for its pool's work."""


@dataclass(frozen=True, kw_only=True)
class BackstopSettings:
    """When to act.

    Attributes:
        look_s: time between two looks.
        lost_after_s: least age of a command that is issued again.
        start_timeout_s: a command nobody started for so long fails (``no_worker``).
    """

    look_s: float = 10.0
    lost_after_s: float = 60.0
    start_timeout_s: float = 86_400.0


@dataclass(frozen=True, kw_only=True)
class BackstopPorts:
    """What the backstop may touch.

    Attributes:
        shards: those this process owns.
        catch_up: returns once the shard's owner has read all that was stored before
            the call; False when it is the owner no more.
    """

    log: EventLog
    commands: CommandQueue
    clock: Clock
    observer: Observer
    shards: Callable[[], Iterable[OwnedShard]]
    catch_up: Callable[[OwnedShard], Awaitable[bool]]


class _Waiting(NamedTuple):
    owned: OwnedShard
    entry: Entry
    command_id: str
    command: OpenCommand
    age_s: float

    @property
    def open(self) -> bool:
        """It has no answer yet, as far as its owner has read."""
        known = self.entry.state.commands.get(self.command_id)
        return known is self.command and not self.owned.lost

    def taken(self, progress: PoolProgress) -> bool:
        """Its message is not in the queue any more, so only its answer can follow."""
        generation, sequence, _ = event_position(self.command.event)
        if generation != self.owned.index.generation:
            return True
        return sequence <= progress.acknowledged


class Backstop:
    """Looks at the open commands of the shards this process owns."""

    def __init__(
        self, ports: BackstopPorts, owner: Owner, settings: BackstopSettings
    ) -> None:
        self._ports = ports
        self._owner = owner
        self._settings = settings
        self._unserved: set[str] = set()

    async def run(self) -> None:
        """Look, for as long as the process lives."""
        while True:
            await self._ports.clock.sleep(self._settings.look_s)
            try:
                await self.look()
            except UnavailableError as error:
                log.warning("backstop.waits", reason=str(error))

    async def look(self) -> None:
        """Act on what waits too long. Raises UnavailableError."""
        await self._look_at_room()
        by_pool: dict[str, list[_Waiting]] = defaultdict(list)
        least_s = min(
            self._settings.lost_after_s,
            self._settings.start_timeout_s,
            UNSERVED_AFTER_S,
        )
        for waiting in self._waiting(least_s):
            by_pool[waiting.command.pool].append(waiting)
        for pool in self._unserved - by_pool.keys():
            self._show(pool, 0)
        for pool, found in by_pool.items():
            progress = await self._ports.commands.progress(pool)
            self._show(pool, 0 if progress.served else _unstarted(found))
            for waiting in found:
                await self._judge(waiting, progress)

    async def _look_at_room(self) -> None:
        """Nearly full, the log takes results and ends, but no wider loops (§4)."""
        info = await self._ports.log.info()
        used = info.bytes / info.bytes_max if info.bytes_max > 0 else 0.0
        hold = used >= HOLD_LOOPS_AT
        self._ports.observer.gauge("noetl_loops_held", float(hold))
        if hold == self._owner.hold_loops:
            return
        self._owner.hold_loops = hold
        log.warning("loops.held" if hold else "loops.released", used=round(used, 3))
        if not hold:
            for owned in list(self._ports.shards()):
                if owned.ready and not owned.lost:
                    self._owner.drive_all(owned)

    def _waiting(self, least_s: float) -> Iterator[_Waiting]:
        now = self._ports.clock.now()
        for owned in list(self._ports.shards()):
            if owned.lost or not owned.ready:
                continue
            for entry in list(owned.index.open.values()):
                if entry.packed:  # it waits for no worker
                    continue
                for command_id, command in list(entry.state.commands.items()):
                    # Parked ones wait for the world outside, and for children.
                    if command.parked or command.child:
                        continue
                    age_s = now - datetime.fromisoformat(command.issued_at).timestamp()
                    if age_s >= least_s:
                        yield _Waiting(owned, entry, command_id, command, age_s)

    async def _judge(self, waiting: _Waiting, progress: PoolProgress) -> None:
        settings = self._settings
        command = waiting.command
        if not waiting.open:
            return
        if not command.starts and waiting.age_s >= settings.start_timeout_s:
            text = (
                f"no worker of pool {command.pool} started it within "
                f"{settings.start_timeout_s:g} s"
            )
            await self._owner.fail_command(
                waiting.owned, waiting.command_id, "no_worker", text
            )
        elif (
            waiting.age_s >= settings.lost_after_s
            and waiting.taken(progress)
            and await self._ports.catch_up(waiting.owned)
            and waiting.open
        ):
            await self._issue_again(waiting)

    async def _issue_again(self, waiting: _Waiting) -> None:
        """End this attempt; the drive issues the next one at once."""
        self._ports.observer.count("noetl_commands_lost_total")
        await self._owner.fail_command(
            waiting.owned,
            waiting.command_id,
            "lost",
            "its pool acknowledged it and no answer is in the log",
            due=self._ports.clock.now(),
        )

    def _show(self, pool: str, count: int) -> None:
        """Commands that wait for ever unless somebody starts a worker."""
        self._ports.observer.gauge("noetl_commands_unserved", count, pool=pool)
        if count and pool not in self._unserved:
            log.warning(
                "pool.unserved",
                pool=pool,
                commands=count,
                hint=f"start a worker with NOETL_WORKER_POOL={pool}",
            )
            self._unserved.add(pool)
        elif not count and pool in self._unserved:
            log.info("pool.served", pool=pool)
            self._unserved.discard(pool)


def _unstarted(found: list[_Waiting]) -> int:
    return sum(
        not waiting.command.starts and waiting.age_s >= UNSERVED_AFTER_S
        for waiting in found
    )
