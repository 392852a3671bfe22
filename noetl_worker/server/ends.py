"""Hearing that executions ended, without reading what else happens.

An owner says where in the log an end is once it is stored. Nobody may rely on hearing
it (a signal is lost with its sender or a connection): who waits looks for itself now
and then.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import anyio

from state_builder.ports import Signals

ENDS_KEPT: Final = 20_000
"""Ends remembered for those who ask late."""


class Ends:
    """The latest ends. :meth:`run` is a daemon of the server."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._places: OrderedDict[str, int] = OrderedDict()
        self._waiting: dict[str, anyio.Event] = {}

    async def run(self, stop: anyio.Event) -> None:
        """Listen until ``stop``."""
        await self._signals.on_ended(self._hear)
        await stop.wait()

    async def wait(self, execution_id: str, timeout_s: float) -> int:
        """The sequence of the message with the end; 0 when none was heard of."""
        if execution_id not in self._places:
            heard = self._waiting.setdefault(execution_id, anyio.Event())
            try:
                with anyio.move_on_after(timeout_s):
                    await heard.wait()
            finally:
                if not heard.is_set() and not heard.statistics().tasks_waiting:
                    self._waiting.pop(execution_id, None)
        return self._places.get(execution_id, 0)

    def _hear(self, execution_id: str, sequence: int) -> None:
        self._places[execution_id] = sequence
        if len(self._places) > ENDS_KEPT:
            self._places.popitem(last=False)
        heard = self._waiting.pop(execution_id, None)
        if heard is not None:
            heard.set()
