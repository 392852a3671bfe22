"""PostgreSQL as a target, and as a source of COPY bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from state_builder.records import JSON
from tools.doors.pg import Session, quoted
from tools.errors import configuration
from tools.kinds.transfer.columns import Route, Table, keys_of

_PLAIN_TEXT = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'"

_COLUMNS = """
SELECT n.nspname AS schema, c.relname AS name, a.attname AS column,
  format_type(a.atttypid, NULL) AS type,
  COALESCE(a.attnum = ANY (i.indkey::int2[]), false) AS key
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE c.oid = to_regclass($1) AND a.attgenerated = ''
ORDER BY a.attnum
"""

Fill = Callable[[tuple[str, str], list[str]], Awaitable[int]]
"""Copies all rows into a table's columns; how many."""


async def begin(session: Session, name: str, timeout_s: float) -> None:
    """Texts both ends understand, whatever the servers' settings are."""
    await session.begin(name=name, timeout_s=timeout_s)
    await session.execute(_PLAIN_TEXT)


async def table_of(session: Session, name: str, schema: JSON) -> Table:
    """The table of that name. Raises ToolCallError of ``configuration``."""
    parts = name.split(".")
    if isinstance(schema, str) and len(parts) == 1:
        parts = [schema, name]
    if len(parts) > 2 or not all(parts):
        raise configuration(f"target.table: '{name}' is not table or schema.table")
    # As it stands first; then as SQL would read it without quotes.
    for spelled in (parts, [part.lower() for part in parts]):
        path = ".".join(quoted(part) for part in spelled)
        done = await session.run(_COLUMNS, [path])
        rows = [row for row in done.rows if isinstance(row, dict)]
        if rows:
            return Table(
                name=(str(rows[0]["schema"]), str(rows[0]["name"])),
                types={str(row["column"]): str(row["type"]) for row in rows},
                key=tuple(str(row["column"]) for row in rows if row["key"]),
            )
    raise configuration(f"target.table: there is no table '{name}'")


async def write(
    session: Session, table: Table, route: Route, config: dict[str, JSON], fill: Fill
) -> int:
    """Rows into the table in the mode asked for, inside of a transaction."""
    columns = list(route.targets)
    place = _path(table.name)
    if config["mode"] == "append":
        return await fill(table.name, columns)
    if config["mode"] == "replace":
        # In this very transaction: a failure brings the old rows back (TL-TR-07).
        await session.execute(f"TRUNCATE {place}")
        return await fill(table.name, columns)
    given = config["key_columns"]
    assert isinstance(given, list)
    keys = keys_of([str(key) for key in given], table, route)
    names = ", ".join(map(quoted, columns))
    await session.execute(
        f"CREATE TEMP TABLE noetl_transfer ON COMMIT DROP AS "
        f"SELECT {names} FROM {place} WITH NO DATA"
    )
    count = await fill(("", "noetl_transfer"), columns)
    await session.execute(_upsert(place, columns, keys))
    return count


def _upsert(place: str, columns: list[str], keys: list[str]) -> str:
    """Of rows with the same key the last one counts, as if they came one by one."""
    names = ", ".join(map(quoted, columns))
    key = ", ".join(map(quoted, keys))
    rest = [name for name in columns if name not in keys]
    changes = ", ".join(f"{quoted(name)} = EXCLUDED.{quoted(name)}" for name in rest)
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    return (
        f"INSERT INTO {place} ({names}) SELECT DISTINCT ON ({key}) {names} "
        f"FROM noetl_transfer ORDER BY {key}, ctid DESC "
        f"ON CONFLICT ({key}) DO {action}"
    )


def _path(name: tuple[str, str]) -> str:
    return ".".join(quoted(part) for part in name if part)


def projected(query: str, columns: list[str], route: Route) -> str:
    """The query that gives the source columns in the order they are wanted."""
    if list(route.sources) == columns:
        return query
    names = ", ".join(map(quoted, route.sources))
    # On a line of its own: the query may end in a comment.
    return f"SELECT {names} FROM (\n{query}\n) AS noetl_source"


def filling(session: Session, chunks: AsyncIterator[bytes]) -> Fill:
    """Copies what ``chunks`` gives."""

    async def fill(table: tuple[str, str], columns: list[str]) -> int:
        return await session.copy_in(table, columns, chunks)

    return fill
