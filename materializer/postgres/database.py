"""Connections, their codecs, and what the driver's errors mean.

JSON documents travel as the bytes they are: jsonb's binary form is a version byte and
the text, so nothing is parsed or written again on this side.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from materializer.errors import RowError
from materializer.postgres.statements import statements
from state_builder.errors import NoetlError, UnavailableError

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Session: TypeAlias = (
        "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
    )

_JSONB_VERSION: Final = b"\x01"

_DATA_CLASSES: Final = frozenset({"22", "23", "54"})
"""SQLSTATE classes that blame the row: data, integrity, a limit of the format."""

_CHANGING_SCHEMA: Final = frozenset({"42P01", "42703", "3F000", "42883", "42P10"})


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """How to reach the database.

    Attributes:
        dsn: ``postgresql://…``; secret.
        direct_dsn: an address that leads past a transaction pooler, for the one
            connection that holds a lock; ``dsn`` when empty (RT-DB-3).
        acquire_s: longest wait for a free connection of the pool.
        statement_cache: prepared statements kept; 0 behind a transaction pooler.
        command_timeout_s: longest time one statement may take.
    """

    dsn: str = field(repr=False)
    direct_dsn: str = field(default="", repr=False)
    schema: str = "noetl"
    connections_max: int = 20
    acquire_s: float = 5.0
    connect_timeout_s: float = 5.0
    command_timeout_s: float = 60.0
    statement_cache: int = 100
    application_name: str = "noetl"


class Database:
    """A pool that opens on demand, and single connections beside it."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings
        self.sql = statements(settings.schema)
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def __aenter__(self) -> Database:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the pool; what is still in use is ended."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    @property
    def occupancy(self) -> tuple[int, int, int]:
        """Most connections, open ones, and idle ones of those."""
        pool = self._pool
        size = pool.get_size() if pool is not None else 0
        idle = pool.get_idle_size() if pool is not None else 0
        return self.settings.connections_max, size, idle

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A connection of the pool.

        Raises:
            UnavailableError: none could be had, or it broke while it was used.
        """
        with translated():
            pool = await self._opened()
            async with pool.acquire(timeout=self.settings.acquire_s) as connection:
                yield connection

    @asynccontextmanager
    async def direct(
        self, server_settings: dict[str, str]
    ) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection of its own, past any pooler; closed in the end.

        Times are :data:`state_builder.rows.Micros` there: PostgreSQL's own integers,
        which cost a sixth of what datetimes do.
        """
        with translated():
            connection = await asyncpg.connect(
                self.settings.direct_dsn or self.settings.dsn,
                timeout=self.settings.connect_timeout_s,
                command_timeout=self.settings.command_timeout_s,
                server_settings={
                    "application_name": self.settings.application_name,
                    **server_settings,
                },
            )
            try:
                await _prepare(connection)
                await connection.set_builtin_type_codec(
                    "timestamptz",
                    schema="pg_catalog",
                    codec_name="int8",
                    format="binary",
                )
                yield connection
            finally:
                # Closing politely waits for a server that may be gone; the server
                # ends session and lock as soon as the socket is closed.
                connection.terminate()

    async def _opened(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._pool is None:
            # No connection is made before one is asked for: a role starts while the
            # database is away.
            self._pool = asyncpg.create_pool(
                self.settings.dsn,
                min_size=0,
                max_size=self.settings.connections_max,
                init=_prepare,
                statement_cache_size=self.settings.statement_cache,
                timeout=self.settings.connect_timeout_s,
                command_timeout=self.settings.command_timeout_s,
                server_settings={"application_name": self.settings.application_name},
            )
        return await self._pool


@contextmanager
def translated() -> Iterator[None]:
    """Our errors for the driver's.

    Raises:
        RowError: what was given cannot be stored.
        UnavailableError: everything that may pass: connections, locks, disk, a schema
            that is not there yet.
    """
    try:
        yield
    except NoetlError:
        raise
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state[:2] in _DATA_CLASSES:
            raise RowError(f"{state}: {error}") from error
        hint = ""
        if state in _CHANGING_SCHEMA:
            hint = "; the schema is not that of this build: run `noetl db init`"
        raise UnavailableError(f"database: {error} ({state}){hint}") from error
    except (OSError, asyncpg.InterfaceError, TimeoutError) as error:
        text = str(error) or type(error).__name__
        raise UnavailableError(f"database: {text}") from error


async def _prepare(connection: Session) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=_JSONB_VERSION.__add__,
        decoder=_jsonb_text,
    )


def _jsonb_text(data: bytes) -> bytes:
    return bytes(data[1:])
