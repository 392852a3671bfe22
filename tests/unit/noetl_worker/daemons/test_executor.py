"""What a tool worker does when things go wrong around a command."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from doubles import Counting, ManualClock
from msgspec import Raw

from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.bus.topology import BusSettings
from noetl_worker.daemons.executor import Executor, ExecutorPorts, ExecutorSettings
from noetl_worker.daemons.references import CommandValues
from noetl_worker.results.values import Values
from state_builder.errors import UnavailableError
from state_builder.ids import Shard
from state_builder.ports import Command
from state_builder.records import (
    Event,
    Record,
    ToolOutcome,
    decode_append,
)
from tools.contract import CallContext, ToolLimits

pytestmark = pytest.mark.anyio

EID = "7000"
Tool = Callable[[Command], Awaitable[ToolOutcome]]


class Bench:
    """One worker, one queue, and the test as the owner that is asked."""

    def __init__(self, tool: Tool, slots: int = 4) -> None:
        self.clock = ManualClock()
        settings = BusSettings(shard_count=1, ack_wait_s=30.0)
        self.broker = MemoryBroker(self.clock, settings)
        self.broker.create(settings)
        self.bus = MemoryBus(self.broker)
        self.observer = Counting()
        self.answer: dict[str, Any] | None = {"obsolete": False, "starts": 0}
        self.asked = 0
        self.settled: list[bool] = []
        self._tool = tool
        self._settings = ExecutorSettings(worker_id="w", slots=slots)

    async def run(self, command: Command) -> ToolOutcome:
        return await self._tool(command)

    async def hold(self, command_id: str) -> None:
        """Nothing is taken from outside."""

    async def settle(self, command_id: str, kept: bool) -> None:
        self.settled.append(kept)

    async def close(self) -> None:
        """Nothing to close."""

    async def reply(self, question: dict[str, Any]) -> dict[str, Any] | None:
        self.asked += 1
        return self.answer

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        await self.bus.signals.answer(Shard(0), self.reply)
        values = Values(MemoryResults(), self.clock, self.observer)
        ports = ExecutorPorts(
            log=self.bus.log,
            commands=self.bus.commands,
            signals=self.bus.signals,
            runner=self,
            values=CommandValues(values),
            clock=self.clock,
            observer=self.observer,
        )
        self.executor = executor = Executor(ports, self._settings)
        self.stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.run, self.stop)
            await self.until(lambda: executor.pulling)
            yield
            tasks.cancel_scope.cancel()

    async def issue(self, number: int = 1) -> None:
        event = Event(
            type="command.issued",
            step="a",
            visit=number,
            command_id=f"{EID}.a.{number}.1",
            attempt=1,
            context=Raw(b"{}"),
        )
        record = Record(execution_id=EID, events=[event])
        await self.bus.log.append(
            Shard(0), [record], message_id=event.command_id, pool="shared"
        )

    def events(self, kind: str) -> list[Event]:
        return [
            event
            for stored in self.broker.after(0)
            for record in decode_append(stored.message.data).records
            for event in record.events
            if event.type == kind
        ]

    async def issue_elsewhere(self) -> None:
        """Something is stored while this worker is cut off."""
        other = MemoryBus(self.broker)
        record = Record(execution_id="8", events=[Event(type="note")])
        await other.log.append(Shard(0), [record], message_id="other")

    def tick(self) -> bool:
        """A moment passes."""
        self.clock.advance(0.1)
        return True

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(5):
            while not holds():
                await anyio.sleep(0)

    async def unfinished(self) -> int:
        return (await self.bus.commands.progress("shared")).unfinished


async def nothing(command: Command) -> ToolOutcome:
    return ToolOutcome(data=Raw(b"1"))


async def for_ever(command: Command) -> ToolOutcome:
    await anyio.sleep_forever()
    raise AssertionError


async def test_a_fault_of_ours_ends_one_command_and_no_other() -> None:
    """RT-DRV-1 for workers: the next command is run as if nothing had been."""

    async def breaks(command: Command) -> ToolOutcome:
        if command.visit == 1:
            raise ZeroDivisionError("ours")
        return await nothing(command)

    bench = Bench(breaks)
    async with bench.working():
        await bench.issue(1)
        await bench.issue(2)
        await bench.until(lambda: bool(bench.events("command.completed")))
        (failed,) = bench.events("command.failed")
    assert (failed.code, failed.visit) == ("internal", 1)
    assert "ZeroDivisionError: ours" in failed.error


async def test_a_platform_away_for_too_long_gives_the_command_back() -> None:
    """RT-WRK-11: it is not failed, somebody else tries later."""

    async def away(command: Command) -> ToolOutcome:
        raise UnavailableError("the server does not answer")

    bench = Bench(away)
    async with bench.working():
        await bench.issue()
        key = "noetl_worker_claim_failed_total.unavailable"
        await bench.until(lambda: bench.observer.counts.get(key) == 1)
        assert await bench.unfinished() == 1
    assert bench.events("command.failed") == []
    assert bench.settled == [False], "what it took from outside goes back too"


async def test_a_command_is_not_announced_while_its_owner_is_asked() -> None:
    """Only a tool that runs counts as a start: an absent owner makes nothing poison."""
    bench = Bench(nothing)
    await bench.issue()
    bench.answer = None
    async with bench.working():
        await bench.until(lambda: bench.asked == 1)
        for _ in range(20):
            bench.clock.advance(0.1)
            await anyio.sleep(0)
            await anyio.sleep(0)
    assert bench.events("command.started") == []


async def test_what_became_obsolete_while_cut_off_is_stopped() -> None:
    """RT-WRK-12: after a reconnect the owner is asked about what runs."""
    bench = Bench(for_ever)
    async with bench.working():
        await bench.issue()
        await bench.until(lambda: bench.broker.consumers["shared"].progress()[2] == 1)
        bench.bus.disconnect()
        await bench.issue_elsewhere()
        bench.answer = {"obsolete": True}
        bench.bus.reconnect()
        await bench.until(lambda: bench.tick() and bool(bench.events("command.failed")))
        (failed,) = bench.events("command.failed")
    assert failed.code == "cancelled"


async def test_a_command_of_an_ended_execution_is_asked_about_first() -> None:
    """RT-NATS-33, RT-NATS-44: remembered, so it is not run for nothing."""
    bench = Bench(nothing)
    async with bench.working():
        bench.answer = {"obsolete": True}
        await bench.bus.signals.cancelled(EID)
        await anyio.sleep(0)
        await anyio.sleep(0)
        await bench.issue()
        await bench.until(lambda: bench.asked == 1)
        with anyio.fail_after(5):
            while await bench.unfinished():
                await anyio.sleep(0)
    assert bench.events("command.completed") == []


async def test_commands_lost_twice_run_one_after_the_other() -> None:
    """If one of them kills its worker, the others do not go with it each time."""
    running: list[str] = []
    most = 0
    let_go = anyio.Event()

    async def counts(command: Command) -> ToolOutcome:
        nonlocal most
        running.append(command.command_id)
        most = max(most, len(running))
        await let_go.wait()
        running.remove(command.command_id)
        return await nothing(command)

    bench = Bench(counts)
    for number in (1, 2, 3):
        await bench.issue(number)
    bench.answer = {"obsolete": False, "starts": 2}
    async with bench.working():
        await bench.until(lambda: bench.asked == 3 and len(running) == 1)
        for _ in range(20):
            await anyio.sleep(0)
        assert len(bench.events("command.started")) == 1
        let_go.set()
        await bench.until(lambda: len(bench.events("command.completed")) == 3)
    assert most == 1


class Job:
    """A tool that starts a job outside, parks, and perhaps waits for its end."""

    def __init__(self, *, watched: bool) -> None:
        self.bench = Bench(self, slots=1)
        self.ended = anyio.Event()
        self.stopped: list[bool] = []
        self._watched = watched

    async def __call__(self, command: Command) -> ToolOutcome:
        if command.visit > 1:
            return await nothing(command)
        call = CallContext(
            execution_id=EID,
            command_id=command.command_id,
            step="a",
            attempt=1,
            timeout_s=1.0,
            limits=ToolLimits(),
        )
        job: dict[str, Any] = {"job_name": "j", "job_uid": "u"}
        executor = self.bench.executor
        await executor.park(call, job, watched=self._watched)
        try:
            if self._watched:
                await self.ended.wait()
        except BaseException:
            self.stopped.append(executor.over(call))
            raise
        return await nothing(command)


@pytest.mark.parametrize("watched", [True, False])
async def test_a_parked_command_holds_no_slot(watched: bool) -> None:
    """TL-CTR-06, RT-WRK-16: one slot, and the next command runs meanwhile."""
    job = Job(watched=watched)
    bench = job.bench
    async with bench.working():
        await bench.issue(1)
        await bench.issue(2)
        await bench.until(lambda: len(bench.events("command.completed")) == 2)
        first, second = bench.events("command.completed")
        assert (first.pending, first.task, first.visit) == (True, "j", 1)
        assert (second.pending, second.visit) == (False, 2)
        assert first.worker_id == ("w" if watched else "")
        assert [event.visit for event in bench.events("call.done")] == [2]
        with anyio.fail_after(5):
            while await bench.unfinished() != int(watched):
                await anyio.sleep(0)
        job.ended.set()
        if watched:
            await bench.until(lambda: len(bench.events("call.done")) == 2)
    assert len(bench.events("command.completed")) == 2, "it was parked, not ended twice"
    assert len(bench.events("command.started")) == 2
    name = "noetl_worker_call_done_skipped_pending_callback_total.container"
    assert bench.observer.counts[name] == 1


async def test_a_stopping_worker_gives_parked_commands_back_at_once() -> None:
    """RT-WRK-20: it does not wait for jobs it does not run; they go on."""
    job = Job(watched=True)
    async with job.bench.working():
        await job.bench.issue(1)
        await job.bench.until(lambda: bool(job.bench.events("command.completed")))
        job.bench.stop.set()
        await job.bench.until(lambda: bool(job.stopped))
        assert await job.bench.unfinished() == 1
    assert job.stopped == [False]
    assert job.bench.events("call.error") == []


async def test_a_parked_command_ends_with_its_execution() -> None:
    """TL-CTR-09, RT-WRK-13."""
    job = Job(watched=True)
    async with job.bench.working():
        await job.bench.issue(1)
        await job.bench.until(lambda: bool(job.bench.events("command.completed")))
        await job.bench.bus.signals.cancelled(EID)
        await job.bench.until(lambda: bool(job.bench.events("call.error")))
    assert job.stopped == [True]
    assert job.bench.events("command.failed") == []
