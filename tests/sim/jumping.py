"""An event loop whose time jumps to the next thing that happens.

Everything that waits, whatever it waits with, waits in this time: hours of a fleet pass
in a second, the same way each time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_S = 1_767_225_600.0
"""What the clock says when a run begins: 2026-01-01."""

TURN_S = 1e-9

TURNS_MAX = 200_000
"""Turns of the loop without time passing; more is a task that spins."""


class _Jump(selectors.SelectSelector):
    """Never waits: what would be waited for is added to the time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ready: Callable[[], str] = str
        self._turns = 0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("nothing will ever happen again")
        # Even a turn takes time: who waits for a moment that rounding put into the
        # present must not find it in the future for ever.
        self.now += TURN_S
        if timeout and not ready:
            self.now += timeout
            self._turns = 0
        self._turns += 1
        if self._turns > TURNS_MAX:
            self._turns = 0
            raise RuntimeError(f"something spins, no time passes: {self.ready()}")
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in that time."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self._jump.ready = lambda: repr(list(self._ready))[:2000]

    def time(self) -> float:
        return self._jump.now


class LoopClock:
    """The Clock port by the running loop's time."""

    def now(self) -> float:
        return EPOCH_S + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, in time that jumps."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)
