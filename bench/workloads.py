"""The workloads on a real fleet: broker, database and every role a process.

Each drives its work through the public HTTP edge. A clock that counts steps or rows
stops when the last row is in PostgreSQL.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import anyio
import asyncpg

from bench.filled_log import fill
from bench.fleet import Fleet, Meter, rss_mb
from bench.playbooks import CHAIN, chain, fan, pipe, waiting
from noetl_worker.bus.topology import BusSettings
from noetl_worker.dev import Stack

Figures = dict[str, Any]


async def one_at_a_time(fleet: Fleet, runs: int) -> Figures:
    """W1: submit to terminal event at the client, ten steps."""
    path = await fleet.register(chain("noop"))
    times: list[float] = []
    for number in range(runs + 20):
        begun = time.perf_counter()
        execution = await fleet.execute(path)
        await fleet.wait_terminal(execution)
        if number >= 20:
            times.append((time.perf_counter() - begun) * 1000)
    times.sort()
    return {"p50_ms": median(times), "p99_ms": times[int(len(times) * 0.99) - 1]}


async def flood(fleet: Fleet, kind: str, count: int, url: str = "") -> Figures:
    """W2: many chains at once; a small flood before warms the fleet up."""
    workload = {"url": url} if url else {}
    for size in (count // 10, count):
        text = chain(kind, name=f"flood_{kind}_{size}_{time.time_ns()}")
        path = await fleet.register(text)
        async with Meter(fleet) as meter:
            await fleet.execute_many(path, size, workload)
            await fleet.wait_rows(path, size)
    return await meter.per("step", count * CHAIN)


async def loop(
    fleet: Fleet, width: int, window: int | None = None, *, runs: int = 5
) -> Figures:
    """W3, W6: one execution, a parallel loop and a reduce step; the median."""
    path = await fleet.register(fan(width, window))
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        execution = await fleet.execute(path)
        ended = await fleet.wait_terminal(execution)
        times.append(time.perf_counter() - begun)
        if ended != "playbook.completed":
            raise RuntimeError(f"{execution} ended with {ended}")
    return {"seconds": median(times)}


async def rows(fleet: Fleet, database: str, url: str, count: int) -> Figures:
    """W7: a cursor loop from table to table with an HTTP call for each row."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "CREATE TABLE pipe_in (id bigint PRIMARY KEY, taken boolean NOT NULL);"
            "CREATE INDEX pipe_free ON pipe_in (id) WHERE NOT taken;"
            "CREATE TABLE pipe_out (id bigint PRIMARY KEY, value bigint NOT NULL)"
        )
        numbers = [(number, False) for number in range(count)]
        await connection.copy_records_to_table("pipe_in", records=numbers)
        path = await fleet.register(pipe())
        async with Meter(fleet) as meter:
            await fleet.execute(path, {"database": database, "url": url})
            await fleet.wait_rows(path, 1)
        found = await connection.fetchval("SELECT count(*) FROM pipe_out")
    finally:
        await connection.close()
    if found != count:
        raise RuntimeError(f"{found} of {count} rows arrived")
    return await meter.per("row", count)


async def timers(fleet: Fleet, count: int) -> Figures:
    """Executions that wait for an hour: memory, CPU; and how late timers fire."""
    owner = fleet.pids()["system"]
    path = await fleet.register(waiting("an_hour", 3600))
    before = rss_mb(owner)
    await fleet.execute_many(path, count)
    query = "SELECT count(*) FROM noetl.event WHERE event_type = 'timer.set'"
    while await fleet.rows.fetchval(query) < count:  # noqa: ASYNC110 - rows are asked
        await anyio.sleep(0.05)
    grown = rss_mb(owner) - before
    cpu, begun = fleet.cpu()["system"], time.perf_counter()
    await anyio.sleep(3)
    busy = (fleet.cpu()["system"] - cpu) / (time.perf_counter() - begun)
    late = await lateness_ms(fleet, 20)
    return {"waiting_mb": grown, "idle_cpu_percent": busy * 100, "late_ms": late}


async def lateness_ms(fleet: Fleet, count: int) -> float:
    """The most a timer of a second was late, as the log tells."""
    path = await fleet.register(waiting("a_second", 1))
    await fleet.execute_many(path, count)
    await fleet.wait_rows(path, count, "FAILED")
    late = await fleet.rows.fetchval(
        "SELECT max(extract(epoch FROM end_time - start_time)) * 1000 - 1000 "
        "FROM noetl.execution WHERE path = $1",
        path,
    )
    return float(late)


async def history(stack: Stack, fleet: Fleet) -> dict[str, Figures]:
    """W4, W5: owner and materializer start on 100,000 events, half of them open."""
    path = await fleet.register(chain("noop", 4, name="history", pool="nobody"))
    query = "SELECT catalog_id, content FROM noetl.catalog WHERE path = $1"
    catalog_id, text = await fleet.rows.fetchrow(query, path)
    bus = BusSettings(urls=stack.nats_url)
    events = await fill(bus, text, str(catalog_id), executions=5000)
    begun = time.perf_counter()
    await stack.start_role("system")
    boot = {
        "seconds": time.perf_counter() - begun,
        "rss_mb": rss_mb(fleet.pids()["system"]),
        "events": events,
    }
    await stack.stop_role("system")
    before, begun = fleet.cpu(), time.perf_counter()
    await stack.start_role("materializer")
    stored = 0
    while stored < events:
        await anyio.sleep(0.02)
        stored = await fleet.rows.fetchval("SELECT count(*) FROM noetl.event")
    seconds, after = time.perf_counter() - begun, fleet.cpu()
    names = ("materializer", "postgres", "nats")
    used = {
        name: round((after[name] - before.get(name, 0.0)) / stored * 1e6, 1)
        for name in names
    }
    rate = {"rows_per_s": stored / seconds, "cpu_us_per_row": used}
    return {"w4": boot, "w5": rate}
