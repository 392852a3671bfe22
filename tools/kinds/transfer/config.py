"""What a transfer says about its two ends, in one canonical form."""

from __future__ import annotations

from typing import Final

from tools.contract import ToolLimits
from tools.doors.duck import MEMORY
from tools.doors.files import confined
from tools.doors.pg import address_of
from tools.doors.snowflake import account_of
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, first_of, integer_of, map_of, text_of, texts_of, wrong
from tools.sql import numbered, statements_of

DIRECTIONS: Final = (
    ("postgres", "postgres"),
    ("http", "postgres"),
    ("duckdb", "postgres"),
    ("postgres", "duckdb"),
    ("snowflake", "postgres"),
    ("postgres", "snowflake"),
)
"""TL-TR-01."""

MODES: Final = ("append", "replace", "upsert")
CHUNK_ROWS: Final = 1_000
CHUNK_ROWS_MAX: Final = 100_000

_QUERY_KEYS: Final = ("query", "command", "sql", "query_b64")


def validated(config: Fields, limits: ToolLimits) -> Fields:
    """``source``, ``target``, ``mapping``, ``mode``, ``key_columns``, ``chunk_size``.

    Raises ToolCallError of ``configuration`` naming the field.
    """
    source, target = map_of(config, "source"), map_of(config, "target")
    kinds = (_type_of(source, "source"), _type_of(target, "target"))
    if kinds not in DIRECTIONS:
        known = ", ".join(f"{one} → {other}" for one, other in DIRECTIONS)
        raise configuration(
            f"no transfer goes {kinds[0]} → {kinds[1]} (there are: {known})"
        )
    mode = text_of(config, "mode") or text_of(target, "mode") or "append"
    if mode not in MODES:
        raise wrong("mode", mode, f"one of {', '.join(MODES)}")
    mapping = map_of(target, "mapping") or map_of(config, "mapping")
    for name, column in mapping.items():
        if not isinstance(column, str) or not column:
            raise wrong(f"mapping.{name}", column, "the name of a source column")
    keys = texts_of(target, "key_columns") or texts_of(config, "key_columns")
    chunk = integer_of(config, "chunk_size", least=1, most=CHUNK_ROWS_MAX)
    return {
        "source": {"type": kinds[0], **_source(kinds[0], source, limits)},
        "target": {"type": kinds[1], **_target(kinds[1], target, mode, limits)},
        "mapping": mapping,
        "mode": mode,
        "key_columns": [*keys],
        "chunk_size": chunk or CHUNK_ROWS,
    }


def _type_of(end: Fields, where: str) -> str:
    _, kind = first_of(end, ("type", "tool", "kind"))
    if not isinstance(kind, str) or not kind:
        raise configuration(f"{where}.type is required")
    return kind.lower()


def _place(kind: str, end: Fields, where: str, limits: ToolLimits) -> Fields:
    """Where that end is."""
    if isinstance(end.get("auth"), str):
        raise _unresolved(where, str(end["auth"]))
    if kind == "postgres":
        host = limits.pg_default_host
        return {"address": address_of(end, default_host=host, where=where)}
    if kind == "duckdb":
        _, database = first_of(end, ("database", "db_path", "path"))
        if database == MEMORY:
            raise configuration(f"{where}database: a file, not {MEMORY}")
        if database is not None:
            if not isinstance(database, str):
                raise wrong(f"{where}database", database, "a path")
            database = str(confined(database, limits, field=f"{where}database"))
        return {"database": database}
    if kind == "snowflake":
        return {"account": account_of(end)}
    return {}


def _unresolved(where: str, alias: str) -> ToolCallError:
    return configuration(f"{where}auth: credential '{alias}' was not resolved")


def _source(kind: str, source: Fields, limits: ToolLimits) -> Fields:
    if kind == "http":
        _, url = first_of(source, ("url", "endpoint"))
        if not isinstance(url, str) or not url:
            raise configuration("source.url is required")
        return {
            **source,
            "url": url,
            "method": (text_of(source, "method") or "GET").upper(),
            "data_path": text_of(source, "data_path") or "",
        }
    statements = statements_of(source, _QUERY_KEYS)
    if len(statements) > 1:
        raise configuration("source.query: one statement gives the rows")
    place = _place(kind, source, "source.", limits)
    return {**place, "query": statements[0]}


def _target(kind: str, target: Fields, mode: str, limits: ToolLimits) -> Fields:
    table, query = text_of(target, "table"), text_of(target, "query")
    if (table is None) == (query is None):
        raise configuration("target needs either a table or a query")
    names: list[str] = []
    if query is not None:
        if kind != "postgres" or mode != "append":
            raise configuration(
                "target.query goes to postgres in mode append; name a table instead"
            )
        query, names = numbered(query)
        if not names:
            raise configuration("target.query has no parameters like :column")
    place = _place(kind, target, "target.", limits)
    return {
        **place,
        "table": table,
        "query": query,
        "parameters": [*names],
        "schema": text_of(target, "schema"),
    }
