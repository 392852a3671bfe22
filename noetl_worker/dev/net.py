"""Loopback ports: finding free ones, and asking who answers on one.

A port found free can be taken by somebody else before it is used; the process that
wanted it then says so in its log, and the start fails with that line.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

import anyio

from noetl_worker.dev.child import StackError

LOOPBACK = "127.0.0.1"
ANSWER_BYTES_MAX = 16 * 1024
ANSWER_TIMEOUT_S = 2.0


def free_ports(count: int) -> list[int]:
    """Different ports nobody listened on a moment ago."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def claim_port(port: int, what: str, option: str) -> int:
    """The port itself when it is free to listen on, a free one for 0.

    Raises:
        StackError: taken or not allowed; names the option that chooses another.
    """
    if port == 0:
        return free_ports(1)[0]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = (
                "is taken by another process" if taken else f"cannot be used: {error}"
            )
            raise StackError(
                f"port {port} for {what} {reason}; choose another with {option} "
                f"(0 = any free one)"
            ) from error
    return port


async def http_status(port: int, path: str) -> int | None:
    """Status of ``GET path`` on a loopback port; None when nobody answers HTTP."""
    request = f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n"
    answer = await exchange(port, request.encode())
    words = answer.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return None
    return int(words[1])


async def exchange(port: int, request: bytes) -> bytes:
    """Send ``request`` (may be empty) and return the first bytes that come back."""
    with anyio.move_on_after(ANSWER_TIMEOUT_S):
        try:
            async with await anyio.connect_tcp(LOOPBACK, port) as stream:
                if request:
                    await stream.send(request)
                return await stream.receive(ANSWER_BYTES_MAX)
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            return b""
    return b""
