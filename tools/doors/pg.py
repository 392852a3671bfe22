"""The way out to PostgreSQL: pools per address, statements, errors by SQLSTATE."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg
from msgspec.json import decode as decode_json

from state_builder.records import JSON, ToolFailure, encode_json
from tools.contract import ToolLimits
from tools.errors import ToolCallError

POOL_CONNECTIONS_MAX: Final = 6
POOLS_MAX: Final = 16
IDLE_S: Final = 300.0
ACQUIRE_S: Final = 30.0

_ROWS_CHANGED: Final = re.compile(r"(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Done:
    """One statement's result: ``names`` is None when it gives no rows at all."""

    names: list[str] | None
    rows: list[tuple[object, ...]]
    tag: str

    @property
    def changed(self) -> int:
        """Rows the statement changed."""
        found = _ROWS_CHANGED.search(self.tag)
        return int(found.group(1)) if found else 0


class Session:
    """One connection, for one command."""

    def __init__(self, connection: Any, rows_max: int) -> None:
        self._connection = connection
        self._rows_max = rows_max

    async def run(self, statement: str, params: list[JSON], index: int = 0) -> Done:
        """One statement. Raises ToolCallError naming SQLSTATE and place."""
        try:
            prepared = await self._connection.prepare(statement)
            types = [kind.name for kind in prepared.get_parameters()]
            values = _values(params, types)
            fetched = await prepared.fetch(*values)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise failure_of(error, statement, index) from error
        names = [column.name for column in prepared.get_attributes()]
        if len(fetched) > self._rows_max:
            text = f"the query gives more than {self._rows_max} rows"
            raise ToolCallError(
                ToolFailure(kind="limit", code="rows_max", message=text)
            )
        rows = [tuple(row) for row in fetched]
        tag = prepared.get_statusmsg() or ""
        return Done(names=names or None, rows=rows, tag=tag)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All or nothing."""
        async with self._connection.transaction():
            yield

    async def search_path(self, schema: str) -> None:
        """Look in this schema first, for this command only (TL-PG-11)."""
        quoted = '"' + schema.replace('"', '""') + '"'
        await self._connection.execute(f"SET search_path TO {quoted}, public")

    async def abandon(self) -> bool:
        """Roll back what the author left open; was there something?"""
        if not self._connection.is_in_transaction():
            return False
        await self._connection.execute("ROLLBACK")
        return True


class Pools:
    """The pools of one worker, by address; the longest unused goes first."""

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._pools: OrderedDict[str, Any] = OrderedDict()

    @asynccontextmanager
    async def session(self, address: dict[str, Any]) -> AsyncIterator[Session]:
        """A connection to that address, clean before and after.

        Raises ToolCallError when it cannot be had.
        """
        pool = await self._pool(address)
        try:
            connection = await pool.acquire(timeout=ACQUIRE_S)
        except (asyncpg.PostgresError, OSError, TimeoutError) as error:
            raise failure_of(error, "", 0) from error
        try:
            yield Session(connection, self._limits.rows_max)
        finally:
            await pool.release(connection)

    async def _pool(self, address: dict[str, Any]) -> Any:
        key = repr(sorted(address.items()))
        pool = self._pools.get(key)
        if pool is None:
            most = min(POOL_CONNECTIONS_MAX, self._limits.pg_connections_max)
            pool = asyncpg.create_pool(
                **address,
                min_size=0,
                max_size=most,
                max_inactive_connection_lifetime=IDLE_S,
                statement_cache_size=0,
                init=_prepare_connection,
            )
            self._pools[key] = pool
            await pool
            if len(self._pools) > POOLS_MAX:
                _, old = self._pools.popitem(last=False)
                await old.close()
        self._pools.move_to_end(key)
        return pool

    async def close(self) -> None:
        """End every connection."""
        for pool in self._pools.values():
            pool.terminate()
        self._pools.clear()


async def _prepare_connection(connection: Any) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name,
            schema="pg_catalog",
            encoder=lambda value: encode_json(value).decode(),
            decoder=decode_json,
        )


_CONVERT: Final[dict[str, Callable[[str], object]]] = {
    "int2": int,
    "int4": int,
    "int8": int,
    "oid": int,
    "float4": float,
    "float8": float,
    "numeric": Decimal,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "timestamptz": datetime.fromisoformat,
    "uuid": UUID,
    "bool": lambda text: {"true": True, "t": True, "false": False, "f": False}[
        text.strip().lower()
    ],
}


def _values(params: list[JSON], types: list[str]) -> list[object]:
    """Parameters in the types the server asks for (TL-PG-02)."""
    if len(params) != len(types):
        text = f"the statement has {len(types)} parameters, params has {len(params)}"
        raise ToolCallError(ToolFailure(kind="configuration", message=text))
    return [
        _value(value, kind, number)
        for number, (value, kind) in enumerate(zip(params, types, strict=True), 1)
    ]


def _value(value: JSON, kind: str, number: int) -> object:
    if value is None:
        return None
    if kind in ("json", "jsonb"):
        return value
    if kind.endswith("[]") and isinstance(value, list):
        return [_value(item, kind[:-2], number) for item in value]
    convert = _CONVERT.get(kind)
    try:
        if convert is not None:
            return convert(
                value if isinstance(value, str) else encode_json(value).decode()
            )
    except (ValueError, ArithmeticError, KeyError) as error:
        text = f"params[{number - 1}]: not a valid {kind}"
        failure = ToolFailure(kind="db_error", code="22P02", message=text)
        raise ToolCallError(failure) from error
    return value if isinstance(value, str) else encode_json(value).decode()


def failure_of(error: Exception, statement: str, index: int) -> ToolCallError:
    """The error object of a driver's error (TL-ERR-02, TL-ERR-03, TL-PG-15)."""
    code = getattr(error, "sqlstate", None)
    if code is None:
        text = f"PostgreSQL cannot be reached: {error or type(error).__name__}"
        failure = ToolFailure(kind="db_connection", message=text, retryable=True)
        return ToolCallError(failure, helpers={"pg": {"code": None, "sqlstate": None}})
    kind, retryable = _kind(code)
    parts = [f"{getattr(error, 'severity', None) or 'ERROR'}: {error.args[0]}"]
    parts[0] += f" (SQLSTATE {code})"
    for name in ("detail", "hint"):
        extra = getattr(error, name, None)
        if extra:
            parts.append(f"{name.upper()}: {extra}")
    excerpt = " ".join(statement.split())[:200]
    failure = ToolFailure(
        kind=kind,
        code=code,
        message=f"statement {index} [{excerpt}]: " + " | ".join(parts),
        retryable=retryable,
        source="postgres",
    )
    return ToolCallError(failure, helpers={"pg": {"code": code, "sqlstate": code}})


def _kind(code: str) -> tuple[str, bool]:
    if code in ("40001", "40P01"):
        return "db_deadlock", True
    if code in ("57014", "55P03"):
        return "db_timeout", True
    if code[:2] == "08" or code in ("57P01", "57P02", "57P03", "53300"):
        return "db_connection", True
    if code[:2] == "23":
        return "db_constraint", False
    return ("auth", False) if code[:2] == "28" else ("db_error", False)
