"""The ``CommandQueue`` port in memory: pullers, and what they were handed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from noetl_worker.bus.memory.broker import MemoryBroker, MemoryConsumer, Stored
from noetl_worker.bus.memory.waiting import Signal
from noetl_worker.bus.topology import BusSettings, Topology
from state_builder.errors import SettingsError, UnavailableError
from state_builder.ids import Shard
from state_builder.ports import Delivery, PoolProgress


class MemoryDelivery:
    """See :class:`state_builder.ports.Delivery`; silent after its deadline."""

    __slots__ = ("_finished", "_puller", "_stored", "count", "deadline", "pool")

    def __init__(
        self, puller: MemoryPuller, pool: str, stored: Stored, count: int
    ) -> None:
        self._puller = puller
        self._stored = stored
        self._finished = False
        self.pool = pool
        self.count = count
        self.deadline = puller.next_deadline()

    @property
    def sequence(self) -> int:
        """See the port."""
        return self._stored.message.sequence

    @property
    def shard(self) -> Shard:
        """See the port."""
        return self._stored.message.shard

    @property
    def data(self) -> bytes:
        """See the port."""
        return self._stored.message.data

    def ack(self) -> None:
        """See the port."""
        self._finish(None)

    def term(self) -> None:
        """See the port."""
        self._finish(None)

    def nak(self, delay_s: float) -> None:
        """See the port."""
        self._finish(delay_s)

    def in_progress(self) -> None:
        """See the port."""
        consumer = None if self._finished else self._puller.may_speak(self)
        if consumer is not None:
            self.deadline = self._puller.next_deadline()
            consumer.postpone(self.sequence, self._puller.ack_wait_s)

    def step_aside(self) -> None:
        """See the port."""
        self._puller.release(self)

    def supersede(self) -> None:
        """Another delivery of the same message takes this one's place and slot."""
        self._finished = True

    def _finish(self, delay_s: float | None) -> None:
        if self._finished:
            return
        self._finished = True
        consumer = self._puller.may_speak(self)
        if consumer is not None and delay_s is None:
            consumer.finish(self.sequence)
        elif consumer is not None and delay_s is not None:
            consumer.postpone(self.sequence, delay_s)
        self._puller.release(self)


class MemoryPuller:
    """One worker's share of its pools."""

    def __init__(self, queue: MemoryCommands, pools: Sequence[str], slots: int) -> None:
        self._queue = queue
        self._broker = queue.broker
        self._consumers = {pool: queue.consumer(pool) for pool in pools}
        self._slots = slots
        self._running: dict[tuple[str, int], MemoryDelivery] = {}
        self._buffer: list[Delivery] = []
        self._signal = Signal()
        self._open = True
        self.ack_wait_s = queue.ack_wait_s

    @property
    def free(self) -> int:
        """How many more commands may be handed over."""
        if not self._open or not self._queue.online:
            return 0
        return self._slots - len(self._running)

    async def deliveries(self) -> AsyncIterator[list[Delivery]]:
        """See ``CommandQueue.pull``."""
        for consumer in self._consumers.values():
            consumer.join(self)
        self._queue.pullers.append(self)
        try:
            while True:
                self._dispatch()
                if self._buffer and self._queue.online:
                    batch, self._buffer = self._buffer, []
                    yield batch
                else:
                    await self._signal.wait(self._broker.clock, self._next_due_s())
        finally:
            self._open = False
            self._queue.pullers.remove(self)
            for consumer in self._consumers.values():
                consumer.quit(self)
            for delivery in self._buffer:
                delivery.nak(0.5)

    def deliver(self, pool: str, stored: Stored, count: int) -> None:
        """Take a message; called by its consumer when there is a free slot."""
        delivery = MemoryDelivery(self, pool, stored, count)
        older = self._running.get((pool, delivery.sequence))
        if older is not None:
            older.supersede()
        self._running[pool, delivery.sequence] = delivery
        self._buffer.append(delivery)
        self._signal.set()

    def wake(self) -> None:
        """Look again: the connection's state changed."""
        self._signal.set()

    def next_deadline(self) -> float:
        """Until when the broker waits after a sign of life given now."""
        return self._broker.clock.monotonic() + self.ack_wait_s

    def may_speak(self, delivery: MemoryDelivery) -> MemoryConsumer | None:
        """The consumer to tell, unless the delivery's time has passed (RT-NATS-45)."""
        late = self._broker.clock.monotonic() > delivery.deadline
        if late or not self._queue.online:
            return None
        return self._consumers[delivery.pool]

    def release(self, delivery: MemoryDelivery) -> None:
        """Free the slot of a finished delivery."""
        key = (delivery.pool, delivery.sequence)
        if self._running.get(key) is delivery:
            del self._running[key]
            self._signal.set()

    def _dispatch(self) -> None:
        for consumer in self._consumers.values():
            consumer.dispatch()

    def _next_due_s(self) -> float | None:
        if self.free <= 0:
            return None
        dues = [consumer.next_due_s() for consumer in self._consumers.values()]
        return min((due for due in dues if due is not None), default=None)


class MemoryCommands:
    """See :class:`state_builder.ports.CommandQueue`."""

    def __init__(self, broker: MemoryBroker, settings: BusSettings) -> None:
        self.broker = broker
        self.online = True
        self.ack_wait_s = settings.ack_wait_s
        self.pullers: list[MemoryPuller] = []
        self._topology = Topology(settings)
        self._view_start: int | None = None

    def pull(self, pools: Sequence[str], slots: int) -> AsyncIterator[list[Delivery]]:
        """See the port."""
        if not pools or slots < 1:
            raise SettingsError("a worker needs at least one pool and one slot")
        for pool in pools:
            self._topology.commands(pool, ">")
        if self._view_start is None:
            self._view_start = self.broker.last
        return MemoryPuller(self, list(dict.fromkeys(pools)), slots).deliveries()

    async def view_start(self) -> int:
        """See the port."""
        if self._view_start is None:
            self._view_start = self.broker.last
        return self._view_start

    async def progress(self, pool: str) -> PoolProgress:
        """See the port."""
        if not self.online:
            raise UnavailableError("not connected")
        return self.consumer(pool).progress()

    def consumer(self, pool: str) -> MemoryConsumer:
        """The pool's consumer, made when missing."""
        consumers = self.broker.consumers
        if pool not in consumers:
            consumers[pool] = MemoryConsumer(self.broker, pool, self.ack_wait_s)
        return consumers[pool]

    def set_online(self, online: bool) -> None:
        """Pretend to lose or regain the connection."""
        self.online = online
        if online:
            self._view_start = self.broker.last
        for puller in tuple(self.pullers):
            puller.wake()
