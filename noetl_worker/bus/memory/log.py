"""The ``EventLog`` port in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence

from noetl_worker.bus.appends import (
    AppendQueue,
    Outgoing,
    check_size,
    count_events,
    encode,
)
from noetl_worker.bus.memory.broker import MemoryBroker
from noetl_worker.bus.memory.waiting import Signal
from noetl_worker.bus.topology import BusSettings, check_log
from state_builder.errors import (
    ConflictError,
    LogFullError,
    LostDataError,
    NoetlError,
    UnavailableError,
)
from state_builder.ids import Shard
from state_builder.ports import Appended, LogInfo, LogMessage
from state_builder.records import (
    FORMAT_VERSION,
    Lease,
    Record,
    encode_lease,
)


class MemoryLog:
    """See :class:`state_builder.ports.EventLog`."""

    def __init__(self, broker: MemoryBroker, settings: BusSettings) -> None:
        self._broker = broker
        self._settings = settings
        self._online = True
        self._queue = AppendQueue(settings)
        self._backlog: deque[Outgoing] = deque()
        self._turn_due = False
        self._signals: list[Signal] = []
        self._stop_watching = broker.on_change(self._log_changed)

    async def ensure(self, create: bool) -> LogInfo:
        """Make the log, or wait until somebody did; check that it fits."""
        if create:
            self._broker.create(self._settings)
        signal = self._watch()
        try:
            while not self._broker.exists:
                await signal.wait(self._broker.clock)
        finally:
            self._signals.remove(signal)
        return await self.info()

    def append(
        self,
        shard: Shard,
        records: list[Record],
        *,
        message_id: str,
        epoch: int = 0,
        pool: str = "",
    ) -> Awaitable[Appended]:
        """See the port."""
        done = self._queue.add(
            shard, records, message_id=message_id, epoch=epoch, pool=pool
        )
        self._turn_soon()
        return done

    async def try_append(
        self, shard: Shard, records: list[Record], *, message_id: str, timeout_s: float
    ) -> Appended:
        """See the port."""
        count_events(records)
        data = encode(records)
        check_size(data, self._settings.message_bytes_max)
        signal = self._watch()
        try:
            if not self._reachable():
                await signal.wait(self._broker.clock, timeout_s)
            if not self._reachable():
                raise UnavailableError(f"not stored after {timeout_s:g} s")
        finally:
            self._signals.remove(signal)
        return self._broker.store((shard, "events", ""), data, message_id=message_id)

    async def follow(
        self, shards: Sequence[Shard] | None, *, after: int, leases: bool = True
    ) -> AsyncIterator[list[LogMessage]]:
        """See the port. Raises LostDataError when what comes next was trimmed."""
        wanted = None if shards is None else frozenset(shards)
        position = after
        if 0 < after < self._broker.info().first_sequence - 1:
            raise LostDataError(f"messages after {after} were trimmed")
        signal = self._watch()
        try:
            while True:
                batch = self._batch(wanted, position, leases) if self._online else []
                if batch:
                    position = batch[-1].sequence
                    yield batch
                else:
                    await signal.wait(self._broker.clock)
        finally:
            self._signals.remove(signal)

    async def read(self, sequence: int) -> LogMessage | None:
        """See the port."""
        self._check_reachable()
        stored = self._broker.at(sequence)
        return stored.message if stored else None

    async def info(self) -> LogInfo:
        """See the port."""
        self._check_reachable()
        check_log(
            {
                "metadata": {
                    "noetl_shard_count": str(self._broker.shard_count),
                    "noetl_format": str(FORMAT_VERSION),
                    "noetl_generation": str(self._broker.generation),
                }
            },
            self._settings,
        )
        return self._broker.info()

    async def take_lease(self, shard: Shard, holder: str, at: str) -> int:
        """See the port."""
        expected = await self.lease_sequence(shard)
        # As with a real broker, others may act between the question and the append.
        await asyncio.sleep(0)
        self._check_reachable()
        if self._broker.lease(shard) != expected:
            raise ConflictError(f"shard {shard}: another one took the lease first")
        data = encode_lease(Lease(holder=holder, since=at))
        return self._broker.store((shard, "lease", ""), data, message_id="").sequence

    async def lease_sequence(self, shard: Shard) -> int:
        """See the port."""
        self._check_reachable()
        return self._broker.lease(shard)

    async def trim(self, below: int) -> int:
        """See the port."""
        self._check_reachable()
        return self._broker.trim(below)

    def set_online(self, online: bool) -> None:
        """Pretend to lose or regain the connection."""
        self._online = online
        self._log_changed()

    def close(self) -> None:
        """Tell callers of unfinished appends that nothing more will be tried."""
        self._stop_watching()
        error = UnavailableError("the bus was closed before the append was confirmed")
        for message in [*self._backlog, *self._queue.take()]:
            self._queue.fail(message.calls, error)
        self._backlog.clear()

    def _turn_soon(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        self._backlog.extend(self._queue.take())
        waiting: deque[Outgoing] = deque()
        backlog, self._backlog = self._backlog, waiting
        held: set[Shard] = set()
        for message in backlog:
            if message.shard in held or not self._reachable():
                waiting.append(message)
                continue
            kind = "commands" if message.pool else "events"
            try:
                stored = self._broker.store(
                    (message.shard, kind, message.pool),
                    message.data,
                    message_id=message.message_id,
                    epoch=message.epoch,
                )
            except LogFullError:
                held.add(message.shard)
                waiting.append(message)
            except NoetlError as error:
                self._queue.fail(message.calls, error)
            else:
                self._queue.fulfil(message, stored)

    def _batch(
        self, shards: frozenset[Shard] | None, after: int, leases: bool
    ) -> list[LogMessage]:
        batch: list[LogMessage] = []
        for stored in self._broker.after(after):
            message = stored.message
            if shards is not None and message.shard not in shards:
                continue
            if message.kind == "lease" and not leases:
                continue
            batch.append(message)
            if len(batch) >= self._settings.follow_batch:
                break
        return batch

    def _watch(self) -> Signal:
        signal = Signal()
        self._signals.append(signal)
        return signal

    def _log_changed(self) -> None:
        for signal in self._signals:
            signal.set()
        if self._backlog:
            self._turn_soon()

    def _reachable(self) -> bool:
        return self._online and self._broker.exists

    def _check_reachable(self) -> None:
        if not self._reachable():
            raise UnavailableError("not connected, or there is no log yet")
