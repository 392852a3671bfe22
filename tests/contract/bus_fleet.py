"""A few processes' buses on one broker, in memory or on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TypeAlias, TypeVar

import anyio
from doubles import Counting, ManualClock
from services import NatsServer

from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.nats import NatsBus
from noetl_worker.bus.topology import BusSettings
from state_builder.ids import Shard
from state_builder.ports import Delivery, LogMessage
from state_builder.records import Event, Record, decode_append

Bus: TypeAlias = MemoryBus | NatsBus
T = TypeVar("T")
PATIENCE_S = 20.0
"""How long a test waits for something that must happen."""


class Fleet:
    """Opens buses; each stands for a process."""

    kind = ""

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self.observer = Counting()
        self._stack = AsyncExitStack()

    async def bus(self, **changes: object) -> Bus:
        """One more process, with the log made."""
        bus = await self.connect(replace(self.settings, **changes))  # type: ignore[arg-type]
        await bus.ensure_log(create=True)
        return bus

    async def connect(self, settings: BusSettings) -> Bus:
        """One more process; nothing is made."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """Let a manual clock run; a real one runs by itself while the test waits."""

    def elapsed(self) -> float:
        """The clock that deadlines are measured by."""
        raise NotImplementedError

    async def close(self) -> None:
        await self._stack.aclose()


class MemoryFleet(Fleet):
    kind = "memory"

    def __init__(self, settings: BusSettings) -> None:
        super().__init__(settings)
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock, settings)

    async def connect(self, settings: BusSettings) -> Bus:
        return await self._stack.enter_async_context(
            MemoryBus.connect(self.broker, settings)
        )

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def elapsed(self) -> float:
        return self.clock.monotonic()


class NatsFleet(Fleet):
    kind = "nats"

    async def connect(self, settings: BusSettings) -> Bus:
        return await self._stack.enter_async_context(
            NatsBus.connect(settings, self.observer)
        )

    def elapsed(self) -> float:
        return asyncio.get_running_loop().time()


def small_settings(server: NatsServer, name: str) -> BusSettings:
    """Own names on a shared server, little room, short waits."""
    return BusSettings(
        urls=server.url,
        root=name,
        event_stream=f"{name}_events",
        command_subject=f"{name}.commands",
        members_bucket=f"{name}_members",
        shard_count=4,
        log_bytes_max=64 * 1024 * 1024,
        bucket_bytes_max=64 * 1024 * 1024,
        ack_wait_s=1.0,
        member_ttl_s=1.0,
    )


def records(*texts: str) -> list[Record]:
    """One record with one event for each text."""
    return [
        Record(execution_id="7421", events=[Event(type="note", step=text)])
        for text in texts
    ]


def texts(messages: list[LogMessage]) -> list[str]:
    """The texts of all records in these messages, in order."""
    return [text for message in messages for text in texts_of(message.data)]


def texts_of(data: bytes) -> list[str]:
    """The texts of one message."""
    return [e.step for record in decode_append(data).records for e in record.events]


async def take(stream: AsyncIterator[list[T]], count: int) -> list[T]:
    """At least so many, or the test fails for want of them."""
    found: list[T] = []
    with anyio.fail_after(PATIENCE_S):
        while len(found) < count:
            found += await anext(stream)
    return found


async def read_all(bus: Bus, count: int, shard: int | None = None) -> list[LogMessage]:
    """The first so many messages of the log, leases left out."""
    shards = None if shard is None else [Shard(shard)]
    stream = bus.log.follow(shards, after=0, leases=False)
    try:
        return await take(stream, count)
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


async def command(bus: Bus, text: str, pool: str = "shared", shard: int = 0) -> int:
    """Put one command into the log."""
    appended = await bus.log.append(
        Shard(shard), records(text), message_id=f"command:{pool}:{text}", pool=pool
    )
    return appended.sequence


def names(deliveries: list[Delivery]) -> list[str]:
    """The texts of these commands."""
    return [text for delivery in deliveries for text in texts_of(delivery.data)]
