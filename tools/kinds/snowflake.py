"""``snowflake``: statements through its SQL API (TL §3.7)."""

from __future__ import annotations

from typing import ClassVar, Final

from msgspec.structs import replace

from state_builder.records import JSON
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.snowflake import Session, Table, account_of
from tools.doors.sql_scripts import sql_of, statements_for
from tools.doors.web import Web
from tools.errors import ToolCallError
from tools.fields import Fields, map_of
from tools.sql import SNOWFLAKE
from tools.values import unique_names

DEFAULT_TIMEOUT_S: Final = 60.0

_SQL_KEYS: Final = (
    *("command", "commands", "query", "queries", "sql"),
    *("command_b64", "commands_b64", "query_b64"),
)


class Snowflake(Tool):
    """Runs statements in order; the first that fails ends it."""

    kind: ClassVar[str] = "snowflake"
    timeout_as: ClassVar[tuple[str, str]] = ("db_timeout", "57014")

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._web = Web(limits)

    def validate(self, config: Fields) -> Fields:
        """``statements`` and ``account``."""
        return {**sql_of(config, _SQL_KEYS, SNOWFLAKE), "account": account_of(config)}

    def default_timeout_s(self, config: Fields) -> float | None:
        """As its API has it."""
        return DEFAULT_TIMEOUT_S

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """``statement_<i>`` each, and the last one's rows at the top (TL-SF-05)."""
        session = Session(self._web, map_of(config, "account"), call.timeout_s)
        data: Fields = {}
        texts = await statements_for(config, self._limits, self._web, SNOWFLAKE)
        for index, statement in enumerate(texts):
            try:
                table = await session.run(statement)
            except ToolCallError as error:
                raise _failed(error, index, data) from error
            shown = _shown(table)
            data[f"statement_{index}"] = {
                "status": "success",
                "row_count": len(table.rows),
                "result": shown,
                "columns": [*table.columns],
            }
            data |= {
                "rows": shown,
                "columns": [*table.columns],
                "row_count": len(table.rows),
            }
        return ToolResult(data=data)

    async def close(self) -> None:
        """Close all connections."""
        await self._web.close()


def _shown(table: Table) -> list[JSON]:
    names = unique_names(table.columns)
    return [dict(zip(names, row, strict=True)) for row in table.rows]


def _failed(error: ToolCallError, index: int, done: Fields) -> ToolCallError:
    """TL-SF-06: what ran before stays to be seen."""
    message = error.failure.message
    data: Fields = {
        **{name: value for name, value in done.items() if name.startswith("statement")},
        f"statement_{index}": {"status": "error", "error": message},
    }
    text = f"Some statements failed: statement {index}: {message}"
    return ToolCallError(replace(error.failure, message=text), data=data)
