"""``python -m bench.bus``: what the bus itself can do on this machine.

Appends alone, fenced and sharing messages; following the log; taking and acknowledging
commands; one hop (append, stored, delivered to another process) at rest. ``--url`` for a
running broker, else a private one; ``--uvloop`` as the roles run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
import uvloop

from noetl_worker.bus.nats import NatsBus
from noetl_worker.bus.topology import BusSettings
from state_builder.ids import Shard
from state_builder.records import Event, Record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from services import NatsServer

COUNT = 40_000
WINDOW = 256
HOPS = 2000


class Quiet:
    """An observer that keeps nothing."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Nothing."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Nothing."""

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Nothing."""


def one(number: int) -> list[Record]:
    """About 300 bytes, as a plain step's message."""
    event = Event(type="command.issued", step="load", command_id="7421.load.1.1")
    return [Record(execution_id=str(number), events=[event], cause="x" * 180)]


class Meter:
    """Rate and this process's CPU time of a stretch of work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, count: int) -> None:
        """Print the line."""
        wall = time.perf_counter() - self._wall
        cpu = time.process_time() - self._cpu
        print(
            f"{self._name:42} {count / wall:10,.0f}/s {cpu / count * 1e6:7.1f} us/message"
        )


async def append_rate(bus: NatsBus, name: str, epoch: int, pool: str) -> None:
    """A window of appends on the way at all times."""
    meter = Meter(f"append, window {WINDOW}, {name}")
    pending: list[object] = []
    for number in range(COUNT):
        pending.append(
            bus.log.append(
                Shard(1),
                one(number),
                message_id=f"{name}{number}",
                epoch=epoch,
                pool=pool,
            )
        )
        if len(pending) >= WINDOW:
            for promise in pending[: WINDOW // 2]:
                await promise  # type: ignore[misc]
            del pending[: WINDOW // 2]
    for promise in pending:
        await promise  # type: ignore[misc]
    meter.stop(COUNT)


async def follow_rate(bus: NatsBus, name: str, after: int, count: int) -> None:
    """Read the log from a place."""
    meter = Meter(f"follow, {name}")
    seen = 0
    stream = bus.log.follow(None, after=after)
    while seen < count:
        seen += len(await anext(stream))
    meter.stop(seen)
    await stream.aclose()  # type: ignore[attr-defined]


async def pull_rate(bus: NatsBus, slots: int, count: int) -> int:
    """Take at least so many commands and acknowledge them at once; how many."""
    meter = Meter(f"pull and ack, {slots} slots")
    done = 0
    stream = bus.commands.pull(["bench"], slots)
    while done < count:
        for delivery in await anext(stream):
            delivery.ack()
            done += 1
    meter.stop(done)
    await stream.aclose()  # type: ignore[attr-defined]
    return done


async def hop_latency(bus: NatsBus, settings: BusSettings) -> None:
    """A command there, its result back: two hops, halved."""
    with peer(settings):
        stream = bus.log.follow([Shard(3)], after=(await bus.log.info()).last_sequence)
        answers: asyncio.Queue[float] = asyncio.Queue()

        async def read() -> None:
            async for batch in stream:
                for message in batch:
                    if message.kind == "events":
                        answers.put_nowait(time.perf_counter())

        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read())
            times: list[float] = []
            for number in range(HOPS + 100):
                begun = time.perf_counter()
                bus.log.append(
                    Shard(3), one(number), message_id=f"h{number}", pool="hop"
                )
                times.append((await answers.get() - begun) / 2 * 1000)
            reading.cancel()
        times = sorted(times[100:])
        print(
            f"{'one hop, at rest':42} p50 {statistics.median(times):.3f} ms, "
            f"p90 {times[int(len(times) * 0.9)]:.3f}, "
            f"p99 {times[int(len(times) * 0.99)]:.3f}"
        )


async def echo(settings: BusSettings) -> None:
    """The other process: answers each command with a record."""
    async with NatsBus.connect(settings, Quiet()) as bus:
        async for batch in bus.commands.pull(["hop"], 8):
            for delivery in batch:
                await bus.log.append(
                    delivery.shard,
                    one(delivery.sequence),
                    message_id=f"r{delivery.sequence}",
                )
                delivery.ack()


@contextlib.contextmanager
def peer(settings: BusSettings) -> Iterator[None]:
    """Run :func:`echo` beside us."""
    arguments = [sys.executable, "-m", "bench.bus", "--echo", "--url", settings.urls]
    if "--uvloop" in sys.argv:
        arguments.append("--uvloop")
    process = subprocess.Popen(arguments)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def measure(settings: BusSettings) -> None:
    """Every figure, in turn."""
    async with (
        NatsBus.connect(settings, Quiet()) as bus,
        NatsBus.connect(settings, Quiet()) as reader,
    ):
        await bus.ensure_log(create=True)
        await hop_latency(bus, settings)
        begin = (await bus.log.info()).last_sequence
        await append_rate(bus, "commands", 0, "bench")
        epoch = await bus.log.take_lease(Shard(1), "bench", "")
        await append_rate(bus, "fenced commands", epoch, "other")
        await append_rate(bus, "records sharing messages", 0, "")
        last = (await bus.log.info()).last_sequence
        await follow_rate(reader, "replay", begin, last - begin)
        taken = await pull_rate(reader, 4, 10_000)
        await pull_rate(reader, 256, COUNT - taken)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--echo", action="store_true")
    options = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
    run: Callable[..., None] = uvloop.run if options.uvloop else asyncio.run
    settings = BusSettings(urls=options.url)
    if options.echo:
        run(echo(settings))
    elif options.url:
        run(measure(settings))
    else:
        with tempfile.TemporaryDirectory() as folder:
            server = NatsServer(Path(folder))
            server.start()
            try:
                run(measure(BusSettings(urls=server.url)))
            finally:
                server.stop()


if __name__ == "__main__":
    main()
