"""The workloads W1 to W4 on a real fleet: broker, database and every role a process.

Each function drives one workload through the public HTTP edge and gives its figures;
``python -m bench`` runs them all and writes ``bench/results/latest.json``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import asyncpg
import httpx

CHAIN = 10


def chain(kind: str) -> str:
    """A playbook of ten chained steps."""
    tool = {"noop": "{kind: noop}", "python": '{kind: python, code: "result = 1"}'}[
        kind
    ]
    steps = []
    for number in range(CHAIN):
        name = "start" if number == 0 else f"s{number}"
        following = f", next: s{number + 1}" if number < CHAIN - 1 else ""
        steps.append(f"  - {{step: {name}, tool: {tool}{following}}}")
    return _document(f"bench/chain_{kind}", steps)


def fan(width: int, window: int | None = None) -> str:
    """A parallel loop and a reduce step."""
    spec = "mode: parallel" + (f", max_in_flight: {window}" if window else "")
    return _document(
        f"bench/fan_{width}",
        [
            "  - step: start",
            f"    loop: {{in: '{{{{ range({width}) }}}}', iterator: n, spec: {{{spec}}}}}",
            "    tool: {kind: noop, result: '{{ n }}'}",
            "    next: reduce",
            "  - {step: reduce, tool: {kind: noop, result: '{{ start.results | sum }}'}}",
        ],
    )


def _document(path: str, steps: list[str]) -> str:
    head = (
        "apiVersion: noetl.io/v2\nkind: Playbook\n"
        f"metadata: {{name: {path.replace('/', '_')}, path: {path}}}\nworkflow:\n"
    )
    return head + "\n".join(steps) + "\n"


class Fleet:
    """A running fleet as a client and a database reader see it."""

    def __init__(self, server_url: str, dsn: str) -> None:
        self._http = httpx.AsyncClient(base_url=server_url, timeout=60)
        self._dsn = dsn

    async def register(self, text: str) -> str:
        """Register a playbook; its path."""
        answer = await self._http.post("/api/catalog/register", json={"content": text})
        answer.raise_for_status()
        return str(answer.json()["path"])

    async def execute(self, path: str) -> str:
        """Start one execution; its id."""
        answer = await self._http.post("/api/execute", json={"path": path})
        answer.raise_for_status()
        return str(answer.json()["execution_id"])

    async def execute_many(self, path: str, count: int) -> list[str]:
        """Start many executions with one request per hundred."""
        ids: list[str] = []
        while len(ids) < count:
            some = min(100, count - len(ids))
            body = {"executions": [{"path": path}] * some}
            answer = await self._http.post("/api/execute/batch", json=body)
            answer.raise_for_status()
            ids += [str(one["execution_id"]) for one in answer.json()["results"]]
        return ids

    async def wait_terminal(self, execution_id: str) -> str:
        """The type of the terminal event, as the live stream tells it."""
        path = f"/api/executions/{execution_id}/stream"
        async with self._http.stream("GET", path) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("event: playbook") and "started" not in line:
                    return line.removeprefix("event: ").strip()
        raise RuntimeError(f"the stream of {execution_id} ended without a terminal")

    async def wait_rows(self, path: str, count: int) -> None:
        """Until that many executions of a path are terminal in PostgreSQL."""
        connection = await asyncpg.connect(self._dsn)
        query = (
            "SELECT count(*) FROM noetl.execution WHERE path = $1 AND status = ANY($2)"
        )
        try:
            while True:
                done = await connection.fetchval(query, path, ["COMPLETED", "FAILED"])
                if done >= count:
                    return
                await anyio.sleep(0.01)
        finally:
            await connection.close()

    async def failed(self, path: str) -> int:
        """Executions of a path that did not complete."""
        connection = await asyncpg.connect(self._dsn)
        query = "SELECT count(*) FROM noetl.execution WHERE path = $1 AND status <> 'COMPLETED'"
        try:
            return int(await connection.fetchval(query, path))
        finally:
            await connection.close()

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """CPU used so far by each process and the children it waited for or has."""
    tick = 100.0
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        used[pid] = (int(fields[11]) + int(fields[12])) / tick
    roots = {pid: name for name, pid in pids.items()}
    totals = dict.fromkeys(pids, 0.0)
    for pid, seconds in used.items():
        ancestor = pid
        while ancestor not in roots and parents.get(ancestor, 0) > 1:
            ancestor = parents[ancestor]
        if ancestor in roots:
            totals[roots[ancestor]] += seconds
    return totals


async def w1(fleet: Fleet, runs: int) -> dict[str, float]:
    """One execution at a time, submit to terminal event at the client."""
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


async def w2(
    fleet: Fleet, kind: str, count: int, cpu: Callable[[], dict[str, float]]
) -> dict[str, Any]:
    """Many executions at once; the clock stops when the last row is written."""
    text = chain(kind).replace(f"chain_{kind}", f"flood_{kind}_{time.time_ns()}")
    path = await fleet.register(text)
    before = cpu()
    begun = time.perf_counter()
    await fleet.execute_many(path, count)
    await fleet.wait_rows(path, count)
    seconds = time.perf_counter() - begun
    after = cpu()
    steps = count * CHAIN
    if await fleet.failed(path):
        raise RuntimeError(f"executions of {path} failed")
    per_step = {name: (after[name] - before[name]) / steps * 1e6 for name in after}
    return {
        "steps_per_s": steps / seconds,
        "seconds": seconds,
        "cpu_us_per_step": {name: round(us, 1) for name, us in per_step.items()},
    }


async def w3(fleet: Fleet, width: int, window: int | None = None) -> dict[str, float]:
    """One execution: a parallel loop and a reduce step; the median of five."""
    path = await fleet.register(fan(width, window))
    times = []
    for _ in range(6):
        begun = time.perf_counter()
        execution = await fleet.execute(path)
        ended = await fleet.wait_terminal(execution)
        times.append(time.perf_counter() - begun)
        if ended != "playbook.completed":
            raise RuntimeError(f"{execution} ended with {ended}")
    return {"seconds": median(times[1:])}


def write_results(results: dict[str, Any], path: Path) -> None:
    """Results as JSON for machines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
