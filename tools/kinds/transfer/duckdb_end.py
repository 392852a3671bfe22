"""DuckDB as a source of rows and as a target of a file in CSV."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from state_builder.records import JSON
from tools.doors.duck import DuckSession, identifier, text_literal
from tools.errors import configuration
from tools.kinds.transfer.columns import Route, Table, keys_of

_COLUMNS = """
SELECT table_schema, table_name, column_name, data_type
FROM information_schema.columns
WHERE lower(table_name) = lower(?) AND lower(table_schema) = lower(?)
ORDER BY ordinal_position
"""
_KEY = """
SELECT unnest(constraint_column_names) FROM duckdb_constraints()
WHERE constraint_type = 'PRIMARY KEY' AND table_name = ? AND schema_name = ?
"""
_AS_TEXT = {
    "bytea": "regexp_replace(encode({0}, 'hex'), '(..)', '\\\\x\\1', 'g')",
    "array": "array_to_json({0})::text",
}
"""How PostgreSQL writes what DuckDB reads differently."""


async def columns_of(session: DuckSession, query: str) -> list[str]:
    """The columns a query gives."""
    rows = await session.work(lambda: session.execute(f"DESCRIBE {query}"))
    return [str(row[0]) for row in rows]


async def rows_of(
    session: DuckSession, query: str
) -> AsyncIterator[list[tuple[Any, ...]]]:
    """The rows of a query, chunk by chunk, each read in a thread."""
    _, chunks = await session.work(lambda: session.stream(query))
    while chunk := await session.work(lambda: next(chunks, [])):
        yield chunk


async def table_of(session: DuckSession, name: str, schema: JSON) -> Table:
    """The table of that name. Raises ToolCallError of ``configuration``."""
    space, _, table = name.rpartition(".")
    space = space or (schema if isinstance(schema, str) else "main")
    rows = await session.work(lambda: session.execute(_COLUMNS, [table, space]))
    if not rows:
        raise configuration(f"target.table: there is no table '{name}'")
    place = (str(rows[0][0]), str(rows[0][1]))
    key = await session.work(lambda: session.execute(_KEY, [place[1], place[0]]))
    return Table(
        name=place,
        types={str(row[2]): str(row[3]) for row in rows},
        key=tuple(str(row[0]) for row in key),
    )


def readable(query: str, kinds: dict[str, str], route: Route) -> str:
    """The query of a PostgreSQL source whose values DuckDB can read."""
    parts = []
    for name in route.sources:
        column = identifier(name)
        kind = "array" if kinds[name].endswith("[]") else kinds[name]
        text = _AS_TEXT.get(kind, "{0}").format(column)
        parts.append(f"{text} AS {column}")
    return f"SELECT {', '.join(parts)} FROM (\n{query}\n) AS noetl_source"


async def write(
    session: DuckSession, table: Table, route: Route, config: dict[str, JSON], path: str
) -> int:
    """The rows of a CSV file into the table, in one transaction (TL-TR-07)."""
    place = ".".join(identifier(part) for part in table.name)
    statements = ["BEGIN"]
    if config["mode"] == "replace":
        statements.append(f"DELETE FROM {place}")
    statements.append(_insert(place, table, route, config, path))

    def job() -> int:
        try:
            for statement in statements:
                found = session.execute(statement)
            session.execute("COMMIT")
        except BaseException:
            session.rollback()
            raise
        return int(found[0][0])

    return await session.work(job)


def _insert(
    place: str, table: Table, route: Route, config: dict[str, JSON], path: str
) -> str:
    names = ", ".join(map(identifier, route.targets))
    columns = ", ".join(f"{text_literal(name)}: 'VARCHAR'" for name in route.targets)
    rows = (
        f"SELECT * FROM read_csv({text_literal(path)}, header = false, "
        f"auto_detect = false, columns = {{{columns}}}, nullstr = '', "
        "allow_quoted_nulls = false, quote = '\"', escape = '\"', delim = ',', "
        "new_line = '\\n', parallel = false)"
    )
    if config["mode"] != "upsert":
        return f"INSERT INTO {place} ({names}) {rows}"
    given = config["key_columns"]
    assert isinstance(given, list)
    keys = keys_of([str(key) for key in given], table, route)
    key = ", ".join(map(identifier, keys))
    rest = [name for name in route.targets if name not in keys]
    changes = ", ".join(f"{identifier(n)} = EXCLUDED.{identifier(n)}" for n in rest)
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    last = (
        f"SELECT {names} FROM (SELECT *, row_number() OVER () AS noetl_row "
        f"FROM ({rows})) QUALIFY row_number() OVER "
        f"(PARTITION BY {key} ORDER BY noetl_row DESC) = 1"
    )
    return f"INSERT INTO {place} ({names}) {last} ON CONFLICT ({key}) DO {action}"
