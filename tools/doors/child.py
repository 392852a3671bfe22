"""One warm child process that answers questions, one at a time, over a socket.

What a child prints is collected from its real outputs; what it answers comes on a
socket nobody prints to, and must repeat an unguessable id. Quick questions are given
some ahead of time, so that nobody waits for the other between two of them; those not
begun can be taken back at any moment. Before a child begins one it takes the byte that
stands for it from a second socket, of which both sides hold the same end: whoever
takes a byte has the question.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Final, Protocol

import anyio
from anyio.abc import Process
from msgspec import DecodeError, Raw, Struct, ValidationError
from msgspec.json import Decoder

from state_builder.errors import LimitExceededError, NoetlError
from state_builder.records import JSON, encode_json
from tools.doors.files import remove_scratch
from tools.doors.process import (
    CENSUS_S,
    DISCARD_PAUSE_S,
    Bounds,
    Capture,
    Census,
    end_group,
    start,
)

AHEAD_MAX: Final = 16 if sys.platform == "linux" else 1
"""Questions a child has at once; only Linux lets it count what it has printed."""

QUICK_S: Final = 0.005
"""A child whose last answer took no longer is given questions ahead."""

STALL_S: Final = 0.01
"""A question that takes longer gives up those behind it."""

_HEAD: Final = struct.Struct("!IB")
_ANSWER_HEAD: Final = 4
_READ: Final = 1 << 16


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
        printed: there was something in its outputs when the run ended; it begins no
            other one before that was taken.
        value: the result; empty when there is none.
        exit: the code user code wanted to exit with.
        failure: why there is no result.
    """

    id: str
    dirty: bool = False
    printed: bool = False
    value: Raw = Raw(b"")
    exit: int | None = None
    failure: Fault | None = None


_NOTHING: Final = Capture(0)

_decode_answer = Decoder(Answer).decode

Said = tuple[Answer, Capture, Capture]
"""An answer, and what was printed meanwhile."""


class ChildDiedError(NoetlError):
    """A child that ended, or said what cannot be understood.

    Attributes:
        exit_code: its exit code, minus the signal that ended it, None while it lives.
    """

    code = "child_died"

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = code


class Call:
    """A question on its way.

    Attributes:
        turn: what was said; None asks whoever waits to start a child.
        child: who has or had the question.
        last: the child must be ended before the answer is of use.
        told: whoever waits was asked to start a child.
    """

    __slots__ = ("body", "child", "last", "nonce", "told", "turn")

    def __init__(self, question: dict[str, JSON]) -> None:
        self.nonce = token_hex(8)
        self.body = encode_json({"id": self.nonce, **question})
        self.turn: asyncio.Future[Said | None] = asyncio.Future()
        self.child: Child | None = None
        self.last = False
        self.told = False

    def tell_to_start(self) -> None:
        """Ask whoever waits for a child; an answer may come meanwhile."""
        turn, self.turn, self.told = self.turn, asyncio.Future(), True
        if not turn.done():
            turn.set_result(None)

    def settle(self, said: Said) -> None:
        """Tell whoever waits, unless they are gone."""
        if not self.turn.done():
            self.turn.set_result(said)

    def fail(self, error: NoetlError) -> None:
        """Tell them that there is no answer; the child is of no use then."""
        self.last = True
        if not self.turn.done():
            self.turn.set_exception(error)


class _Outlet:
    """The reading end of a child's output; keeps what was said and not yet taken."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._loop = asyncio.get_running_loop()
        self._listening = False
        self.capture = Capture(limit)

    def listen(self, on: bool) -> None:
        """Take what is said as it comes, or leave it in the pipe."""
        if on and not self._listening:
            self._loop.add_reader(self._reader, self._read)
        elif self._listening and not on:
            self._loop.remove_reader(self._reader)
        self._listening = on

    def rest(self) -> Capture:
        """All that was said up to now."""
        while self._read():
            pass
        taken = self.capture
        if taken.total:
            self.capture = Capture(self._limit)
            return taken
        return _NOTHING

    def close_writer(self) -> None:
        """The child has its own copy by now."""
        os.close(self.writer)

    def close(self) -> None:
        """Stop reading; call once."""
        self.listen(False)
        os.close(self._reader)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._reader, _READ)
        except BlockingIOError:
            return False
        if not chunk:
            self.listen(False)
            return False
        self.capture.take(chunk)
        if self.capture.truncated and self._listening:
            # An endless output costs others nothing.
            self._loop.remove_reader(self._reader)
            self._loop.call_later(DISCARD_PAUSE_S, self._resume)
        return True

    def _resume(self) -> None:
        if self._listening:
            self._loop.add_reader(self._reader, self._read)


class Owner(Protocol):
    """Who has children and the questions for them."""

    def put_back(self, calls: Sequence[Call]) -> None:
        """Somebody else may have these."""

    def hand_out(self) -> None:
        """Answers have come."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a child may be asked and may answer.

    Attributes:
        runs_max: questions after which it is replaced.
    """

    answer_bytes_max: int
    runs_max: int
    bounds: Bounds


class Child:
    """One process that answers questions.

    Attributes:
        calls: given and not answered, in order; all but the first may be taken back.
        lost: it ended, lied, or must not be used again.
    """

    def __init__(
        self,
        process: Process,
        sockets: tuple[socket.socket, socket.socket, socket.socket],
        outlets: tuple[_Outlet, _Outlet],
        home: str,
        terms: Terms,
    ) -> None:
        self._process = process
        self._control, self._tickets, self._their_tickets = sockets
        self._outlets = outlets
        self._home = home
        self._terms = terms
        self._census = Census(process.pid, terms.bounds.processes_max)
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._heard = bytearray()
        self._since = 0.0
        self._given = 0
        self._quick = False
        self._listening = False
        self._ended = False
        self._ending = asyncio.Lock()
        self.owner: Owner | None = None
        self.calls: deque[Call] = deque()
        self.lost = False

    @classmethod
    async def start(
        cls,
        argv: Callable[[int, int], Sequence[str]],
        *,
        env: Mapping[str, str],
        home: str,
        terms: Terms,
    ) -> Child:
        """Start a program; ``argv`` is told the numbers of its two sockets.

        ``home`` is a scratch directory the child works in and takes with it.
        """
        control, theirs = socket.socketpair()
        tickets, their_tickets = socket.socketpair()
        limit = terms.bounds.output_bytes_max
        outlets = _Outlet(limit), _Outlet(limit)
        try:
            control.setblocking(False)
            process = await start(
                argv(theirs.fileno(), their_tickets.fileno()),
                env=env,
                cwd=home,
                stdout=outlets[0].writer,
                stderr=outlets[1].writer,
                pass_fds=(theirs.fileno(), their_tickets.fileno()),
            )
        except BaseException:
            for one in (control, tickets, their_tickets, *outlets):
                one.close()
            remove_scratch(home)
            raise
        finally:
            theirs.close()
            for outlet in outlets:
                outlet.close_writer()
        return cls(process, (control, tickets, their_tickets), outlets, home, terms)

    def room(self) -> int:
        """How many more questions it may be given now."""
        if self.lost or (
            self.calls and any(one.capture.total for one in self._outlets)
        ):
            # Once some output is taken, the rest in the pipe must be of the same run.
            return 0
        most = AHEAD_MAX if self._quick else 1
        return min(most - len(self.calls), self._terms.runs_max - self._given)

    def give(self, calls: Sequence[Call]) -> None:
        """Send questions; the first is begun when those before it are answered."""
        if not self.calls:
            self._since = self._loop.time()
        tickets = bytearray()
        for call in calls:
            call.child = self
            tickets.append(self._given & 0xFF)
            self._unsent += _HEAD.pack(len(call.body), self._given & 0xFF) + call.body
            self._given += 1
        self.calls.extend(calls)
        self._listen()
        self._send()
        with suppress(OSError):  # it is gone, which the other socket tells
            self._tickets.send(tickets)

    def take_back(self) -> list[Call]:
        """The questions it has not begun; it will pass them over.

        It gets no more ahead until it answers: so few are passed over that a byte is
        enough to tell them apart.
        """
        self._quick = False
        count = 0
        with suppress(OSError):
            count = len(self._their_tickets.recv(AHEAD_MAX, socket.MSG_DONTWAIT))
        back = [self.calls.pop() for _ in range(count)]
        for call in back:
            call.child = None
        return back[::-1]

    def read(self) -> None:
        """Settle what it has answered by now."""
        while not self.lost:
            try:
                chunk = self._control.recv(_READ)
            except BlockingIOError:
                break
            except ConnectionError:
                chunk = b""
            if not chunk:
                self._lose(ChildDiedError("it ended"))
                return
            self._heard += chunk
            self._settle()
            if len(chunk) < _READ:
                break
        self._listen()

    def look(self) -> None:
        """Read answers nobody listens for; let a slow one give up what is behind it."""
        if len(self.calls) > 1:
            self.read()
        age = self._loop.time() - self._since
        if len(self.calls) > 1 and age > STALL_S:
            self._give_up()
            self.read()
        elif self.calls and age > CENSUS_S:
            self._census.look()

    async def fate(self, died: ChildDiedError) -> ChildDiedError:
        """How it died. Raises LimitExceededError when it had too many processes."""
        self._census.check()
        code: int | None = None
        with suppress(TimeoutError), anyio.fail_after(1.0):
            code = await self._process.wait()
        return ChildDiedError(str(died), code)

    async def end(self) -> None:
        """End the process and everything it started."""
        async with self._ending:
            if self._ended:
                return
            self.lost = self._ended = True
            self._listen()
            self._loop.remove_writer(self._control)
            for one in (self._control, self._tickets, self._their_tickets):
                one.close()
            await end_group(self._process)
            for outlet in self._outlets:
                outlet.close()
            remove_scratch(self._home)

    def _listen(self) -> None:
        """Hear a lone answer at once; several are read together, a bit later.

        Output is taken as it comes while it can only be of one run.
        """
        on = len(self.calls) < 2 and not self._ended
        if on is self._listening:
            return
        self._listening = on
        if on:
            self._loop.add_reader(self._control, self._heard_it)
        else:
            self._loop.remove_reader(self._control)
        for outlet in self._outlets:
            outlet.listen(on)

    def _heard_it(self) -> None:
        self.read()
        if self.lost:
            self._loop.remove_reader(self._control)
        if self.owner is not None:
            self.owner.hand_out()

    def _send(self) -> None:
        """As much as the socket takes; the rest when it takes more."""
        waited = len(self._unsent)
        try:
            del self._unsent[: self._control.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # it is gone, which reading tells
        if self._unsent:
            self._loop.add_writer(self._control, self._send)
        elif waited:
            self._loop.remove_writer(self._control)

    def _settle(self) -> None:
        heard = self._heard
        while len(heard) >= _ANSWER_HEAD and not self.lost:
            size = int.from_bytes(heard[:_ANSWER_HEAD], "big")
            limit = self._terms.answer_bytes_max
            if size > limit:
                text = f"an answer of {size:,} bytes, at most {limit:,} are allowed"
                self._lose(LimitExceededError("result_bytes_max", text))
                return
            end = _ANSWER_HEAD + size
            if len(heard) < end:
                return
            frame = bytes(heard[_ANSWER_HEAD:end])
            del heard[:end]
            self._answered(frame)

    def _answered(self, frame: bytes) -> None:
        try:
            answer = _decode_answer(frame)
        except (DecodeError, ValidationError) as error:
            self._lose(ChildDiedError(f"its answer cannot be read: {error}"))
            return
        if not self.calls or answer.id != self.calls[0].nonce:
            self._lose(ChildDiedError("its answer is not to this question"))
            return
        call = self.calls.popleft()
        if answer.dirty:
            self._give_up()
        stdout = stderr = _NOTHING
        if answer.printed or not self.calls:
            stdout, stderr = map(_Outlet.rest, self._outlets)
        worn = not self.calls and self._given >= self._terms.runs_max
        if answer.dirty or worn:
            call.last = self.lost = True
        now = self._loop.time()
        self._quick = now - self._since < QUICK_S and not answer.printed
        self._since = now
        call.settle((answer, stdout, stderr))

    def _give_up(self) -> None:
        """Let others have what is not begun here."""
        back = self.take_back()
        if back and self.owner is not None:
            self.owner.put_back(back)

    def _lose(self, error: NoetlError) -> None:
        self.lost = True
        self._give_up()
        for call in self.calls:
            call.fail(error)
        self.calls.clear()
