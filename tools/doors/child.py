"""Warm child processes that answer one question at a time over a socket of their own.

What a child prints is collected from its real outputs; what it answers comes on a
socket nobody prints to, and must repeat an unguessable id. A child that is cancelled,
dies, lies or leaves something behind is ended with its whole group and replaced.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Final, cast

import anyio
from anyio.abc import Process
from msgspec import DecodeError, Raw, Struct, ValidationError
from msgspec.json import Decoder

from state_builder.errors import LimitExceededError, NoetlError
from state_builder.records import JSON, encode_json
from tools.doors.files import remove_scratch
from tools.doors.process import (
    DISCARD_PAUSE_S,
    Bounds,
    Capture,
    Census,
    end_group,
    start,
)

_HEAD: Final = 4
_PIPE_READ: Final = 1 << 16


class Fault(Struct, kw_only=True):
    """Why there is no result; ``exception`` names the class user code raised."""

    kind: str
    message: str
    exception: str = ""
    traceback: str = ""
    retryable: bool = False


class Answer(Struct, kw_only=True):
    """What a child says of one run.

    Attributes:
        dirty: the run left something behind, the child must not be used again.
        value: the result; empty when there is none.
        exit: the code user code wanted to exit with.
        failure: why there is no result.
    """

    id: str
    dirty: bool = False
    value: Raw = Raw(b"")
    exit: int | None = None
    failure: Fault | None = None


_decode_answer = Decoder(Answer).decode


class ChildDiedError(NoetlError):
    """A child that ended, or said what cannot be understood.

    Attributes:
        exit_code: its exit code, minus the signal that ended it, None while it lives.
    """

    code = "child_died"

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = code


class _Wire(asyncio.Protocol):
    """Frames from a child; at most one is waited for."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._buffer = bytearray()
        self._limit = frame_bytes_max
        self._waiter: asyncio.Future[bytes] | None = None
        self._lost = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        waiter = self._waiter
        if waiter is None or waiter.done() or len(self._buffer) < _HEAD:
            return
        size = int.from_bytes(self._buffer[:_HEAD], "big")
        if size > self._limit:
            text = f"an answer of {size:,} bytes, at most {self._limit:,} are allowed"
            waiter.set_exception(LimitExceededError("result_bytes_max", text))
        elif len(self._buffer) >= _HEAD + size:
            waiter.set_result(bytes(self._buffer[_HEAD : _HEAD + size]))
            del self._buffer[: _HEAD + size]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ChildDiedError("it ended"))

    async def ask(self, frame: bytes) -> bytes:
        """Send a frame and wait for the next one."""
        if self._lost or self._buffer or self.transport is None:
            raise ChildDiedError("it was not ready")
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(len(frame).to_bytes(_HEAD, "big") + frame)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """Hang up."""
        if self.transport is not None:
            self.transport.abort()


class _Outlet:
    """The reading end of a child's output; keeps what the current run said."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._loop = asyncio.get_running_loop()
        self._open = True
        self.capture = Capture(limit)
        self._loop.add_reader(self._reader, self._read)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._reader, _PIPE_READ)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(self._reader)
            return False
        self.capture.take(chunk)
        if self.capture.truncated:
            self._loop.remove_reader(self._reader)
            self._loop.call_later(DISCARD_PAUSE_S, self._resume)
        return True

    def _resume(self) -> None:
        if self._open:
            self._loop.add_reader(self._reader, self._read)

    def begin(self) -> None:
        """Forget what was said before."""
        if self.capture.total:
            self.capture = Capture(self._limit)

    def finish(self) -> Capture:
        """All that was said up to now."""
        while self._open and self._read():
            pass
        return self.capture

    def close_writer(self) -> None:
        """The child has its own copy by now."""
        os.close(self.writer)

    def close(self) -> None:
        """Stop reading."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._reader)
            os.close(self._reader)


class Child:
    """One process that answers questions."""

    def __init__(
        self,
        process: Process,
        wire: _Wire,
        stdout: _Outlet,
        stderr: _Outlet,
        home: str,
        processes_max: int,
    ) -> None:
        self._process = process
        self._processes_max = processes_max
        self._wire = wire
        self._stdout = stdout
        self._stderr = stderr
        self._home = home
        self.runs = 0

    @classmethod
    async def start(
        cls,
        argv: Callable[[int], Sequence[str]],
        *,
        env: Mapping[str, str],
        home: str,
        answer_bytes_max: int,
        bounds: Bounds,
    ) -> Child:
        """Start a program; ``argv`` is told the number of its control socket.

        ``home`` is a scratch directory the child works in and takes with it.
        """
        ours, theirs = socket.socketpair()
        limit = bounds.output_bytes_max
        stdout, stderr = _Outlet(limit), _Outlet(limit)
        try:
            ours.setblocking(False)
            process = await start(
                argv(theirs.fileno()),
                env=env,
                cwd=home,
                stdout=stdout.writer,
                stderr=stderr.writer,
                pass_fds=(theirs.fileno(),),
            )
        except BaseException:
            ours.close()
            stdout.close()
            stderr.close()
            remove_scratch(home)
            raise
        finally:
            theirs.close()
            stdout.close_writer()
            stderr.close_writer()
        loop = asyncio.get_running_loop()
        with anyio.CancelScope(shield=True):
            _, wire = await loop.create_unix_connection(
                lambda: _Wire(answer_bytes_max), sock=ours
            )
        return cls(process, wire, stdout, stderr, home, bounds.processes_max)

    async def ask(self, question: dict[str, JSON]) -> tuple[Answer, Capture, Capture]:
        """The answer, and what was printed meanwhile.

        Raises ChildDiedError or LimitExceededError; the child is of no use then.
        """
        self._stdout.begin()
        self._stderr.begin()
        self.runs += 1
        nonce = token_hex(8)
        census = Census(self._process.pid, self._processes_max)
        try:
            with census:
                frame = await self._wire.ask(encode_json({"id": nonce, **question}))
            answer = _decode_answer(frame)
        except ChildDiedError as died:
            census.check()
            raise ChildDiedError(str(died), await self._code()) from None
        except (DecodeError, ValidationError) as error:
            raise ChildDiedError(f"its answer cannot be read: {error}") from error
        if answer.id != nonce:
            raise ChildDiedError("its answer is not to this question")
        return answer, self._stdout.finish(), self._stderr.finish()

    def printed(self) -> tuple[Capture, Capture]:
        """What the current run printed so far."""
        return self._stdout.finish(), self._stderr.finish()

    async def end(self) -> None:
        """End the process and everything it started."""
        self._wire.close()
        await end_group(self._process)
        self._stdout.close()
        self._stderr.close()
        remove_scratch(self._home)

    async def _code(self) -> int | None:
        with suppress(TimeoutError), anyio.fail_after(1.0):
            return await self._process.wait()
        return None


class Children:
    """A pool of children; each runs one question at a time."""

    def __init__(
        self, start: Callable[[], Awaitable[Child]], *, size: int, runs_max: int
    ) -> None:
        self._start = start
        self._slots = anyio.Semaphore(size, fast_acquire=True)
        self._runs_max = runs_max
        self._idle: list[Child] = []

    async def ask(self, question: dict[str, JSON]) -> tuple[Answer, Capture, Capture]:
        """Ask the child that was used last; a failed or cancelled one is ended."""
        async with self._slots:
            child = self._idle.pop() if self._idle else await self._start()
            clean = False
            try:
                answer = await child.ask(question)
                clean = not answer[0].dirty and child.runs < self._runs_max
                return answer
            finally:
                if clean:
                    self._idle.append(child)
                else:
                    await child.end()

    async def close(self) -> None:
        """End all idle children; those at work end with their questions."""
        idle, self._idle = self._idle, []
        for child in idle:
            await child.end()
