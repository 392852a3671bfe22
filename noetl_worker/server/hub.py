"""Live events of single executions: the log is read once, listeners share it.

The hub follows all shards after the log's end while anybody listens, decodes only whose
event it is, and hands the events of an execution to those who asked for it. What was
read last is kept in a window; what was before that is
:mod:`noetl_worker.server.history`'s business. A listener that reads too slowly is
dropped, never waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import anyio
import structlog
from msgspec import DecodeError, Struct, ValidationError
from msgspec.json import Decoder

from noetl_worker.server.window import Window
from state_builder.errors import LostDataError, RecordError, UnavailableError
from state_builder.ids import event_id
from state_builder.ports import EventLog, LogMessage, Observer
from state_builder.records import TERMINAL_STATUS, Event, decode_append

log = structlog.get_logger(__name__)

EVERYBODY: Final = ""
"""Listens to all executions, to the events of :data:`LIFECYCLE` alone (RT-API-20)."""

LIFECYCLE: Final = frozenset({"step.exit", "calendar.event.touched", *TERMINAL_STATUS})

LINGER_S: Final = 5.0
"""How long the log is followed after the last listener left."""

AGAIN_S: Final = 0.2
JOIN_S: Final = 5.0


class Logged(NamedTuple):
    """An event with its place in the log; ``cause`` as its record gives it."""

    event_id: int
    event: Event
    cause: str
    stored_at: float
    execution_id: str = ""


class _HeadRecord(Struct):
    execution_id: str


class _Head(Struct):
    """An append of which only whose it is gets read."""

    records: list[_HeadRecord]


_heads = Decoder(_Head)


def events_of(message: LogMessage, execution_id: str, generation: int) -> list[Logged]:
    """An execution's events in a message of the log; none when it is unreadable.

    Unreadable messages are counted and kept by the materializer (RT-NATS-46).
    """
    if execution_id.encode() not in message.data:
        return []
    found = _events(message, generation)
    return [logged for logged in found if logged.execution_id == execution_id]


def lifecycle_of(message: LogMessage, generation: int) -> list[Logged]:
    """What a message of the log says to :data:`EVERYBODY`."""
    found = _events(message, generation)
    return [logged for logged in found if logged.event.type in LIFECYCLE]


def _events(message: LogMessage, generation: int) -> list[Logged]:
    if message.kind == "lease":
        return []
    try:
        append = decode_append(message.data)
    except RecordError:
        return []
    found: list[Logged] = []
    index = 0
    for record in append.records:
        for event in record.events:
            place = event_id(generation, message.sequence, index)
            cause, eid = event.cause or record.cause, record.execution_id
            found.append(Logged(place, event, cause, message.stored_at, eid))
            index += 1
    return found


@asynccontextmanager
async def closing(batches: AsyncIterator[list[LogMessage]]) -> AsyncIterator[None]:
    """Stops a reader of the log on leaving, also when cancelled."""
    try:
        yield
    finally:
        close = getattr(batches, "aclose", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await close()


class Listener:
    """Events of one execution as they are logged. Made by :meth:`Hub.join`.

    Attributes:
        joined_at: sequence of the log after which nothing is missing here.
        closed: why no more will come, or empty.
    """

    def __init__(self, execution_id: str, joined_at: int, buffer_max: int) -> None:
        self.execution_id = execution_id
        self.joined_at = joined_at
        self.closed = ""
        self._buffer: deque[Logged] = deque()
        self._buffer_max = buffer_max
        self._changed = anyio.Event()

    def put(self, events: list[Logged]) -> bool:
        """More events; False when the listener is too far behind and was closed."""
        if self.closed:
            return True
        if len(self._buffer) + len(events) > self._buffer_max:
            self.close("slow")
            return False
        self._buffer.extend(events)
        self._changed.set()
        return True

    def close(self, reason: str) -> None:
        """No more will come."""
        self.closed = self.closed or reason
        self._changed.set()

    def take(self) -> list[Logged]:
        """Everything that is there now."""
        found = list(self._buffer)
        self._buffer.clear()
        return found

    async def wait(self, timeout_s: float) -> bool:
        """Wait for something new; False when nothing came in time."""
        with anyio.move_on_after(timeout_s) as scope:
            while not self._buffer and not self.closed:
                self._changed = anyio.Event()
                await self._changed.wait()
        return not scope.cancelled_caught


class Hub:
    """Follows the log for whoever listens. :meth:`run` is a daemon of the server.

    Attributes:
        generation: which of its lives the followed log is in.
        join_s: how long a listener waits for the log to be followed.
    """

    def __init__(
        self, log: EventLog, observer: Observer, buffer_max: int, window_bytes: int
    ) -> None:
        self._log = log
        self._observer = observer
        self._buffer_max = buffer_max
        self._window = Window(window_bytes)
        self._listeners: dict[str, list[Listener]] = {}
        self._position = 0
        self.generation = 0
        self.join_s = JOIN_S
        self._following = anyio.Event()
        self._wanted = anyio.Event()
        self._left = anyio.Event()

    async def join(self, execution_id: str) -> Listener:
        """Listen to an execution from now on; leave with :meth:`leave`.

        Raises:
            UnavailableError: the log cannot be followed right now.
        """
        listener = Listener(execution_id, 0, self._buffer_max)
        self._listeners.setdefault(execution_id, []).append(listener)
        self._observer.gauge("noetl_streams_open", self._count())
        self._wanted.set()
        try:
            with anyio.fail_after(self.join_s):
                await self._following.wait()
            listener.joined_at = self._position
        except TimeoutError:
            self.leave(listener)
            raise UnavailableError("the log cannot be followed right now") from None
        except BaseException:
            self.leave(listener)
            raise
        return listener

    def past(self, execution_id: str, after: int) -> list[Logged] | None:
        """What was read of an execution after a sequence.

        None when that is too old, or nothing is read now.
        """
        messages = self._window.since(after) if self._following.is_set() else None
        if messages is None:
            return None
        return [
            logged
            for message in messages
            for logged in events_of(message, execution_id, self.generation)
        ]

    def leave(self, listener: Listener) -> None:
        """Listen no more."""
        listeners = self._listeners.get(listener.execution_id, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners:
            self._listeners.pop(listener.execution_id, None)
        if not self._listeners:
            self._left.set()
        self._observer.gauge("noetl_streams_open", self._count())

    async def run(self, stop: anyio.Event) -> None:
        """Follow the log while anybody listens, until ``stop``."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._serve)
            await stop.wait()
            self._close_all("stopping")
            tasks.cancel_scope.cancel()

    async def _serve(self) -> None:
        while True:
            if not self._listeners:
                self._wanted = anyio.Event()
                await self._wanted.wait()
            try:
                info = await self._log.info()
                self._position, self.generation = info.last_sequence, info.generation
                self._window.restart(info.last_sequence)
                await self._follow()
            except* (UnavailableError, LostDataError) as errors:
                log.warning("hub.interrupted", reason=str(errors.exceptions[0]))
                self._following = anyio.Event()
                self._close_all("interrupted")
                await anyio.sleep(AGAIN_S)

    async def _follow(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read)
            self._following.set()
            while self._listeners:
                self._left = anyio.Event()
                await self._left.wait()
                await anyio.sleep(LINGER_S)
            # Whoever joins from here on waits for the next round.
            self._following = anyio.Event()
            tasks.cancel_scope.cancel()

    async def _read(self) -> None:
        batches = self._log.follow(None, after=self._position, leases=False)
        async with closing(batches):
            async for batch in batches:
                self._hand_out(batch)

    def _hand_out(self, batch: list[LogMessage]) -> None:
        for message in batch:
            self._position = message.sequence
            self._window.add(message)
            if everybody := self._listeners.get(EVERYBODY):
                self._tell(everybody, message, EVERYBODY)
            try:
                head = _heads.decode(message.data)
            except (ValidationError, DecodeError):
                continue
            for execution_id in {record.execution_id for record in head.records}:
                listeners = self._listeners.get(execution_id)
                if listeners:
                    self._tell(listeners, message, execution_id)

    def _tell(
        self, listeners: list[Listener], message: LogMessage, execution_id: str
    ) -> None:
        if execution_id == EVERYBODY:
            events = lifecycle_of(message, self.generation)
        else:
            events = events_of(message, execution_id, self.generation)
        for listener in tuple(listeners):
            if not listener.put(events):
                self._observer.count("noetl_streams_dropped_total", reason="slow")
                log.warning("stream.dropped", execution_id=execution_id, reason="slow")

    def _close_all(self, reason: str) -> None:
        for listeners in tuple(self._listeners.values()):
            for listener in tuple(listeners):
                listener.close(reason)

    def _count(self) -> float:
        return float(sum(map(len, self._listeners.values())))
