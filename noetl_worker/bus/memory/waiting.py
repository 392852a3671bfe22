"""Waiting for something to happen, or for the injected clock, whichever is first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import anyio

from state_builder.ports import Clock

T = TypeVar("T")


class Signal:
    """Something one coroutine waits for and anybody may set; set again is no news."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiter, now or when it next waits."""
        self._event.set()

    async def wait(self, clock: Clock, seconds: float | None = None) -> None:
        """Until set, at most this long by the clock."""
        if seconds is None:
            await self._event.wait()
        else:
            await within(clock, seconds, self._event.wait())
        self._event.clear()


async def within(clock: Clock, seconds: float, work: Awaitable[T]) -> T | None:
    """What the work gives, or None when the clock was faster."""
    result: T | None = None
    # The alarm's task may start after the clock has moved on.
    until = clock.monotonic() + seconds
    async with anyio.create_task_group() as tasks:

        async def alarm() -> None:
            await clock.sleep(until - clock.monotonic())
            tasks.cancel_scope.cancel()

        tasks.start_soon(alarm)
        result = await work
        tasks.cancel_scope.cancel()
    return result
