"""Why an execution is not finished: what its owner says, else what rows and log tell.

Without an owner the newest events are folded as far as people ask: which commands are
open, which timers are set, what was decided last. Joins only the owner can explain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct, convert, field

from noetl_worker.server.history import History, Known
from noetl_worker.server.hub import events_of
from noetl_worker.server.live import Live
from noetl_worker.server.ports import ServerPorts
from noetl_worker.server.rebuilt import event_of_view
from noetl_worker.server.shapes import Status, moment
from state_builder.ids import event_position, shard_of
from state_builder.records import RESERVED_TYPES, Event
from state_builder.stores import EventFilter, EventView
from state_builder.wait import LastDecision, Wait, command_wait, timer_wait

EVENTS_READ_MAX: Final = 5000
"""Events of rows that are looked at without an owner."""

PAGE: Final = 500
COMMANDS_NAMED_MAX: Final = 50
_FACTS_OF_OWNERS: Final = frozenset({"playbook.cancel_requested", "playbook_started"})


class Cause(Struct, frozen=True, kw_only=True):
    """The event that led to a decision."""

    event_id: str
    event_type: str | None = None
    step: str | None = None
    at: str | None = None


class DecisionAnswer(Struct, frozen=True, kw_only=True):
    """What was decided last; ``cause`` is null where nobody can tell any more."""

    text: str
    event_id: str
    step: str | None = None
    cause: Cause | None = None


class WhyAnswer(Struct, frozen=True, kw_only=True):
    """Why an execution stands where it stands.

    Attributes:
        source: ``owner``, or ``log`` when no owner answered.
        as_of_event_id: the newest event the answer knows of.
        summary: the whole answer in one sentence.
    """

    execution_id: str
    path: str | None
    status: str
    source: str
    summary: str
    as_of_event_id: str | None
    waiting: list[Wait]
    last_decision: DecisionAnswer | None
    error: str | None = None


class _Told(Status, kw_only=True):
    """An owner's answer to ``why``."""

    waiting: list[Wait] = field(default_factory=list)
    last_decision: LastDecision | None = None


class Why:
    """Explains executions."""

    def __init__(
        self, ports: ServerPorts, live: Live, history: History, shard_count: int
    ) -> None:
        self._ports = ports
        self._live = live
        self._history = history
        self._shard_count = shard_count

    async def explain(self, execution_id: str) -> WhyAnswer:
        """The answer.

        Raises:
            NotFoundError: owner, rows and log know nothing of it.
            UnavailableError: none of them can be asked.
        """
        answer = await self._live.ask(execution_id, "why")
        if answer is None:
            return await self._from_log(execution_id)
        told = convert(answer, _Told, strict=False)
        return await self._answer(told, told.waiting, told.last_decision, "owner")

    async def _from_log(self, execution_id: str) -> WhyAnswer:
        status = await self._live.status(execution_id, "why")
        known = await self._history.known(execution_id)
        found = _Fold()
        if not status.over:
            found.take(await self._rows(execution_id, known))
            found.take((one.event_id, one.event, one.cause) for one in known.tail)
        shard = shard_of(execution_id, self._shard_count)
        waiting = found.waits(self._ports.clock.now())
        if not status.over:
            waiting.insert(0, _nobody(shard))
        return await self._answer(status, waiting, found.last, "log")

    async def _rows(
        self, execution_id: str, known: Known
    ) -> Iterable[tuple[int, Event, str]]:
        """The newest events that are rows, oldest first."""
        if known.row is None:
            return []
        until = int(known.row.head_event_id)
        views: list[EventView] = []
        while len(views) < EVENTS_READ_MAX:
            wanted = EventFilter(until=until, limit=PAGE, offset=len(views))
            page = await self._ports.rows.events(execution_id, wanted)
            views += page.events
            if len(page.events) < PAGE:
                break
        return (
            (int(view.event_id), event_of_view(view), view.parent_event_id or "")
            for view in reversed(views)
        )

    async def _answer(
        self,
        status: Status,
        waiting: list[Wait],
        last: LastDecision | None,
        source: str,
    ) -> WhyAnswer:
        decision = None
        if last is not None and not status.over:
            decision = DecisionAnswer(
                text=last.text,
                event_id=str(last.event),
                step=last.step or None,
                cause=await self._cause(status.execution_id, last.cause),
            )
        return WhyAnswer(
            execution_id=status.execution_id,
            path=status.path,
            status=status.status,
            source=source,
            summary=_summary(status, waiting),
            as_of_event_id=status.last_event_id,
            waiting=waiting,
            last_decision=decision,
            error=status.error,
        )

    async def _cause(self, execution_id: str, event_id: int) -> Cause | None:
        """What kind of event it was, as long as the log or the rows have it."""
        if not event_id:
            return None
        generation, sequence, _ = event_position(event_id)
        message = await self._ports.log.read(sequence)
        found = [] if message is None else events_of(message, execution_id, generation)
        for one in found:
            if one.event_id == event_id:
                event = one.event
                return Cause(
                    event_id=str(event_id),
                    event_type=event.type,
                    step=event.step or None,
                    at=event.at,
                )
        view = await self._ports.rows.event(str(event_id))
        if view is None or view.execution_id != execution_id:
            return Cause(event_id=str(event_id))
        return Cause(
            event_id=str(event_id),
            event_type=view.event_type,
            step=view.node_name,
            at=moment(view.created_at),
        )


class _Open(Struct):
    """An open command, as :class:`state_builder.wait.Waited` wants it."""

    step: str
    iteration: str
    pool: str
    child: str
    issued_at: str
    started_at: str = ""
    worker: str = ""
    starts: int = 0
    parked: bool = False


class _Fold(Struct):
    """What is open after some events, oldest first."""

    commands: dict[str, _Open] = field(default_factory=dict)
    timers: dict[str, float] = field(default_factory=dict)
    last: LastDecision | None = None

    def take(self, events: Iterable[tuple[int, Event, str]]) -> None:
        """Further events: id, event, id of its cause."""
        for event_id, event, cause in events:
            self._command(event)
            if event.type == "timer.set":
                self.timers[event.timer] = event.due
            elif event.type == "timer.fired":
                self.timers.pop(event.timer, None)
            if event.type in RESERVED_TYPES - _FACTS_OF_OWNERS:
                step = f" of step '{event.step}'" if event.step else ""
                self.last = LastDecision(
                    text=f"{event.type}{step}",
                    event=event_id,
                    cause=int(cause) if cause.isdecimal() else 0,
                    step=event.step,
                )

    def _command(self, event: Event) -> None:
        command = self.commands.get(event.command_id)
        if event.type == "command.issued":
            self.commands[event.command_id] = _Open(
                step=event.step,
                iteration=event.iteration,
                pool=event.pool,
                child=event.child,
                issued_at=event.at,
            )
        elif command is None:
            return
        elif event.type == "command.started":
            command.starts += 1
            command.started_at, command.worker = event.at, event.worker_id
        elif event.type == "command.completed" and event.pending:
            command.parked = True
        elif event.type in ("command.completed", "command.failed") or (
            event.type == "call.done" and command.parked
        ):
            del self.commands[event.command_id]

    def waits(self, now: float) -> list[Wait]:
        """All of it, as sentences."""
        named = list(self.commands.items())[:COMMANDS_NAMED_MAX]
        found = [command_wait(name, command, now) for name, command in named]
        more = len(self.commands) - len(named)
        if more:
            found.append(Wait(kind="command", text=f"{more:,} further open commands"))
        for name, due in self.timers.items():
            command = self.commands.get(name.partition(":")[2])
            step = command.step if command else ""
            found.append(timer_wait(name, due, now, step=step))
        return found


def _nobody(shard: int) -> Wait:
    return Wait(
        kind="owner",
        text=f"no system worker answers for shard {shard}: until one does, nothing is "
        "decided (are system workers up, and can they reach NATS?)",
    )


def _summary(status: Status, waiting: list[Wait]) -> str:
    if status.over:
        because = f": {status.error}" if status.error else ""
        return f"it is over, {status.status}{because}"
    if not waiting:
        return "nothing is known to be open"
    more = f", and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    return f"{waiting[0].text}{more}"
