"""Entries on the heads of their executions → rows.

Heads are kept in memory for executions seen lately, with their open commands. A
command that is not open is finished or unknown, and either way a fact about it is
recorded and ignored (RT-EVT-4): nothing needs to remember finished ones. Heads move
when a batch is projected, before it is stored; when storing fails the caller forgets
them all and loads them anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from materializer.projection.building import Touched
from materializer.projection.entries import Entry
from materializer.projection.turn import Projected, Turn
from state_builder.rows import ExecutionHead, Position


class Projector:
    """Turns entries into rows, generation by generation of the log."""

    def __init__(
        self,
        generation: int,
        *,
        executions_max: int = 20_000,
        commands_max: int = 200_000,
    ) -> None:
        self._generation = generation
        self._executions_max = executions_max
        self._commands_max = commands_max
        self._heads: OrderedDict[int, ExecutionHead] = OrderedDict()
        self._open_commands = 0
        self._recent: tuple[set[int], set[int]] = (set(), set())

    def unknown(self, entries: Iterable[Entry]) -> list[int]:
        """Executions whose heads must be learnt before these are projected."""
        wanted = {entry.execution_id for entry in entries} - {0}
        return [each for each in wanted if each not in self._heads]

    def learn(self, heads: Mapping[int, ExecutionHead]) -> None:
        """Take over heads from the tables."""
        for execution_id, head in heads.items():
            self._heads[execution_id] = head
            self._open_commands += len(head.commands)

    def forget(self) -> None:
        """Drop every head: what was projected last was not stored."""
        self._heads.clear()
        self._open_commands = 0
        self._recent = (set(), set())

    def project(
        self, entries: Sequence[Entry], *, after: Position, position: Position
    ) -> Projected:
        """The rows of these entries; heads move on."""
        turn = Turn(self._generation, self._heads)
        for entry in entries:
            turn.take(entry)
        projected = turn.finish(after, position)
        self._keep(turn.touched)
        return projected

    def _keep(self, touched: dict[int, Touched]) -> None:
        """Remember heads, least recently used first out.

        A batch may be on its way to the tables while the next is projected: what the
        last two touched must not be loaded from there, so it stays.
        """
        for execution_id, each in touched.items():
            if not each.head.chain.count:
                continue
            self._heads[execution_id] = each.head
            self._heads.move_to_end(execution_id)
            self._open_commands += len(each.head.commands) - each.open_before
        self._recent = (self._recent[1], set(touched))
        while self._heads and (
            len(self._heads) > self._executions_max
            or self._open_commands > self._commands_max
        ):
            oldest = next(iter(self._heads))
            if oldest in self._recent[0] or oldest in self._recent[1]:
                break
            self._open_commands -= len(self._heads.pop(oldest).commands)
