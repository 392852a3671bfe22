"""What the acceptance tests do with a running fleet: playbooks, effects, invariants."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import nats
from invariants import violations
from nats.js.api import ConsumerConfig

from noetl_worker.client import ClientOptions, NoetlClient
from noetl_worker.dev.stack import Stack, StackOptions

PATIENCE_S = 60.0
EPOCH = "Nats-Expected-Last-Subject-Sequence"
"""The header a decision names its owner's lease in."""
TERMINAL = ("COMPLETED", "FAILED", "CANCELLED")

HEAD = """apiVersion: noetl.io/v2
kind: Playbook
metadata: {{name: {name}, path: {path}}}
workload: {{dsn: "", n: 3}}
workflow:
"""

EFFECT = (
    "{{kind: postgres, connection_string: '{{{{ workload.dsn }}}}', query: "
    '"INSERT INTO effect (execution_id, step, item) VALUES '
    "('{{{{ execution_id }}}}', '{step}', '{item}')\"}}"
)


def effect(step: str, item: str = "-") -> str:
    """A postgres tool that leaves a row saying that the step ran."""
    return EFFECT.format(step=step, item=item)


def playbook(path: str, steps: str) -> str:
    """A document around some steps."""
    return HEAD.format(name=path.replace("/", "_"), path=path) + steps


MIXED: dict[str, tuple[str, str, int]] = {
    # path: (steps, expected status, effects every execution must leave)
    "mixed/chain": (
        f"""
  - {{step: start, tool: {effect("start")}, next: b}}
  - {{step: b, tool: {effect("b")}, next: c}}
  - {{step: c, tool: {effect("c")}}}
""",
        "COMPLETED",
        3,
    ),
    "mixed/fan": (
        f"""
  - step: start
    loop: {{in: "{{{{ range(workload.n) }}}}", iterator: i, spec: {{mode: parallel}}}}
    tool: {effect("start", "{{ i }}")}
    next: done
  - {{step: done, tool: {effect("done")}}}
""",
        "COMPLETED",
        4,
    ),
    "mixed/join": (
        f"""
  - {{step: start, tool: {{kind: noop}}, next: [left, right]}}
  - {{step: left, tool: {effect("left")}, next: both}}
  - {{step: right, tool: {{kind: python, code: "result = {{'n': 1}}"}}, next: both}}
  - {{step: both, tool: {effect("both")}}}
""",
        "COMPLETED",
        2,
    ),
    "mixed/handled": (
        f"""
  - step: start
    tool: {{kind: python, code: "raise ValueError('wanted')"}}
    next: {{arcs: [{{step: mend, when: "{{{{ event.name == 'call.error' }}}}"}}]}}
  - {{step: mend, tool: {effect("mend")}}}
""",
        "COMPLETED",
        1,
    ),
    "mixed/broken": (
        f"""
  - {{step: start, tool: {effect("start")}, next: bad}}
  - {{step: bad, tool: {{kind: python, code: "raise ValueError('wanted')"}}}}
""",
        "FAILED",
        1,
    ),
}


class Fleet:
    """A stack, a client of its server, a connection to each of its databases."""

    def __init__(self, stack: Stack, client: NoetlClient) -> None:
        self.stack = stack
        self.client = client

    async def rows(self, query: str, *values: Any, demo: bool = False) -> list[Any]:
        """Rows of a query; of the playbooks' database with ``demo``."""
        dsn = self.stack.demo_dsn if demo else self.stack.postgres_dsn
        connection = await asyncpg.connect(dsn)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def prepare(self) -> None:
        """Table of effects, and every mixed playbook registered."""
        await self.rows(
            "CREATE TABLE IF NOT EXISTS effect (execution_id text, step text, item text)",
            demo=True,
        )
        for path, (steps, _, _) in MIXED.items():
            await self.client.register(playbook(path, steps))

    async def start(self, path: str, **workload: Any) -> str:
        """Start an execution, again and again while the platform is away."""
        data = {"dsn": self.stack.demo_dsn, **workload}
        answer = await patiently(lambda: self.client.execute(path, data))
        return str(answer["execution_id"])

    async def ended(self, execution_ids: list[str]) -> dict[str, str]:
        """Statuses once every one of them is terminal in PostgreSQL."""
        query = (
            "SELECT execution_id::text, status FROM noetl.execution "
            "WHERE execution_id = ANY($1::bigint[])"
        )
        wanted = [int(eid) for eid in execution_ids]
        found: dict[str, str] = {}

        async def all_ended() -> bool:
            rows = await patiently(lambda: self.rows(query, wanted))
            found.update({row[0]: row[1] for row in rows})
            return all(found.get(eid) in TERMINAL for eid in execution_ids)

        await until(all_ended, lambda: f"open: {self._open(found, execution_ids)}")
        return found

    def _open(self, found: dict[str, str], wanted: list[str]) -> list[str]:
        return [eid for eid in wanted if found.get(eid) not in TERMINAL][:10]

    async def effects(self, execution_ids: list[str]) -> dict[str, list[str]]:
        """The different effects each execution left."""
        rows = await self.rows(
            "SELECT execution_id, array_agg(DISTINCT step || item ORDER BY step || item)"
            " FROM effect WHERE execution_id = ANY ($1) GROUP BY 1",
            execution_ids,
            demo=True,
        )
        return {eid: [] for eid in execution_ids} | {row[0]: row[1] for row in rows}

    async def violations(self, execution_ids: Sequence[str | int]) -> list[str]:
        """What does not hold of the rows of these executions (runtime.md §3.5)."""
        connection = await asyncpg.connect(self.stack.postgres_dsn)
        try:
            return await violations(connection, execution_ids)
        finally:
            await connection.close()


async def decisions(found: Fleet) -> tuple[int, list[int], int]:
    """How many decisions the log holds, those of an owner that was none any more when
    they were stored, and the place of the newest lease."""
    leases: dict[str, int] = {}
    count, late = 0, []
    client = await nats.connect(found.stack.nats_url)
    try:
        stream = client.jetstream()
        config = ConsumerConfig(headers_only=True)
        reader = await stream.subscribe(
            "noetl.>", ordered_consumer=True, stream="noetl_events", config=config
        )
        while True:
            message = await reader.next_msg(timeout=10)
            place = message.metadata
            epoch = (message.headers or {}).get(EPOCH)
            if message.subject.startswith("noetl.lease."):
                leases[message.subject] = place.sequence.stream
            elif epoch is not None:
                shard = (message.headers or {})[f"{EPOCH}-Subject"]
                # The log may begin behind the first lease.
                current = leases.setdefault(shard, int(epoch))
                count += 1
                if current != int(epoch):
                    late.append(place.sequence.stream)
            if place.num_pending == 0:
                return count, late, max(leases.values(), default=0)
    finally:
        await client.close()


async def patiently(call: Callable[[], Awaitable[Any]]) -> Any:
    """The answer of a call, tried again while what it needs is away."""
    from noetl_worker.client import UnavailableError

    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                return await call()
            except (UnavailableError, OSError, asyncpg.PostgresError):
                await anyio.sleep(0.1)


async def until(
    holds: Callable[[], Awaitable[bool]], why: Callable[[], str], within_s: float = 0
) -> None:
    """Wait for a condition; fail with a reason when it does not come."""
    with anyio.move_on_after(within_s or PATIENCE_S):
        while True:
            if await holds():
                return
            await anyio.sleep(0.05)
    raise AssertionError(f"did not happen within {within_s or PATIENCE_S} s: {why()}")


@asynccontextmanager
async def fleet(
    data: Path, *, env: dict[str, str] | None = None, **replicas: int
) -> AsyncIterator[Fleet]:
    """A fresh fleet with some replicas of some roles."""
    counts = {"server": 1, "system": 1, "worker": 1, "materializer": 1, **replicas}
    options = StackOptions(
        data=data,
        environ={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
        env=env or {},
        replicas=counts,  # type: ignore[arg-type]
    )
    async with Stack(options) as stack:
        async with NoetlClient(ClientOptions(url=stack.server_url)) as client:
            found = Fleet(stack, client)
            await found.prepare()
            yield found
