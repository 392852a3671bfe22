"""The pretended broker: the log with fences and duplicate ids, and what else is stored.

Behaves as measured on the real one (design §2): a stale fence is refused before the
duplicate id is looked at, a full log refuses by message size, a lease that was trimmed
counts as none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol, TypeAlias

from noetl_worker.bus.appends import check_size
from noetl_worker.bus.topology import BusSettings
from state_builder.errors import FencedError, LogFullError
from state_builder.ids import Shard
from state_builder.ports import Appended, Clock, LogInfo, LogMessage, PoolProgress
from state_builder.records import JSON

Question: TypeAlias = dict[str, JSON]
Answerer: TypeAlias = Callable[[Question], Awaitable[Question | None]]

_OVERHEAD_BYTES: Final = 128
"""What the real broker stores beside the bytes of a message, about."""


class Stored:
    """A message of the log with what the broker alone knows about it."""

    __slots__ = ("message", "pool")

    def __init__(self, message: LogMessage, pool: str) -> None:
        self.message = message
        self.pool = pool


class MemoryBroker:
    """What all pretended processes share.

    Attributes:
        answerers: who answers questions about a shard.
        cancel_listeners: who hears of executions that are over.
        end_listeners: who hears of ends that are stored.
        members: member → (until when by the clock's monotonic time, value).
        buckets: bucket → name → bytes.
    """

    def __init__(self, clock: Clock, settings: BusSettings | None = None) -> None:
        self.clock = clock
        self.settings = settings or BusSettings()
        self.answerers: dict[Shard, list[Answerer]] = {}
        self.cancel_listeners: list[Callable[[str], None]] = []
        self.end_listeners: list[Callable[[str, int], None]] = []
        self.members: dict[str, tuple[float, Question]] = {}
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.consumers: dict[str, MemoryConsumer] = {}
        self.shard_count = 0
        self.generation = 0
        self._created_at = ""
        self._messages: deque[Stored] = deque()
        self._first = 1
        self._bytes = 0
        self._leases: dict[Shard, int] = {}
        self._ids: dict[str, int] = {}
        self._id_ages: deque[tuple[float, str]] = deque()
        self._on_change: list[Callable[[], None]] = []

    @property
    def exists(self) -> bool:
        """Whether the log was made."""
        return self.shard_count > 0

    @property
    def last(self) -> int:
        """The last sequence ever given; 0 before the first."""
        return self._first + len(self._messages) - 1

    def create(self, settings: BusSettings) -> None:
        """Make the log, or update what may differ."""
        self.settings = settings
        if not self.exists:
            self.shard_count = settings.shard_count
            now = datetime.fromtimestamp(self.clock.now(), UTC)
            self._created_at = now.isoformat().replace("+00:00", "Z")
            self._changed()

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever the log grows or shrinks; returns how to stop."""
        self._on_change.append(callback)
        return lambda: self._on_change.remove(callback)

    def store(
        self,
        place: tuple[Shard, str, str],
        data: bytes,
        *,
        message_id: str,
        epoch: int = 0,
    ) -> Appended:
        """Append one message at (shard, kind, pool).

        Raises:
            FencedError, LogFullError, LimitExceededError: nothing was stored.
        """
        shard, kind, pool = place
        if epoch and self.lease(shard) != epoch:
            raise FencedError(f"the lease of shard {shard} has moved on from {epoch}")
        self._forget_old_ids()
        if message_id and message_id in self._ids:
            return Appended(self._ids[message_id], True)
        check_size(data, self.settings.message_bytes_max)
        size = len(data) + _OVERHEAD_BYTES
        if self._bytes + size > self.settings.log_bytes_max:
            raise LogFullError("the log is full: it must be trimmed")
        sequence = self.last + 1
        message = LogMessage(sequence, shard, kind, data, self.clock.now())
        self._messages.append(Stored(message, pool))
        self._bytes += size
        if kind == "lease":
            self._leases[shard] = sequence
        if message_id:
            self._ids[message_id] = sequence
            self._id_ages.append((self.clock.monotonic(), message_id))
        self._changed()
        return Appended(sequence, False)

    def at(self, sequence: int) -> Stored | None:
        """One message, or None."""
        index = sequence - self._first
        return self._messages[index] if 0 <= index < len(self._messages) else None

    def after(self, sequence: int) -> Iterator[Stored]:
        """Messages after a sequence, in order, as of now."""
        for number in range(max(sequence + 1, self._first), self.last + 1):
            stored = self.at(number)
            if stored is not None:
                yield stored

    def lease(self, shard: Shard) -> int:
        """The sequence of the shard's last lease, 0 when there is none any more."""
        return self._leases.get(shard, 0)

    def trim(self, below: int) -> int:
        """Drop all messages under a sequence; how many went."""
        went = 0
        while self._messages and self._first < below:
            gone = self._messages.popleft().message
            self._bytes -= len(gone.data) + _OVERHEAD_BYTES
            if self._leases.get(gone.shard) == gone.sequence:
                del self._leases[gone.shard]
            self._first += 1
            went += 1
        if went:
            self._changed()
        return went

    def info(self) -> LogInfo:
        """The state of the log."""
        return LogInfo(
            first_sequence=self._first,
            last_sequence=self.last,
            generation=self.generation,
            shard_count=self.shard_count,
            bytes=self._bytes,
            bytes_max=self.settings.log_bytes_max,
            created_at=self._created_at,
        )

    def _forget_old_ids(self) -> None:
        limit = self.clock.monotonic() - self.settings.duplicate_window_s
        while self._id_ages and self._id_ages[0][0] < limit:
            del self._ids[self._id_ages.popleft()[1]]

    def _changed(self) -> None:
        for callback in tuple(self._on_change):
            callback()
        for consumer in tuple(self.consumers.values()):
            consumer.dispatch()


class Taker(Protocol):
    """Who takes messages of a pool."""

    @property
    def free(self) -> int:
        """How many more it takes now."""

    def deliver(self, pool: str, stored: Stored, count: int) -> None:
        """Take one, for the ``count``-th time."""


@dataclass(slots=True)
class _Pending:
    """A message handed out and not finished; ``due`` is when it is handed out again."""

    stored: Stored
    count: int
    due: float


class MemoryConsumer:
    """One pool's durable consumer.

    Hands messages to waiting takers in turn; a message unfinished after the ack wait,
    by the clock, is handed out again.
    """

    def __init__(self, broker: MemoryBroker, pool: str, ack_wait_s: float) -> None:
        self._broker = broker
        self._pool = pool
        self._ack_wait_s = ack_wait_s
        self._position = 0
        self._pending: dict[int, _Pending] = {}
        self._pullers: deque[Taker] = deque()

    def join(self, puller: Taker) -> None:
        """Hand messages to this one too."""
        self._pullers.append(puller)

    def quit(self, puller: Taker) -> None:
        """No more messages for this one."""
        self._pullers.remove(puller)

    def dispatch(self) -> None:
        """Hand out what is due, in turn to those with a free slot."""
        while (puller := self._next_puller()) is not None:
            pending = self._next_due() or self._next_new()
            if pending is None:
                return
            pending.count += 1
            pending.due = self._now() + self._ack_wait_s
            puller.deliver(self._pool, pending.stored, pending.count)

    def finish(self, sequence: int) -> None:
        """Never again. Matched by sequence alone, as the real broker does it."""
        self._pending.pop(sequence, None)

    def postpone(self, sequence: int, delay_s: float) -> None:
        """Again after the delay, not before."""
        pending = self._pending.get(sequence)
        if pending is not None:
            pending.due = self._now() + delay_s

    def next_due_s(self) -> float | None:
        """How long until something must be handed out again."""
        dues = [pending.due for pending in self._pending.values()]
        return max(0.0, min(dues) - self._now()) if dues else None

    def progress(self) -> PoolProgress:
        """How far it is."""
        new = sum(
            1 for each in self._broker.after(self._position) if each.pool == self._pool
        )
        return PoolProgress(
            acknowledged=min(self._pending, default=self._position + 1) - 1,
            pending=new,
            unfinished=len(self._pending),
            waiting=sum(puller.free > 0 for puller in self._pullers),
        )

    def _next_puller(self) -> Taker | None:
        for _ in range(len(self._pullers)):
            puller = self._pullers[0]
            self._pullers.rotate(-1)
            if puller.free > 0:
                return puller
        return None

    def _next_due(self) -> _Pending | None:
        now = self._now()
        ready = [each for each in self._pending.values() if each.due <= now]
        return min(ready, key=lambda each: each.due) if ready else None

    def _next_new(self) -> _Pending | None:
        for stored in self._broker.after(self._position):
            self._position = stored.message.sequence
            if stored.pool == self._pool:
                pending = _Pending(stored, 0, 0.0)
                self._pending[stored.message.sequence] = pending
                return pending
        return None

    def _now(self) -> float:
        return self._broker.clock.monotonic()
