"""One batch in the making: event rows at once, the others when it is complete.

A command or execution that moves several times within a batch is written once, as it
stands at the end (RT-PRJ-1, RT-PRJ-2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from materializer.projection.building import (
    Seen,
    Touched,
    command_change,
    command_row,
    event_row,
    execution_change,
    execution_row,
    issue_of,
)
from materializer.projection.commands import FACTS, apply_fact, cancel
from materializer.projection.entries import Entry, decimal_id
from materializer.projection.fields import (
    ERROR_TEXT_MAX,
    envelope_of,
    genesis_of,
    time_of,
)
from state_builder.chain import ChainHead, link
from state_builder.ids import event_id as make_event_id
from state_builder.records import GENESIS, TERMINAL_STATUS, Event, Genesis, encode_json
from state_builder.rows import (
    EventRow,
    ExecutionHead,
    Micros,
    OpenCommand,
    Position,
    QuarantineRow,
    RowBatch,
)

_QUARANTINED: Final = frozenset({"orphan", "second_terminal"})
_BEGINS: Final = frozenset({"step.enter", "step.skipped"})
_ENDS: Final = frozenset({"step.exit", "step.skipped"})


class Projected(NamedTuple):
    """Rows, and what became of events that are no news.

    Attributes:
        repeated: events at or before the head: in the tables already.
        ignored: late facts, stored with status ``IGNORED``.
    """

    batch: RowBatch
    repeated: int
    ignored: int


class Turn:
    """Takes the entries of a batch in log order."""

    def __init__(self, generation: int, heads: Mapping[int, ExecutionHead]) -> None:
        self._generation = generation
        self._heads = heads
        self.touched: dict[int, Touched] = {}
        self._events: list[EventRow] = []
        self._quarantined: list[QuarantineRow] = []
        self._repeated = 0
        self._ignored = 0
        self._at_text = ""
        self._at: Micros | None = None

    def take(self, entry: Entry) -> None:
        """Add what one entry becomes."""
        event = entry.event
        if event is None:
            self._set_apart(entry, entry.fault)
            return
        event_id = make_event_id(self._generation, entry.sequence, entry.idx)
        touched = self.touched.get(entry.execution_id) or self._touch(entry)
        chain = touched.head.chain
        if event_id <= chain.event_id:
            self._repeated += 1
            return
        try:
            envelope = envelope_of(event)
            genesis = None
            if event.type == GENESIS and not chain.count:
                genesis = _begin(touched.head, event)
        except ValueError as error:
            self._set_apart(entry, str(error))
            return
        found = link(chain, event_id, event.type)
        if found.verdict in _QUARANTINED:
            self._set_apart(entry, found.verdict)
            return
        at = self._time(event.at, entry.stored_at)
        if genesis is not None:
            touched.genesis = genesis
            touched.start_time = at
        command = touched.head.commands.get(event.command_id)
        seen = Seen(
            entry, event, event_id, found.previous, at, envelope, command, found.verdict
        )
        self._add(seen, touched)

    def finish(self, after: Position, position: Position) -> Projected:
        """All rows of the batch."""
        batch = RowBatch(
            self._events, [], [], [], [], self._quarantined, after, position
        )
        for execution_id, touched in self.touched.items():
            for command_id, command in touched.commands.items():
                issue = touched.issued.get(command_id)
                if issue is None:
                    batch.command_changes.append(
                        command_change(execution_id, command_id, command)
                    )
                else:
                    batch.commands.append(
                        command_row(
                            execution_id, command_id, command, issue, touched.head
                        )
                    )
            if touched.genesis is not None:
                row = execution_row(execution_id, touched, touched.genesis)
                batch.executions.append(row)
            elif touched.moved:
                batch.execution_changes.append(execution_change(execution_id, touched))
        return Projected(batch, self._repeated, self._ignored)

    def _touch(self, entry: Entry) -> Touched:
        head = self._heads.get(entry.execution_id)
        if head is None:
            head = ExecutionHead(
                chain=ChainHead(),
                catalog_id=0,
                path="",
                parent_execution_id=None,
                parent_command_id=None,
                commands={},
            )
        touched = Touched(
            head=head, open_before=len(head.commands), stored_at=entry.stored_at
        )
        self.touched[entry.execution_id] = touched
        return touched

    def _set_apart(self, entry: Entry, reason: str) -> None:
        generation, sequence, idx = self._generation, entry.sequence, entry.idx
        self._quarantined.append(
            QuarantineRow(
                generation,
                sequence,
                idx,
                entry.execution_id or None,
                make_event_id(generation, sequence, idx) if idx >= 0 else None,
                reason,
                entry.data if entry.event is None else encode_json(entry.event),
            )
        )

    def _time(self, at: str, stored_at: Micros) -> Micros:
        # The events of a record mostly carry one time.
        if at != self._at_text:
            self._at_text, self._at = at, time_of(at)
        return stored_at if self._at is None else self._at

    def _add(self, seen: Seen, touched: Touched) -> None:
        head, event = touched.head, seen.event
        seen.ignored = seen.ignored or self._effect(seen, touched)
        row, max_attempts = event_row(seen, head)
        self._events.append(row)
        if seen.ignored:
            self._ignored += 1
        elif event.type in TERMINAL_STATUS:
            _end(seen, touched)
        elif event.type == "command.issued":
            touched.issued[event.command_id] = issue_of(seen, row, max_attempts)
        else:
            head.steps_known += event.type in _BEGINS
            head.steps_done += event.type in _ENDS
        touched.moved = True
        touched.stored_at = seen.entry.stored_at
        head.last_event_type = event.type
        head.last_node_name = row.node_name

    def _effect(self, seen: Seen, touched: Touched) -> str:
        """What the event does to a command; empty, or why it does nothing."""
        event = seen.event
        if event.type == "command.issued":
            if seen.command is not None:
                return "command_known"
            begun = OpenCommand(
                issued=seen.event_id,
                step=event.step,
                kind=event.kind or None,
                latest=seen.event_id,
                updated_at=seen.entry.stored_at,
            )
            touched.head.commands[event.command_id] = begun
            touched.commands[event.command_id] = begun
            return ""
        if event.type not in FACTS:
            return ""
        command = seen.command
        if command is None or not apply_fact(command, event, seen.event_id, seen.at):
            return "command_not_open"
        command.updated_at = seen.entry.stored_at
        touched.commands[event.command_id] = command
        if command.completed_at is not None:
            del touched.head.commands[event.command_id]
        return ""


def _begin(head: ExecutionHead, event: Event) -> Genesis:
    genesis = genesis_of(event)
    catalog_id = decimal_id(genesis.catalog_id)
    if catalog_id is None:
        raise ValueError(f"{GENESIS} names no catalog_id: {genesis.catalog_id[:40]!r}")
    head.catalog_id = catalog_id
    head.path = genesis.path
    head.parent_execution_id = decimal_id(genesis.parent_execution_id)
    head.parent_command_id = genesis.parent_command_id or None
    return genesis


def _end(seen: Seen, touched: Touched) -> None:
    """The execution is over, and nobody waits for its commands any more."""
    touched.end_time = seen.at
    touched.result = seen.envelope.output() if seen.envelope is not None else None
    touched.error = seen.event.error[:ERROR_TEXT_MAX] or None
    for command_id, command in touched.head.commands.items():
        cancel(command, seen.event_id, seen.at)
        command.updated_at = seen.entry.stored_at
        touched.commands[command_id] = command
    touched.head.commands.clear()
