"""SQL as it stands in ``materializer/sql``, by name, for a schema of any name."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

from state_builder.errors import SettingsError

DEFAULT_SCHEMA: Final = "noetl"

_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_QUALIFIER = re.compile(rf"\b{DEFAULT_SCHEMA}\b(?=\.[a-z_]|;)")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_MIGRATION = re.compile(r"(\d{4})_(\w+)\.sql")


class Migration(NamedTuple):
    """One step of the schema; versions count from 1 without gaps."""

    version: int
    name: str
    sql: str


@cache
def statements(schema: str) -> dict[str, str]:
    """Every named statement.

    Raises:
        SettingsError: no name a schema can have without quotes.
    """
    _check(schema)
    text = (files("materializer") / "sql" / "queries.sql").read_text("utf-8")
    _, *parts = _NAME.split(text)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: _qualify(sql.strip(), schema) for name, sql in pairs}


@cache
def migrations(schema: str) -> tuple[Migration, ...]:
    """All steps in order."""
    _check(schema)
    folder = files("materializer") / "sql" / "migrations"
    found = []
    for file in folder.iterdir():
        match = _MIGRATION.fullmatch(file.name)
        if match is not None:
            sql = _qualify(file.read_text("utf-8"), schema)
            found.append(Migration(int(match[1]), match[2], sql))
    found.sort()
    assert [step.version for step in found] == list(range(1, len(found) + 1))
    return tuple(found)


def _qualify(sql: str, schema: str) -> str:
    return _QUALIFIER.sub(schema, sql)


def _check(schema: str) -> None:
    if not _SCHEMA_NAME.fullmatch(schema):
        raise SettingsError(
            f"NOETL_SCHEMA {schema!r}: lower-case letters, digits and underscores "
            "only, and no digit first"
        )
