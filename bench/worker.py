"""CPU of a tool worker alone, without broker or processes (``worker.*``).

What a worker does per command: decode it, run its tool, encode the record. Batches of
commands wait in a queue in memory; a log that stores nothing takes the records. Figures
are CPU microseconds of this process.

    python -m bench.worker
"""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from statistics import median
from typing import Any, cast

import anyio
import uvloop

from bench.core import Shell
from bench.playbooks import chain
from noetl_worker.daemons.executor import Executor, ExecutorPorts, ExecutorSettings
from noetl_worker.daemons.references import CommandValues
from noetl_worker.lifecycle import SystemClock
from noetl_worker.metrics import PrometheusObserver
from state_builder.ids import Shard
from state_builder.ports import Appended, Command, Delivery
from state_builder.records import Record, encode_append
from tools.contract import ToolLimits
from tools.pipeline import Runner
from tools.registry import Registry

BATCH = 16


class Handed:
    """A command as handed out; acknowledging it only counts."""

    count = 1
    shard = Shard(0)

    def __init__(self, sequence: int, data: bytes, queue: Queue) -> None:
        self.sequence = sequence
        self.data = data
        self._queue = queue

    def ack(self) -> None:
        """One more is done."""
        self._queue.done += 1
        if not self._queue.done % BATCH:
            self._queue.more.set()

    def nak(self, delay_s: float) -> None:
        """Nothing is given back here."""
        raise AssertionError("a command was given back")

    term = in_progress = ack


class Queue:
    """Commands in batches, the next when the one before is done."""

    def __init__(self, data: bytes, batches: int) -> None:
        self.done = 0
        self.more = anyio.Event()
        self._data = data
        self._batches = batches

    async def pull(
        self, pools: Sequence[str], slots: int
    ) -> AsyncIterator[list[Delivery]]:
        """See the port; ids differ, as they do in a fleet."""
        for batch in range(self._batches):
            self.more = anyio.Event()
            found = []
            for number in range(batch * BATCH + 1, batch * BATCH + BATCH + 1):
                data = self._data.replace(b"77.start", b"%d.start" % number)
                found.append(Handed(number, data, self))
            yield cast("list[Delivery]", found)
            await self.more.wait()
        await anyio.sleep_forever()

    async def view_start(self) -> int:
        """Every command is fresh."""
        return 0


class Log:
    """Encodes what it is given and stores nothing."""

    def append(
        self, shard: Shard, records: list[Record], **rest: object
    ) -> Awaitable[Appended]:
        """See the port."""
        encode_append(records)
        done: Any = anyio.lowlevel.checkpoint_if_cancelled()
        return done


class Silent:
    """Signals nobody sends."""

    async def on_cancelled(self, heard: object) -> None:
        """Nobody cancels."""


def runner_of(
    limits: ToolLimits, clock: SystemClock, observer: PrometheusObserver
) -> Runner:
    """A runner for tools that need neither credentials nor stored results."""
    nothing: Any = None
    return Runner(Registry(limits), limits, clock, observer, nothing, nothing)


async def us_per_command(kind: str, batches: int) -> float:
    """CPU microseconds a command of this kind takes."""
    shell = Shell(chain(kind))
    issued = shell.start("77")[0]
    data = encode_append([Record(execution_id="77", events=[issued])])
    limits = ToolLimits()
    clock, observer = SystemClock(), PrometheusObserver()
    queue = Queue(data, batches)
    runner = runner_of(limits, clock, observer)
    ports: Any = ExecutorPorts(
        log=cast("Any", Log()),
        commands=cast("Any", queue),
        signals=cast("Any", Silent()),
        runner=runner,
        values=CommandValues(cast("Any", None)),
        clock=clock,
        observer=observer,
    )
    executor = Executor(ports, ExecutorSettings(worker_id="bench", slots=BATCH))
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(executor.run, stop)
        while queue.done < BATCH:  # noqa: ASYNC110 - a poll disturbs least
            await anyio.sleep(0.01)
        begun, before = time.process_time(), queue.done
        while queue.done < batches * BATCH:  # noqa: ASYNC110 - as above
            await anyio.sleep(0.01)
        used = time.process_time() - begun
        stop.set()
    await runner.close()
    return used / (batches * BATCH - before) * 1e6


async def python_call_us(calls: int) -> float:
    """Microseconds a call of a python tool takes that does nothing; the median."""
    issued = Shell(chain("python")).start("77")[0]
    limits = ToolLimits()
    runner = runner_of(limits, SystemClock(), PrometheusObserver())
    command = Command(
        execution_id="77",
        command_id=issued.command_id,
        step=issued.step,
        kind=issued.kind,
        visit=1,
        iteration="",
        attempt=1,
        context=bytes(issued.context),
        path="bench/chain_python",
        worker_id="bench",
        trace={},
    )
    times = []
    for _ in range(calls):
        begun = time.perf_counter()
        outcome = await runner.run(command)
        times.append(time.perf_counter() - begun)
        assert not outcome.failed, outcome.error
    await runner.close()
    return median(times) * 1e6


def worker() -> dict[str, float]:
    """All figures of the worker; of its CPU the least of some runs."""
    gc.collect()
    gc.freeze()
    runs = [uvloop.run(us_per_command("noop", 200)) for _ in range(6)]
    return {
        "us_per_command": min(runs),
        "python_call_us": uvloop.run(python_call_us(1000)),
    }


if __name__ == "__main__":
    for name, value in worker().items():
        print(f"worker.{name:<28} {value:.2f}")
