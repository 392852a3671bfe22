"""``postgres``: statements of a playbook on its own database (TL §3.4)."""

from __future__ import annotations

import base64
import re
from typing import Any, ClassVar, Final

from state_builder.records import JSON, ToolFailure
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.pg import Done, Pools, Session
from tools.errors import ToolCallError, configuration
from tools.fields import (
    Fields,
    boolean_of,
    first_of,
    integer_of,
    map_of,
    text_of,
    wrong,
)
from tools.sql import split, statements_of
from tools.values import table_of

_SQL_KEYS: Final = (
    *("query", "command", "queries", "commands", "cmd", "sql", "claim"),
)
_OWN_TRANSACTION: Final = re.compile(
    r"\s*(BEGIN|START\s+TRANSACTION|COMMIT|ROLLBACK|END|SAVEPOINT|CALL|VACUUM|"
    r"(CREATE|DROP)\s+(DATABASE|TABLESPACE)|ALTER\s+SYSTEM|"
    r"(CREATE|DROP)\s+(UNIQUE\s+)?INDEX\s+CONCURRENTLY|REINDEX\s+.*CONCURRENTLY)\b",
    re.IGNORECASE,
)
_EARLIER_ROWS_MAX: Final = 100
DEFAULT_TIMEOUT_S: Final = 60.0


class Postgres(Tool):
    """Runs statements on one connection, all or nothing."""

    kind: ClassVar[str] = "postgres"

    def __init__(self, limits: ToolLimits) -> None:
        self._pools = Pools(limits)

    def validate(self, config: Fields) -> Fields:
        """``statements``, ``params``, ``address``, ``schema``, ``as_objects``."""
        text = _sql_of(config)
        params = config.get("params")
        if params is not None and not isinstance(params, list):
            raise wrong("params", params, "a list")
        statements = split(text)
        if params is not None and len(statements) > 1:
            raise configuration("params: only one statement can take parameters")
        return {
            "statements": list(statements),
            "params": params,
            "address": _address(config),
            "schema": text_of(config, "schema"),
            "as_objects": boolean_of(config, "as_objects", True),
        }

    def default_timeout_s(self, config: Fields) -> float | None:
        """TL-PG-13."""
        return DEFAULT_TIMEOUT_S

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The last statement's result; earlier ones under ``command_<i>``."""
        statements, params = config["statements"], config["params"]
        assert isinstance(statements, list)
        address: Any = dict(map_of(config, "address"))
        address["server_settings"] = {
            "application_name": f"noetl:{call.execution_id}:{call.step}"[:63]
        }
        address["command_timeout"] = call.timeout_s
        texts = [str(statement) for statement in statements]
        values = params if isinstance(params, list) else []
        async with self._pools.session(address) as session:
            if config["schema"]:
                await session.search_path(str(config["schema"]))
            if any(_OWN_TRANSACTION.match(text) for text in texts):
                done = await _each(session, texts, values)
                if await session.abandon():
                    raise _left_open()
            else:
                async with session.transaction():
                    done = await _each(session, texts, values)
        data = _data(done, as_objects=bool(config["as_objects"]))
        return ToolResult(data=data, helpers={"pg": {"code": None, "sqlstate": None}})

    async def close(self) -> None:
        """End every connection."""
        await self._pools.close()


async def _each(session: Session, texts: list[str], values: list[JSON]) -> list[Done]:
    return [await session.run(text, values, index) for index, text in enumerate(texts)]


def _left_open() -> ToolCallError:
    text = "the command left a transaction open; it was rolled back"
    return ToolCallError(ToolFailure(kind="db_error", code="25000", message=text))


def _sql_of(config: Fields) -> str:
    for name in ("query_b64", "command_b64"):
        encoded = config.get(name)
        if isinstance(encoded, str):
            return base64.b64decode(encoded).decode()
    return statements_of(dict(config), _SQL_KEYS)


def _address(config: Fields) -> Fields:
    """Where to connect: a connection string, or its parts (TL-PG-01)."""
    auth = config.get("auth")
    given = {**(auth if isinstance(auth, dict) else {}), **config}
    dsn = text_of(given, "connection_string")
    address: Fields = {}
    if dsn is not None:
        address["dsn"] = dsn
    else:
        host = text_of(given, "host")
        if host is None:
            raise configuration(
                "postgres needs a connection_string, a host, or an auth block with one"
            )
        _, database = first_of(given, ("database", "dbname"))
        address = {
            "host": host,
            "port": integer_of(given, "port", least=1, most=65535) or 5432,
            "database": str(database or "postgres"),
        }
        for name in ("user", "password"):
            if given.get(name) is not None:
                address[name] = str(given[name])
    mode = text_of(given, "sslmode")
    if mode is not None:
        address["ssl"] = mode
    return address


def _data(done: list[Done], *, as_objects: bool) -> Fields:
    """The result of TL-PG-05, with earlier row sets as ``command_<i>`` (TL-PG-08)."""
    last = _one(done[-1], as_objects)
    data: Fields = {**last, "statement_count": len(done)}
    for index, one in enumerate(done):
        if one is done[-1]:
            data[f"command_{index}"] = dict(last)
        elif one.names is not None and len(one.rows) <= _EARLIER_ROWS_MAX:
            data[f"command_{index}"] = _one(one, as_objects)
    return data


def _one(done: Done, as_objects: bool) -> Fields:
    if done.names is None:
        return {
            "columns": [],
            "rows": [],
            "row_count": done.changed,
            "affected_rows": done.changed,
            "message": done.tag,
        }
    changes = not done.tag.startswith(("SELECT", "SHOW", "EXPLAIN", "FETCH"))
    return {
        **table_of(done.names, done.rows, as_objects),
        "row_count": len(done.rows),
        "affected_rows": done.changed if changes else 0,
        "message": done.tag,
    }
