"""A tool worker: pull a command, run its tool, append one record, acknowledge (§5).

The acknowledgement comes after the record is stored, never before, never because of a
cancellation. One watch task extends deadlines and announces long runs, apart from the
tools: a tool that burns CPU elsewhere does not cost the command its deadline.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import anyio
import structlog
from anyio.abc import TaskGroup
from msgspec.json import decode as decode_json

from noetl_worker.daemons.references import ERRORS, CommandValues, failure_of
from noetl_worker.daemons.running import Running
from state_builder.errors import (
    LimitExceededError,
    RecordError,
    UnavailableError,
)
from state_builder.ports import (
    Clock,
    Command,
    CommandQueue,
    Delivery,
    EventLog,
    Observer,
    Signals,
    ToolRunner,
)
from state_builder.records import (
    JSON,
    Event,
    Record,
    ToolFailure,
    ToolOutcome,
    decode_append,
    timestamp,
)
from state_builder.report import callback_id, parked_event, result_events, started_event
from tools.contract import CallContext

log = structlog.get_logger(__name__)

WATCH_S = 0.1
"""How often running commands are looked at."""

CANCELLED_KEPT_S = 3600.0

ASIDE_MAX = 1_000
"""Commands that may wait for children without a slot; further ones keep theirs."""

_CANCELLED = ToolOutcome(
    failed=True,
    error=ToolFailure(kind="cancelled", message="the execution was cancelled"),
)

SUSPECT_LOSSES = 2
"""A command that was lost with its worker so often runs beside no other such one: if
one of them kills workers, the others are not killed with it again and again."""


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """One tool worker.

    Attributes:
        slots: commands at once.
        started_after_s: a command still running then is announced (RT-EVT-6).
        ack_wait_s: the pools' ack deadline; extended at a third of it.
        ask_timeout_s: how long to wait for an owner's answer (RT-NATS-44).
        nak_first_s, nak_max_s: delay of work given back, doubling.
        drain_s: how long commands may go on after SIGTERM (RT-WRK-20).
    """

    worker_id: str
    pools: tuple[str, ...] = ("shared",)
    slots: int = 4
    started_after_s: float = 0.25
    ack_wait_s: float = 30.0
    ask_timeout_s: float = 2.0
    nak_first_s: float = 5.0
    nak_max_s: float = 60.0
    drain_s: float = 25.0


@dataclass(frozen=True, kw_only=True)
class ExecutorPorts:
    """What a tool worker may touch."""

    log: EventLog
    commands: CommandQueue
    signals: Signals
    runner: ToolRunner
    values: CommandValues
    clock: Clock
    observer: Observer


class Executor:
    """Runs commands of its pools until it is told to stop."""

    def __init__(self, ports: ExecutorPorts, settings: ExecutorSettings) -> None:
        self._ports = ports
        self._settings = settings
        self._running: dict[str, Running] = {}
        self._aside: set[str] = set()
        self._cancelled: dict[str, float] = {}
        self._view_start = 0
        self._idle = anyio.Event()
        self._suspects = anyio.Lock()
        self.pulling = False

    async def run(self, stop: anyio.Event) -> None:
        """Pull and run until ``stop``; then finish what runs within ``drain_s``."""
        await self._ports.signals.on_cancelled(self._hear_cancelled)
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._watch, beside)
            # The library's own group: a task of anyio's costs eight times as much,
            # which is a third of what a whole plain command costs.
            async with asyncio.TaskGroup() as commands:
                await self._pull_until(stop, commands, beside)
                await self._drain()
            beside.cancel_scope.cancel()

    async def _pull_until(
        self, stop: anyio.Event, commands: asyncio.TaskGroup, beside: TaskGroup
    ) -> None:
        async with anyio.create_task_group() as pulling:
            pulling.start_soon(self._pull, commands, beside)
            await stop.wait()
            self.pulling = False
            pulling.cancel_scope.cancel()

    async def _pull(self, commands: asyncio.TaskGroup, beside: TaskGroup) -> None:
        queue = self._ports.commands
        self.pulling = True
        async for batch in queue.pull(self._settings.pools, self._settings.slots):
            await self._look_at_view(beside)
            for delivery in batch:
                self._take(delivery, commands)

    def _take(self, delivery: Delivery, tasks: asyncio.TaskGroup) -> None:
        try:
            append = decode_append(delivery.data)
        except RecordError as error:
            log.error(
                "command.malformed", sequence=delivery.sequence, reason=str(error)
            )
            self._ports.observer.count("noetl_worker_claim_dead_lettered_total")
            delivery.term()
            return
        record = append.records[-1]
        issued = record.events[-1]
        already = self._running.get(issued.command_id)
        if already is not None:
            already.delivery = delivery
            return
        now = self._ports.clock.monotonic()
        running = Running(
            delivery=delivery,
            execution_id=record.execution_id,
            issued=issued,
            extended=now,
        )
        self._running[issued.command_id] = running
        running.task = tasks.create_task(self._run(running))

    async def _run(self, running: Running) -> None:
        try:
            if not self._doubtful(running):
                await self._finish(running)
            elif await self._may_run(running):
                if self._suspect(running):
                    async with self._suspects:
                        await self._finish(running, announce=True)
                else:
                    await self._finish(running, announce=True)
        finally:
            del self._running[running.issued.command_id]
            self._aside.discard(running.issued.command_id)
            if not self._running:
                self._idle.set()

    def step_aside(self, command_id: str) -> None:
        """The command waits for a child: its slot may serve that child (PB-185)."""
        running = self._running.get(command_id)
        if running is not None and len(self._aside) < ASIDE_MAX:
            self._aside.add(command_id)
            running.delivery.step_aside()

    async def park(
        self, call: CallContext, job: dict[str, JSON], *, watched: bool
    ) -> None:
        """The command ends when this job does; until then it holds no slot (RT-WRK-16).

        Its message stays with whoever watches the job, so another worker takes over
        from one that dies.
        """
        running = self._running[call.command_id]
        running.job = str(job["job_uid"] or job["job_name"])
        running.watched, running.parked = watched, True
        at = timestamp(self._ports.clock.now())
        events = [] if running.announced else [self._started(running, at)]
        running.announced = True
        watcher = self._settings.worker_id if watched else ""
        events.append(parked_event(running.issued, at, job, watcher))
        await self._ports.log.append(
            running.delivery.shard,
            [Record(execution_id=running.execution_id, events=events)],
            message_id=f"{call.command_id}:parked:{watcher}",
        )
        self._ports.observer.count(
            "noetl_worker_call_done_skipped_pending_callback_total",
            tool_kind="container",
        )
        self.step_aside(call.command_id)

    def over(self, call: CallContext) -> bool:
        """The execution of a parked command ended."""
        return self._running[call.command_id].cancelled

    def _doubtful(self, running: Running) -> bool:
        """May somebody else have run it, or is its execution over (RT-NATS-44)?"""
        delivery = running.delivery
        return (
            delivery.count > 1
            or delivery.sequence <= self._view_start
            or running.execution_id in self._cancelled
        )

    def _suspect(self, running: Running) -> bool:
        """Was it lost twice? A tool that kills at once is lost unannounced, so the
        deliveries are looked at too; a wrong guess only costs time. One that waits for
        its job outlives its workers."""
        if running.parked:
            return False
        lost = max(running.starts, running.delivery.count - 1)
        return lost >= SUSPECT_LOSSES

    async def _finish(self, running: Running, *, announce: bool = False) -> None:
        """Run, report, and only then acknowledge."""
        if announce:
            await self._announce(running)
        outcome = await self._outcome(running)
        if outcome is None:
            await self._ports.runner.settle(running.issued.command_id, False)
            running.delivery.nak(self._settings.nak_first_s)
            return
        if running.watched or outcome.failed:
            await self._report(running, outcome)
        await self._ports.runner.settle(running.issued.command_id, not outcome.failed)
        running.delivery.ack()

    async def _outcome(self, running: Running) -> ToolOutcome | None:
        """What the tool gives, or why it gave nothing; None when the platform was away
        for so long that somebody else should try (RT-WRK-11)."""
        if running.cancelled:
            return _CANCELLED
        running.began = self._ports.clock.monotonic()
        running.in_tool = True
        try:
            command = await self._ports.values.resolve(self._command(running))
            outcome = await self._ports.runner.run(command)
            return await self._ports.values.settle(command, outcome)
        except UnavailableError as error:
            log.warning(
                "command.given_back",
                command_id=running.issued.command_id,
                reason=str(error),
            )
            self._ports.observer.count(
                "noetl_worker_claim_failed_total", reason="unavailable"
            )
            return None
        except ERRORS as error:
            return ToolOutcome(failed=True, error=failure_of(error))
        except asyncio.CancelledError:
            if not self._was_ours(running):
                raise
            return _CANCELLED
        except Exception as error:
            # A fault of ours in one command must not end the others.
            log.exception("command.broke", command_id=running.issued.command_id)
            text = f"a fault of the worker: {type(error).__name__}: {error}"
            failure = ToolFailure(kind="internal", message=text)
            return ToolOutcome(failed=True, error=failure)
        finally:
            running.in_tool = False

    def _was_ours(self, running: Running) -> bool:
        """The execution ended, and nobody stops the worker at the same time."""
        task = running.task
        return running.cancelled and task is not None and task.uncancel() == 0

    def _command(self, running: Running) -> Command:
        issued = running.issued
        meta = decode_json(issued.meta) if issued.meta else {}
        return Command(
            execution_id=running.execution_id,
            command_id=issued.command_id,
            step=issued.step,
            kind=issued.kind,
            visit=issued.visit,
            iteration=issued.iteration,
            attempt=issued.attempt,
            context=bytes(issued.context),
            path=meta.get("path", ""),
            worker_id=self._settings.worker_id,
            trace=meta.get("trace") or {},
            sequence=running.delivery.sequence,
        )

    async def _ask(self, running: Running) -> bool | None:
        """Need the command still run? None when its owner does not answer."""
        answer = await self._ports.signals.ask(
            running.delivery.shard,
            {
                "kind": "command",
                "execution_id": running.execution_id,
                "command_id": running.issued.command_id,
                "sequence": running.delivery.sequence,
            },
            self._settings.ask_timeout_s,
        )
        if answer is None:
            return None
        starts = answer.get("starts")
        running.starts = starts if isinstance(starts, int) else 0
        running.parked = running.parked or answer.get("parked") is True
        return not answer.get("obsolete")

    async def _may_run(self, running: Running) -> bool:
        """Ask the owner whether the command still counts (RT-NATS-44)."""
        observer = self._ports.observer
        wanted = await self._ask(running)
        # While we asked, a newer delivery may have taken the place of the older one.
        delivery = running.delivery
        if wanted is None:
            doubled = self._settings.nak_first_s * 2 ** min(delivery.count - 1, 6)
            delivery.nak(min(doubled, self._settings.nak_max_s))
            observer.count("noetl_worker_claim_failed_total", reason="unavailable")
            return False
        if not wanted:
            delivery.ack()
            observer.count("noetl_worker_claim_failed_total", reason="superseded")
            return False
        if delivery.count > 1:
            observer.count("noetl_worker_commands_redelivered_total")
        return True

    async def _announce(self, running: Running) -> None:
        """``command.started`` on its own, before or while the tool runs."""
        running.announced = True
        issued = running.issued
        boot = self._settings.worker_id
        started = self._started(running, timestamp(self._ports.clock.now()))
        await self._ports.log.append(
            running.delivery.shard,
            [Record(execution_id=running.execution_id, events=[started])],
            message_id=f"{issued.command_id}:started:{boot}:{running.delivery.count}",
        )

    def _started(self, running: Running, at: str) -> Event:
        return started_event(
            running.issued, at, self._settings.worker_id, running.delivery.count
        )

    async def _report(self, running: Running, outcome: ToolOutcome) -> None:
        """One record per finished command; wait until it is stored."""
        try:
            await self._append(running, outcome)
        except LimitExceededError as error:
            too_large = ToolOutcome(
                failed=True,
                error=ToolFailure(kind="limit", code=error.limit, message=str(error)),
            )
            await self._append(running, too_large)

    async def _append(self, running: Running, outcome: ToolOutcome) -> None:
        issued = running.issued
        at = timestamp(self._ports.clock.now())
        events = [] if running.announced else [self._started(running, at)]
        events += result_events(issued, outcome, at, self._settings.worker_id)
        message_id = f"{issued.command_id}:result"
        if running.job:
            # A call-back says the same under the same name: one of them counts.
            events = events[:1]
            message_id = callback_id(
                running.execution_id, issued.command_id, running.job
            )
        await self._ports.log.append(
            running.delivery.shard,
            [Record(execution_id=running.execution_id, events=events)],
            message_id=message_id,
        )

    async def _look_at_view(self, tasks: TaskGroup) -> None:
        """After a reconnect, is what runs here still wanted (RT-WRK-12)?"""
        began = await self._ports.commands.view_start()
        if began != self._view_start:
            self._view_start = began
            for running in self._running.values():
                tasks.start_soon(self._stop_if_obsolete, running)

    async def _stop_if_obsolete(self, running: Running) -> None:
        if await self._ask(running) is False:
            self._ports.observer.count(
                "noetl_worker_claim_failed_total", reason="terminal"
            )
            self._stop(running)

    async def _watch(self, tasks: TaskGroup) -> None:
        """Extend ack deadlines; announce what runs long (RT-NATS-42, RT-EVT-6).

        Nothing is waited for here: a log that does not answer must not cost a command
        its deadline.
        """
        while True:
            await self._ports.clock.sleep(WATCH_S)
            self._ports.observer.gauge(
                "noetl_worker_concurrent_dispatches", len(self._running)
            )
            if self._running:
                await self._look_at_view(tasks)
            now = self._ports.clock.monotonic()
            for running in list(self._running.values()):
                if now - running.extended >= self._settings.ack_wait_s / 3:
                    running.extended = now
                    running.delivery.in_progress()
                    tasks.start_soon(self._ports.runner.hold, running.issued.command_id)
                began = now if running.began is None else running.began
                late = now - began >= self._settings.started_after_s
                if late and not running.announced:
                    running.announced = True
                    tasks.start_soon(self._announce, running)
            old = now - CANCELLED_KEPT_S
            for eid in [eid for eid, at in self._cancelled.items() if at < old]:
                del self._cancelled[eid]

    def _hear_cancelled(self, execution_id: str) -> None:
        """Stop the tools of an execution that is over (RT-WRK-13)."""
        self._cancelled[execution_id] = self._ports.clock.monotonic()
        for running in self._running.values():
            if running.execution_id == execution_id:
                self._stop(running)

    def _stop(self, running: Running) -> None:
        if running.cancelled:
            return
        running.cancelled = True
        if running.in_tool and running.task is not None:
            running.task.cancel()

    async def _drain(self) -> None:
        """Let commands finish; give back what does not in time (RT-WRK-20)."""
        for running in list(self._running.values()):
            if running.job:
                running.give_back()
        with anyio.move_on_after(self._settings.drain_s):
            while self._running:
                self._idle = anyio.Event()
                await self._idle.wait()
        for running in self._running.values():
            log.warning("command.given_back", command_id=running.issued.command_id)
            running.give_back()
