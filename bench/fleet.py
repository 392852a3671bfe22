"""A running fleet as a client, a database reader and ``/proc`` see it.

The client is aiohttp, with its parser in C: client and fleet share the cores, and what
a client costs is not the fleet's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
import anyio
import asyncpg

_TICKS = os.sysconf("SC_CLK_TCK")


class Fleet:
    """Starts executions over HTTP and watches what becomes of them.

    Attributes:
        rows: a connection to the platform's database.
    """

    rows: asyncpg.Connection[asyncpg.Record]
    _http: aiohttp.ClientSession

    def __init__(self, url: str, dsn: str, pids: Callable[[], dict[str, int]]) -> None:
        self._url = url
        self._dsn = dsn
        self.pids = pids

    async def __aenter__(self) -> Self:
        self.rows = await asyncpg.connect(self._dsn)
        self._http = aiohttp.ClientSession(self._url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.rows.close()
        await self._http.close()

    async def register(self, text: str) -> str:
        """Register a playbook; its path."""
        answer = await self._post("/api/catalog/register", {"content": text})
        return str(answer["path"])

    async def execute(self, path: str, workload: dict[str, Any] | None = None) -> str:
        """Start one execution; its id."""
        body = {"path": path, "workload": workload or {}}
        return str((await self._post("/api/execute", body))["execution_id"])

    async def execute_many(
        self, path: str, count: int, workload: dict[str, Any] | None = None
    ) -> None:
        """Start many executions with one request per hundred."""
        one = {"path": path, "workload": workload or {}}
        for first in range(0, count, 100):
            body = {"executions": [one] * min(100, count - first)}
            await self._post("/api/execute/batch", body)

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._http.post(path, json=body) as answer:
            if answer.status >= 400:
                raise RuntimeError(f"{path}: {answer.status} {await answer.text()}")
            found: dict[str, Any] = await answer.json()
            return found

    async def wait_terminal(self, execution_id: str) -> str:
        """The type of the terminal event, as the live stream tells it."""
        path = f"/api/executions/{execution_id}/stream?types=terminal"
        ended = ""
        async with self._http.get(path) as stream:
            # To its end, so that the connection serves again.
            async for line in stream.content:
                if line.startswith(b"event: playbook"):
                    ended = line.decode().removeprefix("event: ").strip()
        if ended:
            return ended
        raise RuntimeError(f"the stream of {execution_id} ended without a terminal")

    async def wait_rows(self, path: str, count: int, status: str = "COMPLETED") -> None:
        """Until that many executions of a path ended, by their rows, and rightly."""
        query = (
            "SELECT count(*) FILTER (WHERE status = $2), count(*) "
            "FROM noetl.execution WHERE path = $1 AND end_time IS NOT NULL"
        )
        right = ended = 0
        while ended < count:
            right, ended = await self.rows.fetchrow(query, path, status)
            await anyio.sleep(0.02)
        if right < count:
            raise RuntimeError(f"{count - right} executions of {path} are not {status}")

    async def messages(self) -> int:
        """Messages in the log so far, as the newest row's id tells."""
        last = await self.rows.fetchval("SELECT max(event_id) FROM noetl.event")
        return int(last or 0) >> 10

    def cpu(self) -> dict[str, float]:
        """CPU seconds used so far by each process and its descendants."""
        return cpu_seconds(self.pids())


class Meter:
    """Time, CPU and messages of a stretch of work on a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def __aenter__(self) -> Self:
        self._messages = await self._fleet.messages()
        self._cpu = self._fleet.cpu()
        self._begun = time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begun
        self._after = self._fleet.cpu()

    async def per(self, unit: str, count: int) -> dict[str, Any]:
        """Figures for one of so many steps, calls or rows."""
        used = {
            name: round((self._after[name] - self._cpu.get(name, 0.0)) / count * 1e6, 1)
            for name in self._after
        }
        messages = await self._fleet.messages() - self._messages
        return {
            f"{unit}s_per_s": count / self.seconds,
            f"messages_per_{unit}": messages / count,
            f"cpu_us_per_{unit}": {**used, "all": round(sum(used.values()), 1)},
        }


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """CPU used so far by each process, its children and those it waited for."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        used[pid] = sum(map(int, fields[11:15])) / _TICKS
    roots = {pid: name for name, pid in pids.items()}
    totals = dict.fromkeys(pids, 0.0)
    for pid, seconds in used.items():
        ancestor = pid
        while ancestor not in roots and parents.get(ancestor, 0) > 1:
            ancestor = parents[ancestor]
        if ancestor in roots:
            totals[roots[ancestor]] += seconds
    return totals


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0
