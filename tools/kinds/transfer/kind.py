"""One transfer: open both ends, settle the columns, let the rows flow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio

from state_builder.records import JSON
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.duck import Duck, Opening
from tools.doors.files import make_scratch, remove_scratch
from tools.doors.pg import ADDRESS_CONNECTIONS_MAX, Pools, Session
from tools.doors.snowflake import Session as Snowflake
from tools.doors.web import Web
from tools.errors import ToolCallError
from tools.fields import Fields, map_of
from tools.kinds.transfer import (
    duckdb_end,
    http_end,
    postgres_end,
    snowflake_end,
)
from tools.kinds.transfer.columns import Route, Table, route_of
from tools.kinds.transfer.config import validated
from tools.kinds.transfer.lines import lines_of, pick

PIPE_CHUNKS: Final = 16
"""Chunks of COPY on their way between two servers."""


class Moved:
    """How far a transfer came."""

    def __init__(self) -> None:
        self.read = 0
        self.written = 0
        self.columns: list[str] = []


class Transfer(Tool):
    """Moves rows; the target sees all of them or none."""

    kind: ClassVar[str] = "transfer"

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._pools = Pools(limits)
        self._duck = Duck(limits)
        self._web = Web(limits)
        # Each holds two connections, maybe to one address: more of them could all
        # have their first and wait for their second.
        most = min(ADDRESS_CONNECTIONS_MAX, limits.pg_connections_max)
        self._pairs = anyio.CapacityLimiter(max(1, most // 2))

    def validate(self, config: Fields) -> Fields:
        """Both ends in canonical form (TL-TR-01, TL-TR-02)."""
        return validated(config, self._limits)

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """What moved (TL-TR-10)."""
        source, target = map_of(config, "source"), map_of(config, "target")
        moved = Moved()
        try:
            await self._move(config, call, moved)
        except* ToolCallError as group:
            error = _first(group)
            error.data = {
                "status": "error",
                "rows_read": moved.read,
                "rows_transferred": 0,
            }
            raise error from None
        chunk = config["chunk_size"]
        assert isinstance(chunk, int)
        return ToolResult(
            data={
                "status": "success",
                "direction": f"{source['type']}_to_{target['type']}",
                "source_type": source["type"],
                "target_type": target["type"],
                "mode": config["mode"],
                "rows_transferred": moved.written,
                "chunks_processed": -(-moved.written // chunk),
                "target_table": target["table"],
                "columns": [*moved.columns],
            }
        )

    async def close(self) -> None:
        """End every connection."""
        await self._pools.close()
        await self._web.close()

    async def _move(self, config: Fields, call: CallContext, moved: Moved) -> None:
        source, target = map_of(config, "source"), map_of(config, "target")
        if target["type"] == "duckdb":
            await self._into_duckdb(config, call, moved)
        elif target["type"] == "snowflake":
            await self._into_snowflake(config, call, moved)
        elif source["type"] == "postgres":
            await self._between_servers(config, call, moved)
        else:
            async with self._postgres(target, call) as session:
                await self._into_postgres(config, call, session, moved)

    @asynccontextmanager
    async def _postgres(self, end: Fields, call: CallContext) -> AsyncIterator[Session]:
        async with self._pools.session(map_of(end, "address")) as session:
            name = f"noetl:{call.execution_id}:{call.step}"
            await postgres_end.begin(session, name, call.timeout_s)
            async with session.transaction():
                yield session

    def _duckdb(self, end: Fields, call: CallContext, *, read_only: bool) -> Any:
        place = self._duck.place(end["database"], call.execution_id)
        return self._duck.session(Opening(place=place, read_only=read_only))

    async def _into_postgres(
        self, config: Fields, call: CallContext, session: Session, moved: Moved
    ) -> None:
        source = map_of(config, "source")
        if source["type"] == "http":
            rows = await http_end.rows_of(self._web, source)
            columns = http_end.columns_of(rows)
            await _fill(config, session, moved, columns, _dealt(rows, columns, config))
            return
        if source["type"] == "snowflake":
            reading = Snowflake(self._web, map_of(source, "account"), call.timeout_s)
            columns, pages = await snowflake_end.rows_of(reading, str(source["query"]))
            await _fill(config, session, moved, columns, pages)
            return
        async with self._duckdb(source, call, read_only=True) as duck:
            query = str(source["query"])
            columns = await duckdb_end.columns_of(duck, query)
            chunks = duckdb_end.rows_of(duck, query)
            await _fill(config, session, moved, columns, chunks)

    async def _between_servers(
        self, config: Fields, call: CallContext, moved: Moved
    ) -> None:
        source, target = map_of(config, "source"), map_of(config, "target")
        query = str(source["query"])
        async with (
            self._pairs,
            self._postgres(source, call) as reading,
            self._postgres(target, call) as writing,
        ):
            columns = [name for name, _ in await reading.columns(query)]
            if target["query"]:
                await _fill(config, writing, moved, columns, reading.chunks(query))
                return
            table, route = await _settled(config, writing, columns, moved)
            wanted = postgres_end.projected(query, columns, route)
            await _piped(config, (reading, wanted), writing, (table, route), moved)

    async def _into_snowflake(
        self, config: Fields, call: CallContext, moved: Moved
    ) -> None:
        source, target = map_of(config, "source"), map_of(config, "target")
        account = map_of(target, "account")
        writing = Snowflake(self._web, account, call.timeout_s)
        query = str(source["query"])
        async with self._postgres(source, call) as reading:
            columns = [name for name, _ in await reading.columns(query)]
            schema = str(target["schema"] or account["schema"])
            table = await snowflake_end.table_of(writing, str(target["table"]), schema)
            route = route_of(columns, _mapping(config), table)
            moved.columns = [*route.targets]
            picked = pick(columns, route.sources)
            chunks = _counted(reading.chunks(query), picked, moved)
            moved.written = await snowflake_end.write(
                writing, (table, route), config, chunks, call.command_id
            )

    async def _into_duckdb(
        self, config: Fields, call: CallContext, moved: Moved
    ) -> None:
        source, target = map_of(config, "source"), map_of(config, "target")
        query = str(source["query"])
        scratch = make_scratch(self._limits, "transfer")
        path = Path(scratch) / "rows.csv"
        try:
            async with self._duckdb(target, call, read_only=False) as duck:
                table = await duckdb_end.table_of(
                    duck, str(target["table"]), target["schema"]
                )
                async with self._postgres(source, call) as reading:
                    kinds = dict(await reading.columns(query))
                    route = route_of([*kinds], _mapping(config), table)
                    moved.columns = [*route.targets]
                    wanted = duckdb_end.readable(query, kinds, route)
                    async with await anyio.open_file(path, "wb") as file:
                        moved.read = await reading.copy_out(wanted, file.write, "csv")
                moved.written = await duckdb_end.write(
                    duck, table, route, config, str(path)
                )
        finally:
            remove_scratch(scratch)


async def _counted(
    chunks: AsyncIterator[list[Any]], picked: Callable[[Any], list[Any]], moved: Moved
) -> AsyncIterator[list[Any]]:
    async for chunk in chunks:
        moved.read += len(chunk)
        yield [picked(row) for row in chunk]


async def _settled(
    config: Fields, session: Session, columns: list[str], moved: Moved
) -> tuple[Table, Route]:
    """The target table and what goes where; nothing is written yet."""
    target = map_of(config, "target")
    name, schema = str(target["table"]), target["schema"]
    table = await postgres_end.table_of(session, name, schema)
    route = route_of(columns, _mapping(config), table)
    moved.columns = [*route.targets]
    return table, route


async def _fill(
    config: Fields,
    session: Session,
    moved: Moved,
    columns: list[str],
    chunks: AsyncIterator[list[Any]],
) -> None:
    """Chunks of rows into a table, or into a statement once per row (TL-TR-04)."""
    target = map_of(config, "target")
    if target["query"]:
        await _execute(config, session, moved, columns, chunks)
        return
    if not columns:
        return
    table, route = await _settled(config, session, columns, moved)
    types = [table.types[name] for name in route.targets]
    picked = pick(columns, route.sources)

    async def lines() -> AsyncIterator[bytes]:
        async for chunk in chunks:
            moved.read += len(chunk)
            yield lines_of(map(picked, chunk), types)

    fill = postgres_end.filling(session, lines())
    moved.written = await postgres_end.write(session, table, route, config, fill)


async def _execute(
    config: Fields,
    session: Session,
    moved: Moved,
    columns: list[str],
    chunks: AsyncIterator[list[Any]],
) -> None:
    target = map_of(config, "target")
    names = target["parameters"]
    assert isinstance(names, list)
    mapping = _mapping(config)
    wanted = [str(name) for name in names]
    table = Table(name=("", "target.query"), types=dict.fromkeys(wanted, "text"))
    pairs = {name: mapping.get(name, name) for name in wanted}
    route = route_of(columns, pairs, table)
    moved.columns = wanted
    picked = pick(columns, route.sources)
    async for chunk in chunks:
        rows = [picked(row) for row in chunk]
        await session.run_each(str(target["query"]), rows, first=moved.read + 1)
        moved.read += len(chunk)
        moved.written = moved.read


async def _piped(
    config: Fields,
    source: tuple[Session, str],
    writing: Session,
    target: tuple[Table, Route],
    moved: Moved,
) -> None:
    """COPY of one server straight into COPY of the other; slow writers slow readers."""
    send, receive = anyio.create_memory_object_stream[bytes](PIPE_CHUNKS)

    async def read() -> None:
        async with send:
            moved.read = await source[0].copy_out(source[1], send.send)

    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(read)
        fill = postgres_end.filling(writing, receive)
        table, route = target
        moved.written = await postgres_end.write(writing, table, route, config, fill)


async def _dealt(
    rows: list[Fields], columns: list[str], config: Fields
) -> AsyncIterator[list[list[JSON]]]:
    """Objects as lists by column, chunk by chunk."""
    size = config["chunk_size"]
    assert isinstance(size, int)
    for start in range(0, len(rows), size):
        yield [
            [row.get(name) for name in columns] for row in rows[start : start + size]
        ]
        await anyio.lowlevel.checkpoint()


def _mapping(config: Fields) -> dict[str, str]:
    return {name: str(column) for name, column in map_of(config, "mapping").items()}


def _first(group: BaseExceptionGroup[ToolCallError]) -> ToolCallError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, ToolCallError)
    return found
