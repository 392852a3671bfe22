"""nats-py's client with a short way in and a short way out for hot messages.

The library reads through a stream, a task and a parser of regular expressions, gives
every subscription a queue and a task, and every publish a pass through its flusher
task: several times what a message itself costs. Here messages go straight from the
socket to a plain function, and frames written in one turn of the loop leave in one
write. Everything else (handshake, TLS, pings, errors, reconnects) is theirs.

Invariants: handlers never wait; nothing written while disconnected is kept, so nothing
is sent twice after a reconnect without its owner knowing (RT-NATS-35).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from noetl_worker.bus.nats.frames import Deliver, Frames

Handler: TypeAlias = Callable[[bytes, bytes, bytes, "bytes | None"], None]
"""Takes subject, reply subject, payload and raw header block of one message."""

log = structlog.get_logger(__name__)


class DirectClient(Client):
    """The library's client; see the module for the two additions."""

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[int, Handler] = {}
        self._write_due = False
        self._messages = 0

    @property
    def heard(self) -> int:
        """A number that grows whenever the server says anything."""
        return self._messages + self._pongs_received

    def listen(self, subject: str, handler: Handler) -> int:
        """Call ``handler`` for every message from now on; survives reconnects."""
        self._sid += 1
        sid = self._sid
        # Known to the library, so that it subscribes again after a reconnect.
        self._subs[sid] = Subscription(self, sid, subject)
        self._handlers[sid] = handler
        self.write_soon(b"SUB %s  %d\r\n" % (subject.encode(), sid))
        return sid

    def mute(self, sid: int) -> None:
        """Ask the server for no more; what is already on its way is still handled."""
        self._subs.pop(sid, None)
        self.write_soon(b"UNSUB %d\r\n" % sid)

    def forget(self, sid: int) -> None:
        """Drop the handler of a muted subscription."""
        self._handlers.pop(sid, None)

    def write_soon(self, frame: bytes) -> bool:
        """Send a whole protocol frame at the end of this turn, unless disconnected."""
        if not self.is_connected:
            return False
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        if not self._write_due:
            self._write_due = True
            asyncio.get_running_loop().call_soon(self.write_now)
        return True

    def write_now(self) -> None:
        """Hand everything written so far to the socket."""
        self._write_due = False
        if not self._pending or not self.is_connected or self._transport is None:
            return
        frames, self._pending = self._pending, []
        self._pending_data_size = 0
        self._transport.write(b"".join(frames))

    def discard_unsent(self) -> None:
        """Forget frames that did not leave before the connection went."""
        self._pending = []
        self._pending_data_size = 0

    async def abandon(self) -> None:
        """Close whatever state a failed connect left; the library may keep a socket."""
        await self.close()
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]

    async def _read_loop(self) -> None:
        # The handshake is over and nothing is subscribed to on this connection yet.
        if isinstance(self._transport, TcpTransport) and self._transport._io_writer:
            socket = self._transport._io_writer.transport
            socket.set_protocol(_Shortcut(self._deliver, socket.get_protocol()))
        await super()._read_loop()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self._deliver(sid, subject, reply, data, headers)

    def _deliver(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        self._messages += 1
        handler = self._handlers.get(sid)
        if handler is None:
            return  # muted, and this was still on its way
        try:
            handler(subject, reply, data, headers)
        except Exception:
            # An error here would end the connection. Every handler's work is repeated
            # when it is lost: appends are retried, commands delivered again, readers
            # notice the gap.
            log.exception("message.handler_failed", subject=subject.decode())

    async def _process_err(self, err_msg: str) -> None:
        # The library closes for good on most errors; expired credentials or a server's
        # limit are no reason to give up (RT-NATS-35: reconnect for ever).
        error = errors.Error(f"nats: {err_msg}")
        await self._error_cb(error)
        if "permissions violation" not in err_msg:
            self._err = error
            await self._process_op_err(error)


class _Shortcut(asyncio.Protocol):
    """Between the socket and the library's protocol: takes the messages out."""

    def __init__(self, deliver: Deliver, theirs: asyncio.BaseProtocol) -> None:
        assert isinstance(theirs, asyncio.StreamReaderProtocol)
        self._theirs = theirs
        self.data_received = Frames(deliver, theirs.data_received).feed  # type: ignore[method-assign]

    def eof_received(self) -> bool | None:
        return self._theirs.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._theirs.connection_lost(exc)

    def pause_writing(self) -> None:
        self._theirs.pause_writing()

    def resume_writing(self) -> None:
        self._theirs.resume_writing()
