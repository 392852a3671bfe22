"""One connection while one command has it: statements, rows, COPY."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import asyncpg
from msgspec.structs import replace

from state_builder.records import JSON, ToolFailure, encode_json
from tools.contract import ToolLimits
from tools.doors.pg.failures import DRIVER_ERRORS, bad_parameter, failure_of
from tools.doors.pg.types import (
    UNFIT,
    UNSET,
    literal,
    local_parameter,
    quoted,
    reader_of,
    type_name,
)
from tools.errors import ToolCallError
from tools.sql import verb
from tools.values import unique_names

CHUNK_ROWS: Final = 1_000
"""Rows read from the server at once; between chunks others get the event loop."""

IDLE_IN_TRANSACTION_S: Final = 45

_ROWS_CHANGED: Final = re.compile(r"(\d+)$")
_WRITES: Final = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE"))
_IN_TRANSACTION: Final = _WRITES | {"SELECT", "VALUES", "TABLE"}


Write = Callable[[bytes], Awaitable[object]]
"""Takes a piece of COPY output."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How rows are given, and how many.

    Attributes:
        as_objects: a row is a map by column, else a list.
    """

    limits: ToolLimits = field(default_factory=ToolLimits)
    as_objects: bool = True


@dataclass(frozen=True, kw_only=True)
class Done:
    """One statement's result: ``names`` is None when it gives no rows at all."""

    names: list[str] | None
    rows: list[JSON]
    tag: str
    changed: int


class Session:
    """One connection, for one command. Its methods raise ToolCallError alone."""

    def __init__(self, connection: Any, shape: Shape, settings: str = "") -> None:
        self._connection = connection
        self._shape = shape
        self.settings = settings
        """SQL whose settings the connection has now."""

    async def begin(
        self, *, name: str, timeout_s: float, schema: str | None = None
    ) -> None:
        """Settings of this command; the next one sets all of them anew (TL-PG-13)."""
        wanted = [
            f"SET application_name = {literal(name)}",
            f"SET statement_timeout = {max(1, int(timeout_s * 1000))}",
            f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S}s'",
            f"SET search_path = {quoted(schema)}, public"
            if schema
            else "RESET search_path",
        ]
        settings = "; ".join(wanted)
        if settings != self.settings:
            await self.execute(settings)
            self.settings = settings

    async def execute(self, text: str) -> str:
        """Statements of our own, without parameters; the last command tag."""
        try:
            return str(await self._connection.execute(text))
        except DRIVER_ERRORS as error:
            raise failure_of(error, text) from error

    async def run(
        self, statement: str, params: list[JSON] | None = None, index: int = 0
    ) -> Done:
        """One statement. Raises ToolCallError naming SQLSTATE and place."""
        try:
            prepared = await self._connection.prepare(statement)
            values = await self._bound(prepared, params or [])
            if not prepared.get_attributes():
                await prepared.fetch(*values)
                tag = prepared.get_statusmsg() or ""
                found = _ROWS_CHANGED.search(tag)
                changed = int(found.group(1)) if found else 0
                return Done(names=None, rows=[], tag=tag, changed=changed)
            return await self._rows(prepared, statement, values)
        except DRIVER_ERRORS as error:
            raise failure_of(error, statement, index) from error

    async def run_each(
        self, statement: str, rows: list[list[JSON]], *, first: int = 1
    ) -> None:
        """One statement once per row, prepared once; ``first`` numbers the rows."""
        number = first - 1
        try:
            prepared = await self._connection.prepare(statement)
            for row in rows:
                number += 1
                await prepared.fetch(*await self._bound(prepared, row))
        except ToolCallError as error:
            raise at_row(error, number) from error
        except DRIVER_ERRORS as error:
            raise at_row(failure_of(error, statement), number) from error

    async def chunks(self, query: str) -> AsyncIterator[list[JSON]]:
        """Rows of a query as lists, chunk by chunk, inside of a transaction."""
        try:
            prepared = await self._connection.prepare(query)
            read = reader_of(prepared.get_attributes(), [], False)
            cursor = await prepared.cursor()
            while records := await cursor.fetch(CHUNK_ROWS):
                yield read(records)
        except DRIVER_ERRORS as error:
            raise failure_of(error, query) from error

    async def columns(self, statement: str) -> list[tuple[str, str]]:
        """Name and type of each column a query gives; it does not run."""
        try:
            prepared = await self._connection.prepare(statement)
        except DRIVER_ERRORS as error:
            raise failure_of(error, statement) from error
        return [(one.name, one.type.name) for one in prepared.get_attributes()]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All or nothing."""
        transaction = self._connection.transaction()
        try:
            await transaction.start()
        except DRIVER_ERRORS as error:
            raise failure_of(error) from error
        try:
            yield
        except BaseException:
            with anyio.CancelScope(shield=True):
                await _quietly(transaction.rollback)
            raise
        try:
            await transaction.commit()
        except DRIVER_ERRORS as error:
            # Constraints that are deferred to the end speak up here.
            raise failure_of(error, "COMMIT") from error

    async def abandon(self) -> bool:
        """Roll back what the author left open; was there something?"""
        if not self._connection.is_in_transaction():
            return False
        await self.execute("ROLLBACK")
        return True

    async def copy_out(
        self,
        query: str,
        write: Callable[[bytes], Awaitable[object]],
        form: str = "text",
    ) -> int:
        """``COPY (query) TO``, chunk by chunk into ``write``; how many rows."""
        try:
            tag = await self._connection.copy_from_query(
                query, output=write, format=form
            )
        except DRIVER_ERRORS as error:
            raise failure_of(error, query) from error
        return int(tag.rpartition(" ")[2])

    async def copy_in(
        self,
        table: tuple[str, str],
        columns: list[str],
        source: AsyncIterator[bytes],
        form: str = "text",
    ) -> int:
        """``COPY table (columns) FROM`` what ``source`` gives; how many rows."""
        schema, name = table
        try:
            tag = await self._connection.copy_to_table(
                name,
                schema_name=schema or None,
                columns=columns,
                source=source,
                format=form,
            )
        except DRIVER_ERRORS as error:
            raise _copy_failure(error, f"COPY {name}") from error
        return int(tag.rpartition(" ")[2])

    async def _rows(self, prepared: Any, statement: str, values: list[object]) -> Done:
        attributes = prepared.get_attributes()
        names = unique_names([column.name for column in attributes])
        read = reader_of(attributes, names, self._shape.as_objects)
        rows: list[JSON] = []
        word = verb(statement)
        if self._connection.is_in_transaction():
            await self._read_cursor(prepared, values, read, rows)
        elif word in _IN_TRANSACTION:
            # A transaction around one statement changes nothing and lets us stop.
            async with self.transaction():
                await self._read_cursor(prepared, values, read, rows)
        else:
            self._keep(rows, read(await prepared.fetch(*values)), 0)
        changed = len(rows) if word in _WRITES else 0
        # The driver keeps no tag of a cursor; this is the one the server sends.
        tag = f"INSERT 0 {len(rows)}" if word == "INSERT" else f"{word} {len(rows)}"
        return Done(names=names, rows=rows, tag=tag, changed=changed)

    async def _read_cursor(
        self,
        prepared: Any,
        values: list[object],
        read: Callable[[list[Any]], list[JSON]],
        rows: list[JSON],
    ) -> None:
        cursor = await prepared.cursor(*values)
        size = 0
        while records := await cursor.fetch(CHUNK_ROWS):
            size = self._keep(rows, read(records), size)
            if len(records) < CHUNK_ROWS:
                return

    def _keep(self, rows: list[JSON], more: list[JSON], size: int) -> int:
        """Add rows within the limits (TL-LIM-04); bytes of JSON so far."""
        limits = self._shape.limits
        if len(rows) + len(more) > limits.rows_max:
            raise _too_much(
                "rows_max",
                f"the query gives more than {limits.rows_max:,} rows; read less, page "
                "through it, or move the rows with the transfer tool",
            )
        size += len(encode_json(more))
        if size > limits.result_bytes_max:
            raise _too_much(
                "result_bytes_max",
                f"the rows are larger than {limits.result_bytes_max:,} bytes of JSON; "
                "read fewer columns or rows, or move them with the transfer tool",
            )
        rows += more
        return size

    async def _bound(self, prepared: Any, params: list[JSON]) -> list[object]:
        """Parameters in the types the server asks for (TL-PG-02)."""
        types = prepared.get_parameters()
        if len(params) != len(types):
            text = (
                f"params: the statement has {len(types)} parameters, "
                f"{len(params)} are given"
            )
            raise ToolCallError(ToolFailure(kind="configuration", message=text))
        values: list[object] = []
        for index, (value, kind) in enumerate(zip(params, types, strict=True)):
            found = local_parameter(value, kind.name)
            if found is UNFIT:
                raise bad_parameter(index, f"a valid {kind.name}")
            if found is UNSET:
                found = await self._converted(value, kind, index)
            values.append(found)
        return values

    async def _converted(self, value: JSON, kind: Any, index: int) -> object:
        """A text as the server reads it: what ``'…'::type`` would give."""
        array = isinstance(value, list)
        if isinstance(value, dict):
            raise bad_parameter(index, type_name(kind))
        text = value if isinstance(value, str | list) else encode_json(value).decode()
        asked = f"SELECT $1::{'text[]' if array else 'text'}::{type_name(kind)}"
        try:
            return await self._connection.fetchval(asked, text)
        except asyncpg.PostgresError as error:
            code = str(getattr(error, "sqlstate", "22P02"))
            raise bad_parameter(index, f"a valid {kind.name}", code) from error


def stands_alone(statement: str) -> bool:
    """Is all or nothing of it the same with and without BEGIN around it?

    Not so of LOCK, SAVEPOINT, DECLARE and others that want a transaction block.
    """
    return verb(statement) in _IN_TRANSACTION


async def _quietly(action: Callable[[], Awaitable[None]]) -> None:
    """Roll back where the connection still lives; where not, the server has."""
    try:
        await action()
    except DRIVER_ERRORS:
        return


def _too_much(limit: str, text: str) -> ToolCallError:
    return ToolCallError(ToolFailure(kind="limit", code=limit, message=text))


def at_row(error: ToolCallError, number: int) -> ToolCallError:
    """The same error, saying which row it was."""
    failure = replace(error.failure, message=f"row {number}: {error.failure.message}")
    return ToolCallError(failure, helpers=error.helpers)


_COPY_PLACE: Final = re.compile(r"line (\d+)(?:, column ([^:]+))?")


def _copy_failure(error: Exception, statement: str) -> ToolCallError:
    """Which row and column could not be converted (TL-TR-05)."""
    place = _COPY_PLACE.search(str(getattr(error, "context", None) or ""))
    if place is None:
        return failure_of(error, statement)
    row, column = place.groups()
    where = f"row {row}" + (f", column '{column}'" if column else "")
    return failure_of(error, f"{statement} {where}")
