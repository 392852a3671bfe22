"""A pool of warm children; whoever asks waits for an answer, wherever it comes from.

A child that is cancelled, dies, lies or leaves something behind is ended with its whole
group before its question returns; the questions it had not begun go to others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from state_builder.records import JSON
from tools.doors.child import Call, Child, ChildDiedError, Said
from tools.doors.process import CENSUS_S
from tools.errors import ToolCallError

SWEEP_S: Final = 0.0015
"""How often the answers of children are read that have several questions: fewer and
larger groups of results leave the worker, at a fraction of the cost."""


class Children:
    """At most ``size`` children, started when there is more to ask than they take."""

    def __init__(self, start: Callable[[], Awaitable[Child]], *, size: int) -> None:
        self._start = start
        self._size = size
        self._children: list[Child] = []
        self._lost: list[Child] = []
        self._starting = 0
        self._waiting: deque[Call] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, question: dict[str, JSON]) -> Said:
        """An answer, and what was printed meanwhile.

        Raises ChildDiedError and LimitExceededError; a child that cannot be started
        raises what its start does.
        """
        call = Call(question)
        turn = call.turn
        self._waiting.append(call)
        self.hand_out()
        try:
            while (said := await turn) is None:
                turn = call.turn
                await self._grow(call)
            return said
        except ChildDiedError as died:
            assert call.child is not None
            raise await call.child.fate(died) from None
        except BaseException:
            self._withdraw(call)
            raise
        finally:
            if call.last and call.child is not None:
                await call.child.end()
                self.hand_out()

    async def close(self) -> None:
        """End all children; those at work end with their questions."""
        if self._timer is not None:
            self._timer.cancel()
        for child in [*self._children, *self._lost]:
            if not child.calls:
                await child.end()

    def put_back(self, calls: Sequence[Call]) -> None:
        """These were first in line."""
        self._waiting.extendleft(reversed(calls))

    def hand_out(self) -> None:
        """Give what waits to who has room; ask for more children where none is idle."""
        if self._waiting:
            self._lost += [one for one in self._children if one.lost]
            self._children = [one for one in self._children if not one.lost]
            # Always the same ones first, so that few are kept warm.
            idle = [one for one in self._children if not one.calls]
            self._ask_to_start(len(self._waiting) - len(idle))
            busy = [one for one in self._children if one.calls]
            takers = [one for one in idle + busy if one.room() > 0]
            for place, taker in enumerate(takers):
                share = -(-len(self._waiting) // (len(takers) - place))
                if share := min(share, taker.room()):
                    taker.give([self._waiting.popleft() for _ in range(share)])
        self._set_timer()

    def _ask_to_start(self, wanted: int) -> None:
        """Who waits last in line starts a child, and may be answered meanwhile."""
        wanted = min(wanted, self._size - len(self._children)) - self._starting
        for call in reversed(self._waiting):
            if wanted <= 0:
                return
            if not call.told:
                call.tell_to_start()
                self._starting += 1
                wanted -= 1

    async def _grow(self, call: Call) -> None:
        try:
            for child in self._lost:
                await child.end()
            self._lost.clear()
            child = await self._start()
        except ToolCallError:
            if call.child is None:
                raise
        else:
            child.owner = self
            self._children.append(child)
        finally:
            call.told = False
            self._starting -= 1
            self.hand_out()

    def _withdraw(self, call: Call) -> None:
        """Nobody waits for it any more; a child that is at it is of no use."""
        if call.told:
            self._starting -= 1
        child = call.child
        if call in self._waiting:
            self._waiting.remove(call)
        elif child is not None and call in child.calls:
            back = child.take_back()
            self.put_back([one for one in back if one is not call])
            if call not in back:
                child.read()
                call.last = child.lost = call in child.calls
        self.hand_out()

    def _set_timer(self) -> None:
        most = max((len(one.calls) for one in self._children), default=0)
        if not most:
            return
        loop = asyncio.get_running_loop()
        wait_s = SWEEP_S if most > 1 else CENSUS_S
        if self._timer is not None:
            if self._timer.when() <= loop.time() + wait_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        self._timer = None
        for child in self._children:
            child.look()
        self.hand_out()
