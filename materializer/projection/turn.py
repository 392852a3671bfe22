"""One batch in the making: event rows at once, the others when it is complete.

A command or execution that moves several times within a batch is written once, as it
stands at the end (RT-PRJ-1, RT-PRJ-2).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from msgspec import Struct, field

from materializer.projection.commands import FACTS, Issue, apply_fact, cancel
from materializer.projection.entries import Entry, decimal_id
from materializer.projection.fields import (
    ERROR_TEXT_MAX,
    IGNORED,
    Result,
    genesis_of,
    iteration_index,
    meta_of,
    parts_of,
    result_of,
    status_of,
    time_of,
)
from state_builder.chain import ChainHead, Link, link
from state_builder.ids import event_id as make_event_id
from state_builder.records import GENESIS, TERMINAL_STATUS, Event, Genesis, encode_json
from state_builder.rows import (
    CommandChange,
    CommandRow,
    EventRow,
    ExecutionChange,
    ExecutionHead,
    ExecutionRow,
    OpenCommand,
    Position,
    QuarantineRow,
    RowBatch,
)

_QUARANTINED: Final = frozenset({"orphan", "second_terminal"})


class Projected(NamedTuple):
    """Rows, and what became of events that are no news.

    Attributes:
        repeated: events at or before the head: in the tables already.
        ignored: late facts, stored with status ``IGNORED``.
    """

    batch: RowBatch
    repeated: int
    ignored: int


class Touched(Struct, kw_only=True):
    """What a batch does to one execution; ``genesis`` when it begins in it."""

    head: ExecutionHead
    open_before: int
    stored_at: datetime
    genesis: Genesis | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    result: bytes | None = None
    error: str | None = None
    moved: bool = False
    issued: dict[str, Issue] = field(default_factory=dict)
    commands: dict[str, OpenCommand] = field(default_factory=dict)


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

    def take(self, entry: Entry) -> None:
        """Add what one entry becomes."""
        event = entry.event
        if event is None:
            self._set_apart(entry, entry.fault, None)
            return
        event_id = make_event_id(self._generation, entry.sequence, entry.idx)
        touched = self.touched.get(entry.execution_id) or self._touch(entry)
        chain = touched.head.chain
        if event_id <= chain.event_id:
            self._repeated += 1
            return
        try:
            result = result_of(event)
            genesis = None
            if event.type == GENESIS and not chain.count:
                genesis = _begin(touched.head, event)
        except ValueError as error:
            self._set_apart(entry, str(error), event_id)
            return
        found = link(chain, event_id, event.type)
        if found.verdict in _QUARANTINED:
            self._set_apart(entry, found.verdict, event_id)
            return
        if genesis is not None:
            touched.genesis = genesis
            touched.start_time = time_of(event, entry.stored_at)
        touched.moved = True
        self._add(entry, event, event_id, touched, found, result)

    def finish(self, after: Position, position: Position) -> Projected:
        """All rows of the batch."""
        commands: list[CommandRow] = []
        command_changes: list[CommandChange] = []
        executions: list[ExecutionRow] = []
        execution_changes: list[ExecutionChange] = []
        for execution_id, touched in self.touched.items():
            for command_id, command in touched.commands.items():
                issue = touched.issued.get(command_id)
                if issue is None:
                    command_changes.append(
                        _command_change(execution_id, command_id, command, touched)
                    )
                else:
                    commands.append(
                        _command_row(execution_id, command_id, command, issue, touched)
                    )
            if touched.genesis is not None:
                executions.append(
                    _execution_row(execution_id, touched, touched.genesis)
                )
            elif touched.moved:
                execution_changes.append(_execution_change(execution_id, touched))
        batch = RowBatch(
            self._events,
            commands,
            command_changes,
            executions,
            execution_changes,
            self._quarantined,
            after,
            position,
        )
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

    def _set_apart(self, entry: Entry, reason: str, event_id: int | None) -> None:
        payload = entry.data if entry.event is None else encode_json(entry.event)
        self._quarantined.append(
            QuarantineRow(
                self._generation,
                entry.sequence,
                entry.idx,
                entry.execution_id or None,
                event_id,
                reason,
                payload,
            )
        )

    def _add(
        self,
        entry: Entry,
        event: Event,
        event_id: int,
        touched: Touched,
        found: Link,
        result: Result,
    ) -> None:
        head = touched.head
        at = time_of(event, entry.stored_at)
        command = head.commands.get(event.command_id) if event.command_id else None
        ignored = found.verdict or self._effect(event, event_id, touched, command, at)
        self._ignored += bool(ignored)
        if event.type in TERMINAL_STATUS and not ignored:
            _end(touched, event, event_id, at, result)
        issued = command.issued if command is not None else 0
        cause = entry.cause
        if cause is None and issued:
            cause = issued
        if event.step:
            node_id = node_name = event.step
            node_type = event.kind or (command.kind if command is not None else None)
        else:
            node_id, node_name, node_type = "playbook", head.path, "execution"
        context = bytes(event.context) or None
        meta = meta_of(event, issued, ignored)
        stage_id, frame_id, max_attempts = parts_of(event)
        self._events.append(
            EventRow(
                entry.execution_id,
                event_id,
                head.catalog_id,
                event.type,
                IGNORED if ignored else status_of(event),
                node_id,
                node_name,
                node_type,
                cause,
                found.previous or None,
                head.parent_execution_id,
                event.command_id or None,
                stage_id,
                frame_id,
                context,
                bytes(event.result) or None,
                meta,
                event.error[:ERROR_TEXT_MAX] or None,
                event.worker_id or None,
                result.duration,
                at,
                entry.stored_at,
            )
        )
        if event.type == "command.issued" and not ignored:
            touched.issued[event.command_id] = Issue(
                created_at=at,
                pool=event.pool or None,
                attempt=event.attempt or 1,
                max_attempts=max_attempts,
                iter_index=iteration_index(event),
                context=context,
                meta=meta,
            )
        touched.stored_at = entry.stored_at
        head.last_event_type = event.type
        head.last_node_name = node_name

    def _effect(
        self,
        event: Event,
        event_id: int,
        touched: Touched,
        command: OpenCommand | None,
        at: datetime,
    ) -> str:
        """What the event does to a command; empty, or why it does nothing."""
        if event.type == "command.issued":
            if command is not None:
                return "command_known"
            issued = OpenCommand(
                issued=event_id,
                step=event.step,
                kind=event.kind or None,
                latest=event_id,
            )
            touched.head.commands[event.command_id] = issued
            touched.commands[event.command_id] = issued
            return ""
        if event.type not in FACTS:
            return ""
        if command is None or not apply_fact(command, event, event_id, at):
            return "command_not_open"
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


def _end(
    touched: Touched, event: Event, event_id: int, at: datetime, result: Result
) -> None:
    touched.end_time = at
    touched.result = result.output
    touched.error = event.error[:ERROR_TEXT_MAX] or None
    for command_id, command in touched.head.commands.items():
        cancel(command, event_id, at)
        touched.commands[command_id] = command
    touched.head.commands.clear()


def _command_row(
    execution_id: int,
    command_id: str,
    command: OpenCommand,
    issue: Issue,
    touched: Touched,
) -> CommandRow:
    head = touched.head
    return CommandRow(
        execution_id,
        command_id,
        command.issued,
        head.catalog_id,
        head.parent_execution_id,
        head.parent_command_id,
        command.step,
        command.kind,
        issue.pool,
        command.status,
        command.answer,
        command.parked,
        command.worker_id,
        command.claimed_at,
        command.started_at,
        command.completed_at,
        issue.attempt,
        issue.max_attempts,
        issue.iter_index,
        issue.context,
        issue.meta,
        _text(command.error),
        command.latest,
        command.previous,
        issue.created_at,
        touched.stored_at,
    )


def _command_change(
    execution_id: int, command_id: str, command: OpenCommand, touched: Touched
) -> CommandChange:
    return CommandChange(
        execution_id,
        command_id,
        command.status,
        command.answer,
        command.parked,
        command.worker_id,
        command.claimed_at,
        command.started_at,
        command.completed_at,
        _text(command.error),
        command.latest,
        command.previous,
        touched.stored_at,
    )


def _execution_row(
    execution_id: int, touched: Touched, genesis: Genesis
) -> ExecutionRow:
    head = touched.head
    assert touched.start_time is not None
    return ExecutionRow(
        execution_id,
        head.catalog_id,
        head.path,
        genesis.version,
        head.parent_execution_id,
        head.parent_command_id,
        head.chain.terminal or "RUNNING",
        genesis.pool,
        head.chain.event_id,
        head.last_event_type,
        head.last_node_name,
        head.chain.count,
        head.steps_known,
        head.steps_done,
        touched.start_time,
        touched.end_time,
        touched.result,
        touched.error,
        bytes(genesis.workload) or None,
        touched.stored_at,
    )


def _execution_change(execution_id: int, touched: Touched) -> ExecutionChange:
    head = touched.head
    return ExecutionChange(
        execution_id,
        head.chain.terminal or "RUNNING",
        head.chain.event_id,
        head.last_event_type,
        head.last_node_name,
        head.chain.count,
        head.steps_known,
        head.steps_done,
        touched.end_time,
        touched.result,
        touched.error,
        touched.stored_at,
    )


def _text(error: str | None) -> str | None:
    return error[:ERROR_TEXT_MAX] if error else None
