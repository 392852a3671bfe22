"""The index of stored results, in both stores (RT-RES-5, RT-HSK-1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import Struct
from pg_service import PgServer, pg_server  # noqa: F401 - a fixture

from materializer.memory import MemoryDatabase, MemoryRows
from materializer.memory.results import MemoryResultRows
from materializer.postgres import (
    Database,
    DatabaseSettings,
    PostgresRows,
    PostgresTables,
)
from materializer.postgres.results import PostgresResults
from noetl_worker.lifecycle import SystemClock
from state_builder.rows import ExecutionRow, Position, RowBatch, RowStore, micros_of
from state_builder.values import ResultRow, ResultRows

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0


class Store(Struct):
    """One of the two stores."""

    results: ResultRows
    rows: RowStore

    async def hold(self, *executions: ExecutionRow) -> None:
        """Store rows of executions."""
        async with self.rows.lead("all") as writer:
            after = await writer.position(0)
            position = Position(after.generation, after.sequence + 1)
            batch = RowBatch([], [], [], list(executions), [], [], after, position)
            await writer.write(batch)


@pytest.fixture(params=["memory", "postgres"])
async def store(
    request: pytest.FixtureRequest,
    pg_server: PgServer,  # noqa: F811
) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryDatabase(SystemClock())
        yield Store(MemoryResultRows(memory), MemoryRows(memory))
        return
    dsn = pg_server.create_database()
    async with Database(DatabaseSettings(dsn=dsn)) as database:
        await PostgresTables(database).apply_schema()
        yield Store(PostgresResults(database), PostgresRows(database))


def execution(number: int, ended_h: float | None, parent: int | None) -> ExecutionRow:
    """An execution that ended so many hours ago, or not yet."""
    now = datetime.now(UTC)
    ended = None if ended_h is None else micros_of(now - timedelta(hours=ended_h))
    began = micros_of(now - timedelta(hours=100))
    return ExecutionRow(
        execution_id=number,
        catalog_id=1,
        path="x",
        version=1,
        parent_execution_id=parent,
        parent_command_id=None if parent is None else f"{parent}.start.1.1",
        status="RUNNING" if ended is None else "COMPLETED",
        pool=None,
        head_event_id=1,
        last_event_type="playbook_started",
        last_node_name=None,
        event_count=1,
        steps_known=1,
        steps_done=0,
        start_time=began,
        end_time=ended,
        result=None,
        error=None,
        workload=None,
        updated_at=began,
    )


def put(number: int, ttl_s: float | None = None, **more: str) -> ResultRow:
    """A result as the server stores its row."""
    ends = None if ttl_s is None else datetime.now(UTC) + timedelta(seconds=ttl_s)
    return ResultRow(
        result_id=str(number),
        execution_id="7000",
        name=f"n{number}",
        object_key=f"k{number}",
        bytes=1,
        sha256="0" * 64,
        expires_at=ends,
        **more,
    )


async def test_only_what_is_over_for_long_is_unneeded(store: Store) -> None:
    await store.hold(
        execution(1, None, None), execution(2, 1.0, None), execution(3, 30.0, None)
    )
    asked = ["1", "2", "3", "4"]
    assert await store.results.unneeded(asked, 24 * HOUR_S) == {"3", "4"}
    assert await store.results.unneeded(asked, 40 * HOUR_S) == {"4"}
    assert await store.results.unneeded([], 24 * HOUR_S) == set()


async def test_what_an_execution_above_may_still_read_is_needed(store: Store) -> None:
    """A parent keeps what its children gave by reference, at any depth (TL-RR-54)."""
    await store.hold(
        execution(1, None, None),
        execution(2, 30.0, 1),
        execution(3, 30.0, 2),
        execution(5, 30.0, None),
        execution(6, 30.0, 5),
        execution(7, 30.0, 99),
    )
    asked = ["2", "3", "5", "6", "7"]
    assert await store.results.unneeded(asked, 24 * HOUR_S) == {"5", "6", "7"}


async def test_what_has_expired_is_told_until_it_is_forgotten(store: Store) -> None:
    """RT-HSK-1: so many at once; a crash before the bytes are gone orphans none."""
    for row in (put(1, -5), put(2, -5), put(3, 1000), put(4)):
        await store.results.add(row)
    first = await store.results.expired(1)
    assert len(first) == 1
    assert first[0] in await store.results.expired(10)
    await store.results.forget([first[0].result_id])
    rest = await store.results.expired(10)
    assert {row.object_key for row in first + rest} == {"k1", "k2"}
    await store.results.forget([row.result_id for row in rest])
    assert await store.results.expired(10) == []
    left = await store.results.listed("7000")
    assert [row.result_id for row in left] == ["3", "4"]


async def test_dropping_forgets_what_was_asked_for_and_nothing_else(
    store: Store,
) -> None:
    """Expired ones too: nobody else would remove their bytes."""
    for row in (
        put(1, source_step="a"),
        put(2, source_step="b"),
        put(3, scope="workflow"),
        put(4, -5, source_step="a"),
    ):
        await store.results.add(row)
    by_step = await store.results.drop("7000", step="a")
    assert sorted(row.object_key for row in by_step) == ["k1", "k4"]
    by_scope = await store.results.drop("7000", scope="workflow")
    assert [row.object_key for row in by_scope] == ["k3"]
    assert await store.results.drop("7001") == []
    assert [row.result_id for row in await store.results.listed("7000")] == ["2"]


async def test_a_key_that_comes_and_goes_is_still_answered(store: Store) -> None:
    """RT-RES-4: putting again while the first is dropped is no fault."""

    async def drop() -> None:
        for _ in range(40):
            await store.results.drop("7000")

    async def add(first: int) -> list[ResultRow]:
        numbers = range(first, first + 40)
        return [
            await store.results.add(put(number, idempotency_key="k"))
            for number in numbers
        ]

    async with asyncio.TaskGroup() as tasks:
        added = [tasks.create_task(add(first)) for first in (0, 100, 200)]
        tasks.create_task(drop())
    keys = {row.idempotency_key for one in added for row in one.result()}
    assert keys == {"k"}
