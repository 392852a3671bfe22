"""``duckdb``: analytics in a file of the execution, or in memory (TL §3.5)."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import anyio
from anyio import to_thread

from state_builder.records import JSON, ToolFailure
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.files import confined, roots
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, boolean_of, first_of, text_of, wrong
from tools.sql import statements_of
from tools.values import json_of, table_of

_SQL_KEYS: Final = ("query", "command", "commands", "queries", "sql")
_LOCK_TRIES: Final = 5
_LOCK_WAIT_S: Final = 0.5
_ROWS_CHANGED: Final = "Count"


class Duckdb(Tool):
    """Runs statements in order on one connection, in a thread (TL-LIM-03)."""

    kind: ClassVar[str] = "duckdb"

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._files: dict[str, anyio.Lock] = {}

    def validate(self, config: Fields) -> Fields:
        """``statements``, ``params``, ``database``, ``as_objects`` and options."""
        params = config.get("params")
        if params is not None and not isinstance(params, list | dict):
            raise wrong("params", params, "a list or a map")
        _, database = first_of(config, ("database", "db_path", "path"))
        if database is not None and not isinstance(database, str):
            raise wrong("database", database, "a path or :memory:")
        return {
            "statements": list(statements_of(config, _SQL_KEYS)),
            "params": params,
            "database": database,
            "read_only": boolean_of(config, "read_only", False),
            "as_objects": boolean_of(config, "as_objects", True),
            "memory_limit": text_of(config, "memory_limit"),
        }

    def default_timeout_s(self, config: Fields) -> float | None:
        """The worker's default."""
        return None

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The last statement's result; earlier row sets under ``command_<i>``."""
        place = self._place(config.get("database"), call)
        lock = self._files.setdefault(place, anyio.Lock())
        if place == ":memory:":
            return await self._run(config, place)
        # Statements of one file are serialised: it takes one writer (TL-DK-02).
        async with lock:
            return await self._run(config, place)

    async def close(self) -> None:
        """Nothing is kept: a file is closed after every call."""

    def _place(self, database: JSON, call: CallContext) -> str:
        if database == ":memory:":
            return ":memory:"
        name = database or f"noetldb/duckdb_{call.execution_id}.duckdb"
        path = confined(str(name), self._limits, field="database")
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    async def _run(self, config: Fields, place: str) -> ToolResult:
        connection = await self._open(place, bool(config["read_only"]))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_interrupt_on_cancel, connection)
                data = await to_thread.run_sync(
                    self._execute, connection, config, abandon_on_cancel=False
                )
                tasks.cancel_scope.cancel()
        except* ToolCallError as group:
            raise group.exceptions[0] from None
        finally:
            connection.close()
        return ToolResult(data=data)

    async def _open(self, place: str, read_only: bool) -> Any:
        try:
            import duckdb
        except ImportError as error:
            raise configuration("duckdb is not installed on this worker") from error
        wait_s = _LOCK_WAIT_S
        for left in reversed(range(_LOCK_TRIES)):
            try:
                return await to_thread.run_sync(
                    lambda: duckdb.connect(place, read_only=read_only)
                )
            except duckdb.IOException as error:
                if not left:
                    text = f"the database file is in use elsewhere: {error}"
                    failure = ToolFailure(
                        kind="connection", message=text, retryable=True
                    )
                    raise ToolCallError(failure) from error
            await anyio.sleep(wait_s)
            wait_s *= 2
        raise AssertionError("the last try returns or raises")

    def _execute(self, connection: Any, config: Fields) -> Fields:
        self._confine(connection, config)
        statements, params = config["statements"], config["params"]
        assert isinstance(statements, list)
        data: Fields = {}
        for index, statement in enumerate(statements):
            last = index == len(statements) - 1
            one = self._statement(
                connection, (str(statement), index), params if last else None, config
            )
            if last:
                data = {**one, **data, f"command_{index}": one}
            elif one["columns"]:
                data[f"command_{index}"] = one
        return data

    def _confine(self, connection: Any, config: Fields) -> None:
        """Files outside the roots stay out of reach (TL-DK-06)."""
        allowed = [str(root) for root in roots(self._limits)]
        quoted = ", ".join("'" + root.replace("'", "''") + "/'" for root in allowed)
        if config["memory_limit"]:
            connection.execute("SET memory_limit = ?", [config["memory_limit"]])
        connection.execute(f"SET allowed_directories = [{quoted}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def _statement(
        self, connection: Any, numbered: tuple[str, int], params: JSON, config: Fields
    ) -> Fields:
        import duckdb

        statement, index = numbered
        try:
            cursor = connection.execute(statement, params)
            described = cursor.description
            rows = cursor.fetchmany(self._limits.rows_max + 1) if described else []
        except duckdb.Error as error:
            failure = ToolFailure(
                kind="db_error",
                code=type(error).__name__,
                message=f"statement {index}: {error}",
                source="duckdb",
            )
            raise ToolCallError(failure) from error
        if len(rows) > self._limits.rows_max:
            text = f"the query gives more than {self._limits.rows_max} rows"
            raise ToolCallError(
                ToolFailure(kind="limit", code="rows_max", message=text)
            )
        names = [column[0] for column in described or []]
        if names == [_ROWS_CHANGED] and statement.lstrip()[:6].upper() != "SELECT":
            changed = json_of(rows[0][0]) if rows else 0
            return {
                "columns": [],
                "rows": [],
                "row_count": changed,
                "affected_rows": changed,
            }
        table = table_of(names, rows, bool(config["as_objects"]))
        return {**table, "row_count": len(rows)}


async def _interrupt_on_cancel(connection: Any) -> None:
    """A cancelled call stops its query, else the thread would run on (TL-LIM-02)."""
    try:
        await anyio.sleep_forever()
    finally:
        connection.interrupt()
