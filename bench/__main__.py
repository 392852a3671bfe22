"""``python -m bench``: the numbers of the product on this machine, in one run.

--sync always     the broker syncs every append to disk
--only w1,w2      some workloads
--out FILE        where the figures go (bench/results/latest.json)
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import asyncpg

from bench.filled_log import fill
from bench.fleet import Fleet, chain, cpu_seconds, w1, w2, w3, write_results
from bench.transfer import transfer
from noetl_worker.bus.topology import BusSettings
from noetl_worker.dev.stack import Stack, StackOptions

SLOTS = "64"
ALL = ("w1", "w2", "w2_python", "w3", "w4", "w5", "w6", "transfer")


def options(data: Path, sync: str, **replicas: int) -> StackOptions:
    """A fleet of one process per role."""
    return StackOptions(
        data=data,
        environ={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
        env={
            "NOETL_WORKER_SLOTS": SLOTS,
            "NOETL_PYTHON_CHILDREN": "2",
            "LOG_LEVEL": "WARNING",
        },
        replicas={"server": 1, "system": 1, "worker": 1, "materializer": 1, **replicas},  # type: ignore[dict-item]
        sync_interval=sync,
    )


async def live(data: Path, sync: str, only: set[str]) -> dict[str, Any]:
    """Workloads on a whole fleet."""
    results: dict[str, Any] = {}
    async with Stack(options(data, sync)) as stack:
        fleet = Fleet(stack.server_url, stack.postgres_dsn)
        cpu = partial(lambda found: cpu_seconds(found.pids()), stack)
        try:
            if "w1" in only:
                results["w1"] = await w1(fleet, 200)
            if "w2" in only:
                await w2(fleet, "noop", 50, cpu)
                results["w2"] = await w2(fleet, "noop", 500, cpu)
            if "w2_python" in only:
                await w2(fleet, "python", 20, cpu)
                results["w2_python"] = await w2(fleet, "python", 500, cpu)
            if "w3" in only:
                results["w3"] = await w3(fleet, 1000)
            if "w6" in only:
                results["w6"] = await w3(fleet, 10_000, 500)
            if "transfer" in only:
                results["transfer"] = await transfer(stack.postgres_dsn, data)
        finally:
            await fleet.close()
    return results


async def history(data: Path, sync: str) -> dict[str, Any]:
    """W4 and W5: a system worker and a materializer boot on a log of 100,000 events."""
    results: dict[str, Any] = {}
    async with Stack(options(data, sync, system=0, worker=0, materializer=0)) as stack:
        fleet = Fleet(stack.server_url, stack.postgres_dsn)
        text = chain("noop").replace(
            "metadata: {", "metadata: {execution_pool: nobody, "
        )
        await fleet.register(text)
        connection = await asyncpg.connect(stack.postgres_dsn)
        catalog_id = await connection.fetchval(
            "SELECT max(catalog_id) FROM noetl.catalog"
        )
        settings = BusSettings(urls=stack.nats_url)
        events = await fill(settings, text, str(catalog_id), 5000, 200_000)
        begun = time.perf_counter()
        await stack.start_role("system")
        seconds = time.perf_counter() - begun
        results["w4"] = {
            "seconds": seconds,
            "rss_mb": rss_mb(stack.pids()["system"]),
            "events": events,
        }
        await stack.stop_role("system")
        begun = time.perf_counter()
        before = cpu_seconds(stack.pids())
        await stack.start_role("materializer")
        rows = 0
        while rows < events:
            await anyio.sleep(0.05)
            rows = await connection.fetchval("SELECT count(*) FROM noetl.event")
        seconds = time.perf_counter() - begun
        after = cpu_seconds(stack.pids())
        results["w5"] = {
            "rows_per_s": rows / seconds,
            "seconds": seconds,
            "cpu_us_per_row": {
                name: round((after[name] - before.get(name, 0)) / rows * 1e6, 1)
                for name in ("materializer", "postgres", "nats")
                if name in after
            },
        }
        await connection.close()
        await fleet.close()
    return results


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sync", default="2m")
    parser.add_argument("--only", default=",".join(ALL))
    parser.add_argument("--out", default="bench/results/latest.json")
    chosen = parser.parse_args()
    only = set(chosen.only.split(","))
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.platform()}",
        "python": platform.python_version(),
        "sync": chosen.sync,
    }
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
        data = Path(folder)
        if only - {"w4", "w5"}:
            results |= anyio.run(live, data / "live", chosen.sync, only)
        if only & {"w4", "w5"}:
            results |= anyio.run(history, data / "history", chosen.sync)
    write_results(results, Path(chosen.out))
    show(results)


def show(results: dict[str, Any], prefix: str = "") -> None:
    """Figures, a line each."""
    for name, value in results.items():
        if isinstance(value, dict):
            show(value, f"{prefix}{name}.")
        else:
            text = f"{value:.2f}" if isinstance(value, float) else str(value)
            print(f"{prefix}{name:<24} {text}")


if __name__ == "__main__":
    main()
