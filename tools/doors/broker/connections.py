"""Connections kept by address; one that fails is forgotten (TL-NA-06)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import structlog
from nats.aio.client import Client, RawCredentials

from tools.doors.broker.failures import CLIENT_ERRORS, failure_of
from tools.errors import ToolCallError
from tools.fields import Fields

log = structlog.get_logger()

CONNECTIONS_MAX: Final = 16
IDLE_S: Final = 300.0
CONNECT_S: Final = 5.0
CLOSE_S: Final = 2.0
REQUEST_S: Final = 5.0

_Key = tuple[str, ...]


@dataclass(eq=False)
class _Kept:
    """A connection, how many calls use it, and what ends it when none does."""

    client: Client
    users: int = 0
    timer: asyncio.TimerHandle | None = None


class Connections:
    """The connections of one kind in one worker."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._opening = anyio.Lock()
        self._closing: set[Client] = set()

    @asynccontextmanager
    async def use(self, address: Fields) -> AsyncIterator[Client]:
        """A connection that works, shared with other calls to that address.

        Raises ToolCallError: ``connection`` or ``auth``; client errors inside too.
        """
        key = tuple(str(value) for value in address.values())
        kept = await self._get(key, address)
        kept.users += 1
        try:
            yield kept.client
        except CLIENT_ERRORS as error:
            failure = failure_of(error, "NATS")
            if failure.failure.kind == "connection":
                self._forget(key, kept)
            raise failure from error
        except ToolCallError as error:
            if error.failure.kind == "connection":
                self._forget(key, kept)
            raise
        finally:
            kept.users -= 1
            if not kept.users:
                await self._rest(key, kept)

    async def close(self) -> None:
        """End every connection."""
        kept, self._kept = list(self._kept.values()), OrderedDict()
        for one in kept:
            await _end(one)

    async def _get(self, key: _Key, address: Fields) -> _Kept:
        async with self._opening:
            kept = self._kept.get(key)
            if kept is not None and kept.client.is_connected:
                self._kept.move_to_end(key)
                if kept.timer is not None:
                    kept.timer.cancel()
                return kept
            if kept is not None:
                self._forget(key, kept)
                await self._rest(key, kept)
            await self._make_room()
            kept = self._kept[key] = _Kept(await _connect(address))
            return kept

    async def _make_room(self) -> None:
        """The longest unused goes; those in use stay, however many."""
        for key, kept in list(self._kept.items()):
            if len(self._kept) < CONNECTIONS_MAX:
                return
            if not kept.users:
                self._forget(key, kept)
                await _end(kept)

    def _forget(self, key: _Key, kept: _Kept) -> None:
        if self._kept.get(key) is kept:
            del self._kept[key]

    async def _rest(self, key: _Key, kept: _Kept) -> None:
        """Nobody uses it now: end it, at once or after a while."""
        if self._kept.get(key) is not kept:
            if not kept.users:
                await _end(kept)
            return
        loop = asyncio.get_running_loop()
        kept.timer = loop.call_later(IDLE_S, self._expire, key, kept)

    def _expire(self, key: _Key, kept: _Kept) -> None:
        if not kept.users and self._kept.get(key) is kept:
            del self._kept[key]
            _drop(kept.client)


def _drop(client: Client) -> None:
    """End a connection nobody waits for: its socket, which ends its tasks."""
    transport: Any = client._transport
    if transport is not None:
        transport.close()


async def _end(kept: _Kept) -> None:
    if kept.timer is not None:
        kept.timer.cancel()
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
        try:
            await kept.client.close()
        except CLIENT_ERRORS as error:
            log.debug("nats.not_closed", reason=str(error)[:200])
    # A connection the server ended keeps its socket open on this side.
    _drop(kept.client)


async def _connect(address: Fields) -> Client:
    async def heard(error: Exception) -> None:
        # The call that waits gets an error of its own; this one is for the record.
        log.debug("nats.said", reason=str(error)[:200])

    options: dict[str, Any] = {
        "servers": str(address["url"]).split(","),
        "connect_timeout": CONNECT_S,
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "error_cb": heard,
        "name": "noetl-tool",
    }
    for name in ("user", "password", "token"):
        if address[name]:
            options[name] = str(address[name])
    if address["creds"]:
        options["user_credentials"] = RawCredentials(str(address["creds"]))
    client = Client()
    try:
        with anyio.fail_after(CONNECT_S * 2):
            await client.connect(**options)
    except CLIENT_ERRORS as error:
        raise failure_of(error, "the NATS server cannot be reached") from error
    finally:
        if not client.is_connected:
            # One that was turned away keeps its socket.
            _drop(client)
    return client
