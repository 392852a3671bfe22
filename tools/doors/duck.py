"""The way into DuckDB: files, extensions, credentials, statements in a thread.

A connection is opened for one call and closed after it; calls on one file take turns,
since a file has one writer. What a statement may touch is settled before its first word
is read: the roots, and what the call's credentials are for (TL-DK-06).
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import duckdb
import structlog
from anyio import to_thread
from msgspec.json import decode as decode_json

from state_builder.records import JSON, ToolFailure, encode_json
from tools.contract import ToolLimits
from tools.doors.files import confined, roots
from tools.errors import ToolCallError, configuration
from tools.values import json_of, unique_names

log = structlog.get_logger()

MEMORY: Final = ":memory:"
CHUNK_ROWS: Final = 1_000
LOCK_TRIES: Final = 5
LOCK_WAIT_S: Final = 0.5
INTERRUPT_S: Final = 0.02

T = TypeVar("T")

_GIVES_ROWS: Final = frozenset(("SELECT", "EXPLAIN", "PRAGMA", "CALL", "EXECUTE"))
_CHANGES: Final = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE_INTO"))
_LARGE_INTEGERS: Final = frozenset(("HUGEINT", "UHUGEINT", "BIGNUM"))


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How to open.

    Attributes:
        place: a file, or ``:memory:``.
        extensions: loaded before anything else.
        setup: statements of ours, secrets among them; never shown.
        urls: prefixes beside the roots that may be read and written (``s3://``).
    """

    place: str
    read_only: bool = False
    memory_limit: str = ""
    threads: int = 0
    extensions: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One statement's result: ``names`` is None when it gives no rows."""

    names: list[str] | None
    rows: list[JSON] = field(default_factory=list)
    changed: int = 0


class Duck:
    """The files of one worker."""

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._files: dict[str, anyio.Lock] = {}

    def place(self, database: JSON, execution_id: str) -> str:
        """Where a database is; without a name it is the execution's (TL-DK-01).

        Raises ToolCallError of ``configuration`` when it is outside the roots.
        """
        if database == MEMORY:
            return MEMORY
        name = database or f"noetldb/duckdb_{execution_id}.duckdb"
        return str(confined(str(name), self._limits, field="database"))

    @asynccontextmanager
    async def session(self, opening: Opening) -> AsyncIterator[DuckSession]:
        """A connection, closed after; its file is this call's alone (TL-DK-02)."""
        async with self._turn(opening.place):
            connection = await self._open(opening)
            session = DuckSession(connection, self._limits)
            try:
                await session.work(lambda: _prepare(connection, opening, self._limits))
                yield session
                if opening.place != MEMORY and not opening.read_only:
                    await session.work(lambda: _checkpoint(connection))
            finally:
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(connection.close)

    @asynccontextmanager
    async def _turn(self, place: str) -> AsyncIterator[None]:
        if place == MEMORY:
            yield
            return
        lock = self._files.setdefault(place, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._files.pop(place, None)

    async def _open(self, opening: Opening) -> Any:
        if opening.place != MEMORY and not opening.read_only:
            Path(opening.place).parent.mkdir(parents=True, exist_ok=True)
        wait_s = LOCK_WAIT_S
        for left in reversed(range(LOCK_TRIES)):
            try:
                return await to_thread.run_sync(
                    lambda: duckdb.connect(opening.place, read_only=opening.read_only)
                )
            except duckdb.Error as error:
                if "lock" not in str(error):
                    raise failure_of(error, "the database cannot be opened") from error
                if not left:
                    text = f"the database file is in use elsewhere: {error}"
                    failure = ToolFailure(
                        kind="connection", code="LOCK", message=text, retryable=True
                    )
                    raise ToolCallError(failure) from error
            await anyio.sleep(wait_s)
            wait_s *= 2
        raise AssertionError("the last try returns or raises")


class DuckSession:
    """One connection, for one call."""

    def __init__(self, connection: Any, limits: ToolLimits) -> None:
        self._connection = connection
        self._limits = limits

    async def work(self, job: Callable[[], T]) -> T:
        """Do something with the connection in a thread.

        Cancelling interrupts it and waits for its end: nothing runs on (TL-LIM-02).
        """
        ended = threading.Event()
        found: list[T] = []
        failure: list[Exception] = []

        def guarded() -> None:
            try:
                found.append(job())
            except (ToolCallError, duckdb.Error) as error:
                failure.append(error)
            finally:
                ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._interrupt_on_cancel, ended)
            await to_thread.run_sync(guarded)
            tasks.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint()
        if failure:
            error = failure[0]
            raise error if isinstance(error, ToolCallError) else failure_of(error, "")
        return found[0]

    async def _interrupt_on_cancel(self, ended: threading.Event) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                # Between two statements an interrupt goes unheard: say it again.
                while not ended.is_set():
                    self._connection.interrupt()
                    await anyio.sleep(INTERRUPT_S)

    async def run(
        self, statement: str, params: JSON = None, *, index: int, as_objects: bool
    ) -> Answer:
        """One statement. Raises ToolCallError naming the place (TL-DK-09)."""

        def job() -> Answer:
            try:
                return self._answer(statement, params, as_objects)
            except duckdb.Error as error:
                raise failure_of(error, f"statement {index}") from error

        return await self.work(job)

    def execute(self, statement: str, params: Any = None) -> list[tuple[Any, ...]]:
        """A statement of our own, inside of :meth:`work`; all its rows."""
        rows: list[tuple[Any, ...]] = self._connection.execute(
            statement, params
        ).fetchall()
        return rows

    def rollback(self) -> None:
        """Undo what was begun, inside of :meth:`work`; also after an interrupt."""
        try:
            self._connection.execute("ROLLBACK")
        except duckdb.Error as error:
            # An error may have ended the transaction already.
            log.debug("duckdb.nothing_to_roll_back", reason=str(error)[:200])

    def stream(self, statement: str) -> tuple[list[str], Iterator[list[Any]]]:
        """Columns and rows of a query, chunk by chunk, inside of :meth:`work`."""
        cursor = self._connection.execute(statement)
        names = [column[0] for column in cursor.description or []]
        return names, iter(lambda: cursor.fetchmany(CHUNK_ROWS), [])

    def _answer(self, statement: str, params: JSON, as_objects: bool) -> Answer:
        kind = self._connection.extract_statements(statement)[-1].type.name
        cursor = self._connection.execute(statement, params)
        returning = kind in _CHANGES and cursor.rowcount < 0
        if kind not in _GIVES_ROWS and not returning:
            cursor.fetchall()
            return Answer(names=None, changed=max(cursor.rowcount, 0))
        names = unique_names([column[0] for column in cursor.description])
        reads = [_reader(str(column[1])) for column in cursor.description]
        rows: list[JSON] = []
        size = 0
        while chunk := cursor.fetchmany(CHUNK_ROWS):
            more = [_row(row, names, reads, as_objects) for row in chunk]
            size += len(encode_json(more))
            self._check(len(rows) + len(more), size)
            rows += more
        return Answer(names=names, rows=rows, changed=len(rows) if returning else 0)

    def _check(self, rows: int, size: int) -> None:
        """TL-LIM-04."""
        if rows > self._limits.rows_max:
            raise _too_much("rows_max", f"{self._limits.rows_max:,} rows")
        if size > self._limits.result_bytes_max:
            most = f"{self._limits.result_bytes_max:,} bytes of JSON"
            raise _too_much("result_bytes_max", most)


def _row(
    row: tuple[Any, ...],
    names: list[str],
    reads: list[Callable[[Any], JSON]],
    as_objects: bool,
) -> JSON:
    values: list[JSON] = [
        None if value is None else read(value)
        for value, read in zip(row, reads, strict=True)
    ]
    return dict(zip(names, values, strict=True)) if as_objects else values


def _reader(kind: str) -> Callable[[Any], JSON]:
    """TL-DK-04."""
    if kind == "JSON":
        return decode_json
    return str if kind in _LARGE_INTEGERS else json_of


def _too_much(limit: str, most: str) -> ToolCallError:
    text = (
        f"the query gives more than {most}; read less, or write it to a file "
        "with COPY … TO and go on from there"
    )
    return ToolCallError(ToolFailure(kind="limit", code=limit, message=text))


def _prepare(connection: Any, opening: Opening, limits: ToolLimits) -> None:
    """Extensions, secrets, limits; then the lock nothing can open again."""
    for name in opening.extensions:
        _load(connection, name, limits.duckdb_allow_install)
    for statement in opening.setup:
        connection.execute(statement)
    folders = [f"{root}/" for root in roots(limits)]
    memory = opening.memory_limit or limits.duckdb_memory_limit
    scratch = f"{roots(limits)[0]}/scratch/duckdb"
    settings: dict[str, object] = {
        "TimeZone": "UTC",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": memory,
        "threads": opening.threads or limits.duckdb_threads,
        "temp_directory": scratch,
        "allowed_directories": [*folders, *opening.urls],
        "enable_external_access": False,
        "lock_configuration": True,
    }
    for name, value in settings.items():
        try:
            connection.execute(f"SET {name} = {_setting(value)}")
        except duckdb.Error as error:
            raise configuration(f"{name}: {error}") from error


def _setting(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(text_literal(str(item)) for item in value) + "]"
    if isinstance(value, bool | int):
        return str(value).lower()
    return text_literal(str(value))


def text_literal(text: str) -> str:
    """An SQL text literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _load(connection: Any, name: str, allow_install: bool) -> None:
    """Load an extension; download it first only where that is allowed (TL-DK-06)."""
    try:
        connection.execute(f"LOAD {identifier(name)}")
        return
    except duckdb.Error as error:
        if not allow_install:
            raise _absent(name) from error
    try:
        connection.execute(f"INSTALL {identifier(name)}")
        connection.execute(f"LOAD {identifier(name)}")
    except duckdb.Error as error:
        raise _absent(name) from error


def _absent(name: str) -> ToolCallError:
    return configuration(
        f"DuckDB's extension '{name}' is not installed on this worker: install it in "
        f"the image (INSTALL {name}), or let workers download it with "
        "NOETL_DUCKDB_ALLOW_INSTALL=true"
    )


@cache
def installed(name: str) -> bool:
    """Is that extension on this machine?"""
    with duckdb.connect(MEMORY) as connection:
        found = connection.execute(
            "SELECT installed FROM duckdb_extensions() WHERE extension_name = ?", [name]
        ).fetchone()
    return bool(found and found[0])


def _checkpoint(connection: Any) -> None:
    """TL-DK-07: what was committed also survives a lost write-ahead log."""
    try:
        connection.execute("CHECKPOINT")
    except duckdb.Error as error:
        log.warning("duckdb.not_checkpointed", reason=str(error)[:200])


def failure_of(error: Exception, context: str) -> ToolCallError:
    """TL-DK-09: kind ``db_error``, code is DuckDB's own name of it."""
    text = f"{context}: {error}" if context else str(error)
    if isinstance(error, duckdb.PermissionException):
        text += " (files of tools live below NOETL_DATA_DIR and NOETL_FILE_ROOTS)"
    retryable = isinstance(error, duckdb.TransactionException)
    failure = ToolFailure(
        kind="db_deadlock" if retryable else "db_error",
        code=type(error).__name__,
        message=text,
        retryable=retryable,
        source="duckdb",
    )
    return ToolCallError(failure)
