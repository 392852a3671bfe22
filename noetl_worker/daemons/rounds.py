"""Chores done again and again, by one process of all at a time (runtime.md §6.7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import anyio
import structlog
from msgspec import Struct

from state_builder.errors import NoetlError
from state_builder.ports import Clock

log = structlog.get_logger(__name__)


class Rounds(Struct, frozen=True, kw_only=True):
    """Looks after one chore every so often.

    Attributes:
        name: the chore, for the log.
        look: does it once. What it raises is logged, and it is tried again.
        every_s: between two looks.
        alone: held during a look, by one process of all.
    """

    name: str
    look: Callable[[], Awaitable[object]]
    every_s: float
    alone: Callable[[], AbstractAsyncContextManager[object]]
    clock: Clock

    async def run(self, stop: anyio.Event) -> None:
        """Look at once and then every now and then, until ``stop``."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_for_ever)
            await stop.wait()
            tasks.cancel_scope.cancel()

    async def _look_for_ever(self) -> None:
        while True:
            try:
                async with self.alone():
                    await self.look()
            except NoetlError as error:
                log.warning("chore.failed", chore=self.name, reason=str(error))
            await self.clock.sleep(self.every_s)
