"""Bringing the tables to this build's version, and noticing when they are not."""

from __future__ import annotations

import re
from typing import Final

from materializer.postgres.database import Database
from materializer.postgres.statements import migrations

_TABLE: Final = re.compile(
    r"^CREATE TABLE IF NOT EXISTS \w+\.(\w+) \(\n(.*?)^\)", re.MULTILINE | re.DOTALL
)
_COLUMN: Final = re.compile(r"^    ([a-z]\w*) ", re.MULTILINE)
_ADDED: Final = re.compile(
    r"^ALTER TABLE \w+\.(\w+)\s+ADD COLUMN IF NOT EXISTS (\w+)", re.MULTILINE
)


async def apply_schema(database: Database) -> int:
    """Bring the schema to this build's version and return that (RT-DB-1).

    One transaction under an advisory lock: callers wait for each other, and all steps
    are there in the end, or none.
    """
    steps = migrations(database.settings.schema)
    sql = database.sql
    async with database.session() as connection, connection.transaction():
        await connection.execute(sql["schema_lock"])
        await connection.execute(sql["schema_begin"])
        await connection.execute(sql["schema_table"])
        reached = int(await connection.fetchval(sql["schema_current"]))
        for step in steps[reached:]:
            await connection.execute(step.sql)
            await connection.execute(sql["schema_applied"], step.version, step.name)
    return max(reached, len(steps))


async def missing(database: Database) -> list[str]:
    """``table.column`` of everything the migrations make and the database lacks."""
    async with database.session() as connection:
        rows = await connection.fetch(
            database.sql["schema_columns"], database.settings.schema
        )
    return sorted(expected_columns(database.settings.schema) - {row[0] for row in rows})


def expected_columns(schema: str) -> set[str]:
    """``table.column`` of everything the migrations make."""
    found: set[str] = set()
    for step in migrations(schema):
        for table, body in _TABLE.findall(step.sql):
            found |= {f"{table}.{column}" for column in _COLUMN.findall(body)}
        found |= {f"{table}.{column}" for table, column in _ADDED.findall(step.sql)}
    return found
