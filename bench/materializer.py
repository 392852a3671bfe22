"""W5: the materializer alone on a real PostgreSQL (``materializer.*``).

Executions of ten plain steps lie in a log, many at once, as a busy fleet interleaves
them; a materializer starts on empty tables and catches up. Figures: event rows a
second, and CPU microseconds per event row and per step, of this process and of all of
PostgreSQL's.

    python -m bench.materializer [executions [messages per batch]]
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import asyncpg
import uvloop
from msgspec import Raw

from materializer.daemon import Materializer, MaterializerPorts, MaterializerSettings
from materializer.postgres import (
    Database,
    DatabaseSettings,
    PostgresRows,
    PostgresTables,
)
from state_builder.ids import Shard, snowflake
from state_builder.ports import LogInfo, LogMessage
from state_builder.records import (
    CommandContext,
    Event,
    Genesis,
    Record,
    encode_append,
    encode_json,
    timestamp,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from pg_service import OPTIONS, PgServer

STEPS = 10
AT_ONCE = 200
FOLLOW = 500
NOW_S = 1_798_000_000.0

_RESULT = encode_json(
    {
        "status": "success",
        "context": {
            "form": "plain",
            "data": {"status": "ok", "rows": list(range(12)), "text": "y" * 120},
            "runs": 1,
            "duration_ms": 1.25,
        },
    }
)
_CONTEXT = encode_json(
    CommandContext(
        tool_config=Raw(
            encode_json({"kind": "python", "code": "def main(x):\n    return {}\n" * 6})
        ),
        args=Raw(encode_json({"x": "{{ previous.value }}", "limit": 10})),
        render_context=Raw(
            encode_json({"workload": {"a": 1, "b": "two"}, "steps": {"previous": {}}})
        ),
        timeout_s=300.0,
    )
)


def execution(number: int) -> list[Record]:
    """The messages of one execution, a record each, in their order."""
    eid = str(snowflake(int(NOW_S * 1000) + number // 4000, 7, number % 4000))
    at = timestamp(NOW_S)
    genesis = Genesis(
        catalog_id="7001",
        path="bench/ten_steps",
        version=3,
        workload=Raw(encode_json({"a": 1, "b": "two", "items": list(range(20))})),
    )
    start = Event(
        type="playbook_started",
        at=at,
        status="STARTED",
        context=Raw(encode_json(genesis)),
    )
    records = [Record(execution_id=eid, events=[start])]
    exits: list[Event] = []
    meta = Raw(encode_json({"path": "bench/ten_steps", "catalog_id": "7001"}))
    for step in range(STEPS):
        name = f"step_{step}"
        command_id = f"{eid}.{name}.1.1"
        enter = Event(type="step.enter", at=at, step=name, visit=1, status="ENTERED")
        issued = Event(
            type="command.issued",
            at=at,
            step=name,
            visit=1,
            kind="python",
            status="PENDING",
            command_id=command_id,
            attempt=1,
            pool="shared",
            context=Raw(_CONTEXT),
            meta=meta,
        )
        passed = [*exits, enter, issued]
        records.append(Record(execution_id=eid, events=passed, cause="1024"))
        records.append(Record(execution_id=eid, events=_answer(name, command_id, at)))
        exits = [Event(type="step.exit", at=at, step=name, visit=1, status="COMPLETED")]
    end = Event(
        type="playbook.completed", at=at, status="COMPLETED", result=Raw(_RESULT)
    )
    records.append(Record(execution_id=eid, events=[*exits, end]))
    return records


def _answer(step: str, command_id: str, at: str) -> list[Event]:
    common = {"at": at, "step": step, "command_id": command_id, "worker_id": "worker-1"}
    return [
        Event(
            type="command.started", status="STARTED", attempt=1, delivery=1, **common
        ),
        Event(
            type="call.done",
            kind="python",
            status="COMPLETED",
            result=Raw(_RESULT),
            **common,
        ),
        Event(type="command.completed", status="success", attempt=1, **common),
    ]


class FullLog:
    """A log that holds everything already; only what a materializer asks of one."""

    def __init__(self, executions: int) -> None:
        self.messages: list[LogMessage] = []
        self.events = 0
        for first in range(0, executions, AT_ONCE):
            count = min(AT_ONCE, executions - first)
            together = [execution(first + each) for each in range(count)]
            for records in zip(*together, strict=True):
                for record in records:
                    self._store(record)

    def _store(self, record: Record) -> None:
        sequence = len(self.messages) + 1
        data = encode_append([record])
        self.messages.append(LogMessage(sequence, Shard(0), "events", data, NOW_S))
        self.events += len(record.events)

    async def info(self) -> LogInfo:
        return LogInfo(1, len(self.messages), 0, 16, 0, 0, "2026-01-01T00:00:00Z")

    async def read(self, sequence: int) -> LogMessage | None:
        return self.messages[sequence - 1]

    async def follow(
        self, shards: Sequence[Shard] | None, *, after: int, leases: bool = True
    ) -> AsyncIterator[list[LogMessage]]:
        for start in range(after, len(self.messages), FOLLOW):
            yield self.messages[start : start + FOLLOW]
        await anyio.sleep_forever()


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Unobserved:
    """Counts nothing."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def time(self, name: str, seconds: float, **labels: str) -> None: ...


def children_cpu_s(parent: int) -> float:
    """CPU of a process's living children and of those it has waited for."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(stat.parent.name) == parent:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == parent:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / 100.0


async def catch_up(
    full: FullLog, dsn: str, server: PgServer, batch_max: int
) -> dict[str, float]:
    """Materialize all of the log; the figures."""
    async with Database(DatabaseSettings(dsn=dsn)) as database:
        await PostgresTables(database).apply_schema()

        async def settle() -> None: ...

        materializer = Materializer(
            MaterializerPorts(
                log=full,
                rows=PostgresRows(database),
                clock=SystemClock(),
                observer=Unobserved(),
                settle=settle,
            ),
            MaterializerSettings(lag_poll_s=3600.0, batch_max=batch_max),
        )
        stop = anyio.Event()
        own = time.process_time()
        theirs = children_cpu_s(server._process.pid)
        begun = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(materializer.run, stop)
            last = len(full.messages)
            while (  # noqa: ASYNC110 - a poll is what is measured
                materializer.position is None or materializer.position.sequence < last
            ):
                await anyio.sleep(0.01)
            seconds = time.monotonic() - begun
            own = time.process_time() - own
            theirs = children_cpu_s(server._process.pid) - theirs
            stop.set()
    rows = await count_rows(dsn)
    assert rows == full.events, f"{rows} rows of {full.events} events"
    steps = sum(b'"type":"command.issued"' in each.data for each in full.messages)
    return {
        "materializer.event_rows_per_s": full.events / seconds,
        "materializer.python_us_per_event_row": own * 1e6 / full.events,
        "materializer.postgres_us_per_event_row": theirs * 1e6 / full.events,
        "materializer.python_us_per_step": own * 1e6 / steps,
        "materializer.postgres_us_per_step": theirs * 1e6 / steps,
        "materializer.rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / 1024,
    }


async def count_rows(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM noetl.event"))
    finally:
        await connection.close()


def main() -> None:
    executions = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    batch_max = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    full = FullLog(executions)
    # A materializer does not hold the log in memory: leave it out of collections.
    gc.collect()
    gc.freeze()
    for name in ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers"):
        OPTIONS.pop(name, None)
    server = PgServer()
    server.start()
    try:
        figures = uvloop.run(
            catch_up(full, server.create_database(), server, batch_max)
        )
    finally:
        server.remove()
    print(
        json.dumps({name: round(value, 1) for name, value in figures.items()}, indent=1)
    )


if __name__ == "__main__":
    main()
