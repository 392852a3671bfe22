"""Connections kept by address, within the worker's number of them (TL-PG-12).

Open connections, in use and idle, are never more than the limit: who needs one more
ends the longest idle one, whatever its address.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import asyncpg

from state_builder.records import JSON, ToolFailure
from tools.contract import ToolLimits
from tools.doors.pg.failures import DRIVER_ERRORS, failure_of
from tools.doors.pg.session import Session, Shape
from tools.doors.pg.types import prepare_types
from tools.errors import ToolCallError, configuration

ADDRESS_CONNECTIONS_MAX: Final = 6
IDLE_S: Final = 300.0
ACQUIRE_S: Final = 30.0
CONNECT_S: Final = 10.0
CONNECT_TRIES: Final = 3
CONNECT_WAIT_S: Final = 0.2
CLOSE_S: Final = 5.0

_FORGET: Final = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; CLOSE ALL; "
    "UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)
"""What DISCARD ALL does, in statements that share a round trip with others."""

Address = dict[str, JSON]
Key = tuple[JSON, ...]


@dataclass(frozen=True, eq=False)
class _Idle:
    """A connection that waits to be used again, and what ends it when nobody does."""

    key: Key
    connection: Any
    settings: str
    timer: asyncio.TimerHandle


class Pools:
    """The connections of one worker."""

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._slots = anyio.CapacityLimiter(limits.pg_connections_max)
        self._of_address: dict[Key, anyio.CapacityLimiter] = {}
        self._idle: list[_Idle] = []
        self._open = 0

    @asynccontextmanager
    async def session(
        self, address: Address, shape: Shape | None = None
    ) -> AsyncIterator[Session]:
        """A connection to that address, clean before and after.

        Raises ToolCallError: ``db_connection`` when none is to be had in time, and
        what the server says.
        """
        key = tuple(address.values())
        async with self._slot(key):
            connection, settings = await self._taken(key, address)
            session = Session(connection, shape or Shape(limits=self._limits), settings)
            usable = False
            try:
                yield session
                usable = True
            except ToolCallError:
                usable = True
                raise
            finally:
                await self._give_back(key, connection, session.settings, usable)

    async def close(self) -> None:
        """End every idle connection."""
        idle, self._idle = self._idle, []
        for one in idle:
            one.timer.cancel()
            await self._end(one.connection)

    @asynccontextmanager
    async def _slot(self, key: Key) -> AsyncIterator[None]:
        """The right to have one connection; first of the address, then of all."""
        per_address = min(ADDRESS_CONNECTIONS_MAX, self._limits.pg_connections_max)
        own = self._of_address.setdefault(key, anyio.CapacityLimiter(per_address))
        borrower = object()
        held: list[anyio.CapacityLimiter] = []
        try:
            with anyio.move_on_after(ACQUIRE_S) as waiting:
                for limiter in (own, self._slots):
                    await limiter.acquire_on_behalf_of(borrower)
                    held.append(limiter)
            if waiting.cancelled_caught:
                raise _none_free(per_address, self._limits.pg_connections_max)
            yield
        finally:
            for limiter in held:
                limiter.release_on_behalf_of(borrower)
            if not own.borrowed_tokens and not own.statistics().tasks_waiting:
                self._of_address.pop(key, None)

    async def _taken(self, key: Key, address: Address) -> tuple[Any, str]:
        """An idle connection of the address, else a new one; and its settings."""
        for one in reversed(self._idle):
            if one.key == key:
                self._forget(one)
                if not one.connection.is_closed():
                    return one.connection, one.settings
                self._open -= 1
        self._open += 1
        try:
            while self._open > self._limits.pg_connections_max and self._idle:
                oldest = self._idle[0]
                self._forget(oldest)
                await self._end(oldest.connection)
            return await _connected(address, self._limits), ""
        except BaseException:
            self._open -= 1
            raise

    async def _give_back(
        self, key: Key, connection: Any, settings: str, usable: bool
    ) -> None:
        """Keep it for the next command, as good as new (TL-PG-11).

        After a cancellation it is ended: the driver cancels on the server first.
        """
        with anyio.CancelScope(shield=True):
            if not usable or not await _renewed(connection, settings):
                await self._end(connection)
                return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(IDLE_S, self._expire, connection)
        self._idle.append(_Idle(key, connection, settings, timer))

    def _forget(self, one: _Idle) -> None:
        one.timer.cancel()
        self._idle.remove(one)

    def _expire(self, connection: Any) -> None:
        for one in self._idle:
            if one.connection is connection:
                self._forget(one)
                self._open -= 1
                connection.terminate()
                return

    async def _end(self, connection: Any) -> None:
        """In order, or at once where the server does not answer."""
        self._open -= 1
        with anyio.CancelScope(shield=True):
            try:
                await connection.close(timeout=CLOSE_S)
            except DRIVER_ERRORS:
                connection.terminate()


async def _renewed(connection: Any, settings: str) -> bool:
    """Without what the last command left there; False when that is not to be had.

    Always, for a function or trigger of any statement may leave something. Settings
    of ours stay: commands of one step come in rows, and the next needs no SET.
    """
    if connection.is_closed():
        return False
    try:
        with anyio.fail_after(CLOSE_S):
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
            await connection.execute(f"{_FORGET}; {settings}")
    except DRIVER_ERRORS:
        return False
    return not connection.is_closed()


async def _connected(address: Address, limits: ToolLimits) -> Any:
    """A connection; a failure to connect is tried again, nothing was sent yet."""
    for left in reversed(range(CONNECT_TRIES)):
        try:
            return await _connect(address, limits)
        except DRIVER_ERRORS as error:
            failure = failure_of(error)
            if failure.failure.kind != "db_connection" or not left:
                raise failure from error
        await anyio.sleep(CONNECT_WAIT_S)
    raise AssertionError("the last try returns or raises")


async def _connect(address: Address, limits: ToolLimits) -> Any:
    port = address["port"]
    assert isinstance(port, int)
    connection = await asyncpg.connect(
        host=str(address["host"]),
        port=port,
        user=str(address["user"]),
        # An empty text, not None: None would look into the worker's environment and
        # home directory for a password that is not the playbook's (TL-PG-16).
        password=str(address["password"]),
        passfile=os.devnull,
        database=str(address["database"]),
        ssl=_ssl(str(address["sslmode"]), str(address["sslrootcert"])),
        timeout=CONNECT_S,
        statement_cache_size=0,
    )
    try:
        await prepare_types(connection, numeric_as_float=limits.pg_numeric_as_float)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _ssl(mode: str, root: str) -> Any:
    """TL-PG-14; ``sslrootcert`` is PEM text or a file."""
    if mode in ("disable", "allow"):
        return mode
    verify = mode in ("verify-ca", "verify-full")
    if not root:
        # Without a root of its own the system's authorities count.
        return True if verify else mode
    inline = "BEGIN CERTIFICATE" in root
    try:
        context = ssl.create_default_context(
            cafile=None if inline else root, cadata=root if inline else None
        )
    except (OSError, ValueError) as error:
        raise configuration(f"sslrootcert cannot be used: {error}") from error
    context.check_hostname = mode == "verify-full"
    return context


def _none_free(per_address: int, most: int) -> ToolCallError:
    text = (
        f"no connection became free within {ACQUIRE_S:g} s: a worker may have "
        f"{per_address} to one address and {most} in all (NOETL_PG_MAX_CONNECTIONS)"
    )
    failure = ToolFailure(
        kind="db_connection", code="53300", message=text, retryable=True
    )
    return ToolCallError(failure)
