"""``python -m bench``: the numbers of the product on this machine, in one run.

--sync always     every append is on disk before it is acknowledged, in all workloads
--only w1,w2      some workloads
--out FILE        where the figures go (bench/results/latest.json)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import structlog

from bench import workloads
from bench.core import core
from bench.fleet import Fleet
from bench.report import show
from bench.results_store import results as put_and_get
from bench.transfer import transfer
from bench.worker import worker
from noetl_worker.dev import Stack, StackOptions
from noetl_worker.dev.net import free_ports, http_status

ENV = {
    "NOETL_WORKER_SLOTS": "64",
    "NOETL_PYTHON_CHILDREN": "2",
    "LOG_LEVEL": "WARNING",
}
ALWAYS = ("always_w1", "always_w2")
HISTORY = ("w4", "w5")
START = ("start",)
ALONE = ("core", "worker")
LIVE = (
    "w1",
    "w2",
    "w2_python",
    "w2_http",
    "w3",
    "w6",
    "w7",
    "timers",
    "transfer",
    "result",
)
ALL = (*START, *ALONE, *LIVE, *HISTORY, *ALWAYS)

Results = dict[str, Any]
Workload = Callable[[], Awaitable[Any]]


@asynccontextmanager
async def running(sync: str, **replicas: int) -> AsyncIterator[tuple[Stack, Fleet]]:
    """A fleet of one process per role, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="noetl-bench-") as folder:
        options = StackOptions(
            data=Path(folder),
            environ={"PATH": os.environ["PATH"], "HOME": folder},
            env=ENV,
            replicas={"server": 1, "system": 1, "worker": 1, "materializer": 1}
            | replicas,  # type: ignore[arg-type]
            sync_interval=sync,
        )
        async with (
            Stack(options) as stack,
            Fleet(stack.server_url, stack.postgres_dsn, stack.pids) as fleet,
        ):
            yield stack, fleet


@contextmanager
def answering() -> Iterator[int]:
    """A web server to call; its port."""
    port = free_ports(1)[0]
    server = subprocess.Popen([sys.executable, "-m", "bench.web", str(port)])
    try:
        yield port
    finally:
        server.kill()
        server.wait()


async def live(sync: str, only: set[str]) -> Results:
    """Workloads on a whole fleet."""
    results: Results = {}
    with answering() as port:
        url = f"http://127.0.0.1:{port}/"
        async with running(sync) as (stack, fleet):
            while await http_status(port, "/") != 200:  # noqa: ASYNC110 - it starts
                await anyio.sleep(0.02)
            todo: dict[str, Workload] = {
                "w1": partial(workloads.one_at_a_time, fleet, 200),
                "w2": partial(workloads.flood, fleet, "noop", 500),
                "w2_python": partial(workloads.flood, fleet, "python", 300),
                "w2_http": partial(workloads.flood, fleet, "http", 200, url),
                "w3": partial(workloads.loop, fleet, 1000),
                "w6": partial(workloads.loop, fleet, 10_000, 500, runs=2),
                "w7": partial(workloads.rows, fleet, stack.demo_dsn, url, 10_000),
                "timers": partial(workloads.timers, fleet, 1000),
                "result": partial(put_and_get, stack.nats_url),
                "transfer": partial(
                    transfer, stack.postgres_dsn, stack.options.data / "transfer"
                ),
            }
            for name, work in todo.items():
                if name in only:
                    results[name] = await measured(name, work)
    return results


async def durable(only: set[str]) -> Results:
    """W1 and W2 where a PubAck means the disk has it."""
    results: Results = {}
    async with running("always") as (_, fleet):
        if "always_w1" in only:
            work = partial(workloads.one_at_a_time, fleet, 100)
            results["w1"] = await measured("always.w1", work)
        if "always_w2" in only:
            work = partial(workloads.flood, fleet, "noop", 300)
            results["w2"] = await measured("always.w2", work)
    return results


async def history(sync: str) -> Results:
    """W4, W5: on a fleet that has only a server yet."""
    async with running(sync, system=0, worker=0, materializer=0) as (stack, fleet):
        work = partial(workloads.history, stack, fleet)
        found: Results = await measured("w4, w5", work)
        return found


async def start(sync: str) -> Results:
    """A stack that is started in an empty folder, and again."""
    found: Results = {}
    with tempfile.TemporaryDirectory(prefix="noetl-bench-") as folder:
        for name in ("first_s", "second_s"):
            options = StackOptions(
                data=Path(folder),
                environ={"PATH": os.environ["PATH"], "HOME": folder},
                sync_interval=sync,
            )
            began = time.perf_counter()
            async with Stack(options):
                found[name] = time.perf_counter() - began
    return found


async def measured(name: str, work: Workload) -> Any:
    """Say what is measured; one that fails says so and the others go on."""
    print(f"{name} …", file=sys.stderr, flush=True)
    try:
        return await work()
    except (RuntimeError, OSError) as error:
        print(f"{name} failed: {error}", file=sys.stderr)
        return {"failed": str(error)}


def main() -> None:
    """Parse, measure, write, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sync", default="2m")
    parser.add_argument("--only", default=",".join(ALL))
    parser.add_argument("--out", default="bench/results/latest.json", type=Path)
    chosen = parser.parse_args()
    only = set(chosen.only.split(","))
    if only - set(ALL):
        parser.error(f"--only {','.join(only - set(ALL))}: known are {', '.join(ALL)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    # The client runs as the fleet does.
    run = partial(anyio.run, backend_options={"use_uvloop": True})
    results: Results = {
        "machine": f"{os.cpu_count()} cores, {platform.platform()}",
        "python": platform.python_version(),
        "sync": chosen.sync,
    }
    if only & set(START):
        print("start …", file=sys.stderr, flush=True)
        results["start"] = run(start, chosen.sync)
    for name, alone in (("core", core), ("worker", worker)):
        if name in only:
            print(f"{name} …", file=sys.stderr, flush=True)
            results[name] = alone()
    if only & set(LIVE):
        results |= run(live, chosen.sync, only)
    if only & set(HISTORY):
        results |= run(history, chosen.sync)
    if only & set(ALWAYS):
        results["always"] = run(durable, only)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(results, indent=2) + "\n")
    show(results)


if __name__ == "__main__":
    main()
