"""``postgres``: statements of a playbook on its own database (TL §3.4)."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from state_builder.records import JSON, ToolFailure
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.pg import Done, Pools, Session, Shape, address_of, stands_alone
from tools.doors.sql_scripts import sql_of, statements_for
from tools.doors.web import Web
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, boolean_of, map_of, text_of, texts_of, wrong
from tools.sql import words

DEFAULT_TIMEOUT_S: Final = 60.0
SQLSTATE_LENGTH: Final = 5
EARLIER_ROWS_MAX: Final = 100
"""Rows of a statement before the last that are kept (TL-PG-08)."""

_SQL_KEYS: Final = (
    *("query", "command", "queries", "commands", "cmd", "sql"),
    *("query_b64", "command_b64", "claim"),
)
_OWN_TRANSACTION: Final = re.compile(
    r"(BEGIN|START TRANSACTION|COMMIT|END|ABORT|ROLLBACK(?! TO)|PREPARE TRANSACTION|"
    r"CALL|VACUUM|(CREATE|DROP) (DATABASE|TABLESPACE)|ALTER SYSTEM|"
    r"(CREATE|DROP) (UNIQUE )?INDEX CONCURRENTLY|REINDEX .*CONCURRENTLY)\b"
)
"""Statements that end an implicit transaction or cannot be in one (TL-PG-04)."""

_COPY_CLIENT: Final = re.compile(r"COPY\b.*\b(STDIN|STDOUT)\b", re.DOTALL)


class Postgres(Tool):
    """Runs statements on one connection, all or nothing."""

    kind: ClassVar[str] = "postgres"
    timeout_as: ClassVar[tuple[str, str]] = ("db_timeout", "57014")

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._pools = Pools(limits)
        self._web = Web(limits)

    def validate(self, config: Fields) -> Fields:
        """``statements``, ``params``, ``address``, ``schema``, ``as_objects``."""
        params = config.get("params")
        if params is not None and not isinstance(params, list):
            raise wrong("params", params, "a list")
        sql = sql_of(config, _SQL_KEYS)
        _check(texts_of(sql, "statements"), params)
        return {
            **sql,
            "params": params,
            "address": address_of(config, default_host=self._limits.pg_default_host),
            "schema": text_of(config, "schema"),
            "as_objects": boolean_of(config, "as_objects", True),
        }

    def blank(self, failure: ToolFailure) -> Fields:
        """``pg`` is there however the call failed."""
        code = failure.code if len(failure.code) == SQLSTATE_LENGTH else None
        return {"pg": {"code": code, "sqlstate": code}}

    def default_timeout_s(self, config: Fields) -> float | None:
        """TL-PG-13."""
        return DEFAULT_TIMEOUT_S

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The last statement's result; earlier row sets under ``command_<i>``."""
        params, schema = config["params"], config["schema"]
        texts = await statements_for(config, self._limits, self._web)
        autocommit = _check(texts, params)
        values = params if isinstance(params, list) else []
        shape = Shape(limits=self._limits, as_objects=bool(config["as_objects"]))
        async with self._pools.session(map_of(config, "address"), shape) as session:
            await session.begin(
                name=f"noetl:{call.execution_id}:{call.step}",
                timeout_s=call.timeout_s,
                schema=schema if isinstance(schema, str) else None,
            )
            if autocommit or (len(texts) == 1 and stands_alone(texts[0])):
                done = await _each(session, texts, values)
                if await session.abandon():
                    raise _left_open()
            else:
                async with session.transaction():
                    done = await _each(session, texts, values)
        return ToolResult(
            data=_data(done), helpers={"pg": {"code": None, "sqlstate": None}}
        )

    async def close(self) -> None:
        """End every connection."""
        await self._pools.close()
        await self._web.close()


def _check(statements: list[str], params: JSON) -> bool:
    """Refuse what cannot run; does it bring its own transactions?"""
    if params and len(statements) > 1:
        raise configuration(
            "params: only one statement can take parameters, "
            f"the command has {len(statements)}"
        )
    texts = [words(statement) for statement in statements]
    if any(_COPY_CLIENT.match(text) for text in texts):
        raise configuration(
            "query: COPY … STDIN/STDOUT needs a client; use the transfer tool"
        )
    return any(_OWN_TRANSACTION.match(text) for text in texts)


async def _each(session: Session, texts: list[str], values: list[JSON]) -> list[Done]:
    """Every statement; row sets before the last are dropped when they are large."""
    found: list[Done] = []
    for index, text in enumerate(texts):
        done = await session.run(text, values, index)
        if index < len(texts) - 1 and len(done.rows) > EARLIER_ROWS_MAX:
            done = Done(names=None, rows=[], tag=done.tag, changed=done.changed)
        found.append(done)
    return found


def _left_open() -> ToolCallError:
    text = "the command left a transaction open; it was rolled back"
    return ToolCallError(ToolFailure(kind="db_error", code="25000", message=text))


def _data(done: list[Done]) -> Fields:
    """The result of TL-PG-05, with earlier row sets as ``command_<i>`` (TL-PG-08).

    ``command_<last>`` is a view of the result itself, made when a text looks at it.
    """
    data: Fields = {**_one(done[-1]), "statement_count": len(done)}
    for index, one in enumerate(done[:-1]):
        if one.names is not None:
            data[f"command_{index}"] = _one(one)
    return data


def _one(done: Done) -> Fields:
    return {
        "columns": list(done.names or ()),
        "rows": done.rows,
        "row_count": done.changed if done.names is None else len(done.rows),
        "affected_rows": done.changed,
        "message": done.tag,
    }
