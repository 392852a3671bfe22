"""One pretended process's bus: every port on a shared broker in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import structlog
from msgspec.json import decode, encode

from noetl_worker.bus.memory.broker import Answerer, MemoryBroker, Question
from noetl_worker.bus.memory.log import MemoryLog
from noetl_worker.bus.memory.queue import MemoryCommands
from noetl_worker.bus.memory.waiting import within
from noetl_worker.bus.topology import BusSettings
from state_builder.ids import Shard
from state_builder.ports import LogInfo
from state_builder.records import JSON

log = structlog.get_logger(__name__)


class MemoryBus:
    """Same attributes and promises as the bus on NATS.

    Attributes:
        log, commands, signals, members: the ports of the same names.
        connected: False between :meth:`disconnect` and :meth:`reconnect`.
    """

    def __init__(
        self, broker: MemoryBroker, settings: BusSettings | None = None
    ) -> None:
        self._broker = broker
        chosen = settings or broker.settings
        self._on_state: list[Callable[[bool], None]] = []
        self.connected = True
        self.reconnects = 0
        self.log = MemoryLog(broker, chosen)
        self.commands = MemoryCommands(broker, chosen)
        self.signals = MemorySignals(broker)
        self.members = MemoryMembers(broker)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, broker: MemoryBroker, settings: BusSettings | None = None
    ) -> AsyncIterator[MemoryBus]:
        """A bus that is closed on leaving."""
        bus = cls(broker, settings)
        try:
            yield bus
        finally:
            bus.log.close()

    def on_state(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call back on every change of ``connected``; returns how to stop."""
        self._on_state.append(callback)
        return lambda: self._on_state.remove(callback)

    def disconnect(self) -> None:
        """Pretend that the broker cannot be reached any more."""
        self._set_online(False)

    def reconnect(self) -> None:
        """Pretend that it can be reached again."""
        self.reconnects += 1
        self._set_online(True)

    def blobs(self, bucket: str) -> MemoryBlobs:
        """The objects of one bucket."""
        return MemoryBlobs(self._broker, bucket)

    async def ensure_log(self, *, create: bool) -> LogInfo:
        """Make the log, or wait for it; raises SettingsError when it does not fit."""
        return await self.log.ensure(create)

    async def set_generation(self, generation: int) -> None:
        """Write into the log which of its lives this is (RT-NATS-36)."""
        self._broker.generation = generation

    def _set_online(self, online: bool) -> None:
        self.connected = online
        self.log.set_online(online)
        self.commands.set_online(online)
        self.signals.online = online
        for callback in tuple(self._on_state):
            callback(online)


class MemorySignals:
    """See :class:`state_builder.ports.Signals`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.online = True

    async def cancelled(self, execution_id: str) -> None:
        """See the port."""
        if not self.online:
            return
        loop = asyncio.get_running_loop()
        for listener in tuple(self._broker.cancel_listeners):
            loop.call_soon(listener, execution_id)

    async def on_cancelled(self, callback: Callable[[str], None]) -> None:
        """See the port."""

        def heard(execution_id: str) -> None:
            if self.online:
                callback(execution_id)

        self._broker.cancel_listeners.append(heard)

    def ended(self, execution_id: str, sequence: int) -> None:
        """See the port."""
        if not self.online:
            return
        loop = asyncio.get_running_loop()
        for listener in tuple(self._broker.end_listeners):
            loop.call_soon(listener, execution_id, sequence)

    async def on_ended(self, callback: Callable[[str, int], None]) -> None:
        """See the port."""

        def heard(execution_id: str, sequence: int) -> None:
            if self.online:
                callback(execution_id, sequence)

        self._broker.end_listeners.append(heard)

    async def ask(
        self, shard: Shard, question: Question, timeout_s: float
    ) -> Question | None:
        """See the port."""
        answerers = tuple(self._broker.answerers.get(shard, ()))
        if not answerers or not self.online:
            return None
        # Through JSON, as on the wire: neither side can change the other's value.
        asked: Question = decode(encode(question))
        first = _first_answer(answerers, asked)
        answer = await within(self._broker.clock, timeout_s, first)
        return None if answer is None else decode(encode(answer))

    async def answer(
        self, shard: Shard, callback: Answerer
    ) -> Callable[[], Awaitable[None]]:
        """See the port."""

        async def answer(question: Question) -> Question | None:
            return await callback(question) if self.online else None

        answerers = self._broker.answerers.setdefault(shard, [])
        answerers.append(answer)

        async def stop() -> None:
            answerers.remove(answer)

        return stop


class MemoryMembers:
    """See :class:`state_builder.ports.Members`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def beat(self, member: str, value: dict[str, JSON]) -> None:
        """See the port."""
        until = self._broker.clock.monotonic() + self._broker.settings.member_ttl_s
        self._broker.members[member] = (until, decode(encode(value)))

    async def leave(self, member: str) -> None:
        """See the port."""
        self._broker.members.pop(member, None)

    async def alive(self) -> dict[str, dict[str, JSON]]:
        """See the port."""
        now = self._broker.clock.monotonic()
        members = self._broker.members
        return {name: value for name, (until, value) in members.items() if until > now}


class MemoryBlobs:
    """See :class:`state_builder.ports.Blobs`."""

    def __init__(self, broker: MemoryBroker, bucket: str) -> None:
        self._objects = broker.buckets.setdefault(bucket, {})

    async def put(self, name: str, data: bytes) -> None:
        """See the port."""
        self._objects[name] = bytes(data)

    async def get(self, name: str) -> bytes | None:
        """See the port."""
        return self._objects.get(name)

    async def names(self, prefix: str) -> list[str]:
        """See the port."""
        return sorted(name for name in self._objects if name.startswith(prefix))

    async def delete(self, name: str) -> None:
        """See the port."""
        self._objects.pop(name, None)


async def _first_answer(answerers: Sequence[Answerer], question: Question) -> Question:
    """What the first of them says; silence lasts until the asker gives up."""
    said: asyncio.Future[Question] = asyncio.get_running_loop().create_future()

    async def listen(answerer: Answerer) -> None:
        try:
            answer = await answerer(question)
        except Exception:  # as on the wire: a failed answer is silence to the asker
            log.exception("question.failed")
            return
        if answer is not None and not said.done():
            said.set_result(answer)

    async with anyio.create_task_group() as tasks:
        for answerer in answerers:
            tasks.start_soon(listen, answerer)
        answer = await said
        tasks.cancel_scope.cancel()
    return answer
