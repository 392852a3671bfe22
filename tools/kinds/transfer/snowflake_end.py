"""Snowflake as a source of rows and as a target, through its SQL API (TL-TR-06)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

from state_builder.records import JSON, encode_json
from tools.doors.snowflake import Session
from tools.errors import configuration
from tools.kinds.transfer.columns import Route, Table, keys_of
from tools.values import json_of, moment_text

BINDS_MAX: Final = 5_000
"""Values of one INSERT."""

_EPOCH_2000_S: Final = 946_684_800
_UTC_OFFSET: Final = 1_440
"""What the API adds to a zone's minutes, so that they are never negative."""

_COLUMNS: Final = (
    "SELECT table_schema, table_name, column_name, data_type "
    "FROM information_schema.columns "
    "WHERE table_name = ? AND table_schema = ? ORDER BY ordinal_position"
)


async def rows_of(
    session: Session, query: str
) -> tuple[list[str], AsyncIterator[list[list[JSON]]]]:
    """Columns and rows of a query, a partition at a time."""
    pages = session.pages(query)
    first = await anext(pages)
    reads = [_reader(kind) for kind in first.types]

    async def chunks() -> AsyncIterator[list[list[JSON]]]:
        yield [_read(row, reads) for row in first.rows]
        async for page in pages:
            yield [_read(row, reads) for row in page.rows]

    return first.columns, chunks()


def _read(row: list[str | None], reads: list[Callable[[str], JSON]]) -> list[JSON]:
    return [
        None if cell is None else read(cell)
        for cell, read in zip(row, reads, strict=True)
    ]


def _reader(kind: str) -> Callable[[str], JSON]:
    kind = kind.lower()
    if kind.startswith("timestamp"):
        zone = "" if kind.endswith("ntz") else "+00:00"
        return lambda cell: moment_of(cell, zone)
    if kind == "date":
        return lambda cell: (date(1970, 1, 1) + timedelta(days=int(cell))).isoformat()
    if kind == "boolean":
        return lambda cell: cell.lower() in ("true", "1")
    return _text


def _text(cell: str) -> JSON:
    return cell


def moment_of(cell: str, zone: str) -> str:
    """``<epoch>.<nanos>[ <zone minutes + 1440>]`` as RFC 3339."""
    seconds, _, minutes = cell.partition(" ")
    micros = int((Decimal(seconds) - _EPOCH_2000_S) * 1_000_000)
    if not minutes:
        return moment_text(micros, zone)
    offset = int(minutes) - _UTC_OFFSET
    hours, rest = divmod(abs(offset), 60)
    sign = "-" if offset < 0 else "+"
    zone = f"{sign}{hours:02}:{rest:02}"
    return moment_text(micros + offset * 60_000_000, zone)


async def table_of(session: Session, name: str, schema: str) -> Table:
    """The table of that name. Raises ToolCallError of ``configuration``."""
    space, _, table = name.rpartition(".")
    for spelled in (
        (table, space or schema),
        (table.upper(), (space or schema).upper()),
    ):
        found = await session.run(_COLUMNS, [*spelled])
        if found.rows:
            rows = [[str(cell) for cell in row] for row in found.rows]
            return Table(
                name=(rows[0][0], rows[0][1]), types={row[2]: row[3] for row in rows}
            )
    raise configuration(f"target.table: there is no table '{name}'")


async def write(
    session: Session,
    target: tuple[Table, Route],
    config: dict[str, JSON],
    chunks: AsyncIterator[list[Any]],
    mark: str,
) -> int:
    """Rows into a table of their own first, then into the target in one statement:
    the API has no transactions, and a failure leaves the target as it was."""
    table, route = target
    place = ".".join(map(_quoted, table.name))
    stage = f"{_quoted(table.name[0])}.{_quoted(f'NOETL_{mark}')}"
    columns = ", ".join(map(_quoted, route.targets))
    await session.run(f"CREATE OR REPLACE TRANSIENT TABLE {stage} LIKE {place}")
    try:
        count = 0
        async for chunk in chunks:
            await _insert(session, f"{stage} ({columns})", chunk)
            count += len(chunk)
        await session.run(_settle(place, stage, table, route, config))
    finally:
        await session.run(f"DROP TABLE IF EXISTS {stage}")
    return count


async def _insert(session: Session, place: str, rows: list[Any]) -> None:
    if not rows:
        return
    width = len(rows[0])
    step = max(1, BINDS_MAX // width)
    marks = "(" + ", ".join("?" * width) + ")"
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        binds = [_bound(value) for row in some for value in row]
        values = ", ".join([marks] * len(some))
        await session.run(f"INSERT INTO {place} VALUES {values}", binds)


def _bound(value: Any) -> JSON:
    """Every value as text: the server converts it to the column's type."""
    plain = json_of(value)
    if plain is None or isinstance(plain, str):
        return plain
    return encode_json(plain).decode()


def _settle(
    place: str, stage: str, table: Table, route: Route, config: dict[str, JSON]
) -> str:
    columns = ", ".join(map(_quoted, route.targets))
    if config["mode"] != "upsert":
        word = "INSERT OVERWRITE" if config["mode"] == "replace" else "INSERT"
        return f"{word} INTO {place} ({columns}) SELECT {columns} FROM {stage}"
    given = config["key_columns"]
    assert isinstance(given, list)
    keys = keys_of([str(key) for key in given], table, route)
    on = " AND ".join(f"t.{_quoted(key)} = s.{_quoted(key)}" for key in keys)
    rest = [name for name in route.targets if name not in keys]
    changes = ", ".join(f"{_quoted(name)} = s.{_quoted(name)}" for name in rest)
    matched = f"WHEN MATCHED THEN UPDATE SET {changes} " if changes else ""
    values = ", ".join(f"s.{_quoted(name)}" for name in route.targets)
    return (
        f"MERGE INTO {place} t USING {stage} s ON {on} {matched}"
        f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
