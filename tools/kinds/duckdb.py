"""``duckdb``: analytics in a file of the execution, or in memory (TL §3.5)."""

from __future__ import annotations

from typing import ClassVar, Final

from state_builder.records import JSON
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.duck import Answer, Duck, DuckSession, Opening
from tools.doors.duck_secrets import access_of
from tools.doors.sql_scripts import sql_of, statements_for
from tools.doors.web import Web
from tools.errors import configuration
from tools.fields import (
    Fields,
    boolean_of,
    first_of,
    integer_of,
    text_of,
    texts_of,
    wrong,
)

SQL_KEYS: Final = (
    *("query", "command", "commands", "queries", "sql"),
    *("query_b64", "command_b64", "commands_b64"),
)
EARLIER_ROWS_MAX: Final = 100
"""Rows of a statement before the last that are kept (TL-PG-08)."""


class Duckdb(Tool):
    """Runs statements in order on one connection, in a thread (TL-LIM-03)."""

    kind: ClassVar[str] = "duckdb"

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._duck = Duck(limits)
        self._web = Web(limits)

    def validate(self, config: Fields) -> Fields:
        """``statements``, ``params``, ``database``, ``as_objects`` and options."""
        params = config.get("params")
        if params is not None and not isinstance(params, list | dict):
            raise wrong("params", params, "a list or a map")
        _, database = first_of(config, ("database", "db_path", "path"))
        if database is not None and not isinstance(database, str):
            raise wrong("database", database, "a path or :memory:")
        sql = sql_of(config, SQL_KEYS)
        _check(texts_of(sql, "statements"), params)
        access = access_of(config)
        return {
            **sql,
            "params": params,
            "database": database,
            "read_only": boolean_of(config, "read_only", False),
            "as_objects": boolean_of(config, "as_objects", True),
            "memory_limit": text_of(config, "memory_limit") or "",
            "threads": integer_of(config, "threads", least=1, most=256) or 0,
            "extensions": [*texts_of(config, "extensions"), *access.extensions],
            "setup": list(access.statements),
            "urls": list(access.urls),
        }

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The last statement's result; earlier row sets under ``command_<i>``."""
        opening = Opening(
            place=self._duck.place(config["database"], call.execution_id),
            read_only=bool(config["read_only"]),
            memory_limit=str(config["memory_limit"]),
            threads=integer_of(config, "threads", least=0, most=256) or 0,
            extensions=tuple(texts_of(config, "extensions")),
            setup=tuple(texts_of(config, "setup")),
            urls=tuple(texts_of(config, "urls")),
        )
        statements = await statements_for(config, self._limits, self._web)
        _check(statements, config["params"])
        async with self._duck.session(opening) as session:
            return ToolResult(data=await _run(session, config, statements))

    async def close(self) -> None:
        """A file is closed after every call."""
        await self._web.close()


def _check(statements: list[str], params: JSON) -> None:
    if params and len(statements) > 1:
        raise configuration("params: only one statement can take parameters")


async def _run(session: DuckSession, config: Fields, statements: list[str]) -> Fields:
    params = config["params"]
    last = len(statements) - 1
    data: Fields = {}
    for index, statement in enumerate(statements):
        answer = await session.run(
            str(statement),
            params,
            index=index,
            as_objects=bool(config["as_objects"]),
        )
        if index == last:
            data = {**result_of(answer), "statement_count": len(statements), **data}
        elif answer.names is not None and len(answer.rows) <= EARLIER_ROWS_MAX:
            data[f"command_{index}"] = result_of(answer)
    return data


def result_of(answer: Answer) -> Fields:
    """TL-DK-03."""
    names: list[JSON] = [*(answer.names or ())]
    changed = answer.changed
    return {
        "columns": names,
        "rows": answer.rows,
        "row_count": changed if answer.names is None else len(answer.rows),
        "affected_rows": changed,
    }
