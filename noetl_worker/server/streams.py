"""Live streams: everything that happened in an execution, then what happens (SSE).

One frame per event with ``id`` = event id, so a client that comes back names the last
one it saw. A quiet stream carries a comment now and then; it ends after the terminal
event. A reader that cannot keep up is told so in a comment and let go. For who waits
for the end alone the log is not followed: the owner says where it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import structlog

from noetl_worker.server.ends import Ends
from noetl_worker.server.history import History
from noetl_worker.server.hub import Hub, Listener, Logged, events_of
from noetl_worker.server.live import Live
from noetl_worker.server.ports import EdgeSettings, ServerPorts
from noetl_worker.server.shapes import (
    EventAnswer,
    Facts,
    event_of_log,
    event_of_row,
)
from state_builder.errors import UnavailableError
from state_builder.records import TERMINAL_STATUS, encode_json

log = structlog.get_logger(__name__)

ALL_TYPES: Final[frozenset[str]] = frozenset()
"""No choice among the types of events: a client is told them all."""

END_ONLY: Final = frozenset({"terminal"})

END_AGAIN_S: Final = 2.0
"""How often who waits for an end looks for itself: what it was told may be lost."""

RETRY_MS: Final = 1000
HEARTBEAT: Final = b": heartbeat\n\n"


class Streams:
    """Opens live streams."""

    def __init__(
        self,
        ports: ServerPorts,
        settings: EdgeSettings,
        live: Live,
        history: History,
        hub: Hub,
        ends: Ends,
    ) -> None:
        self._ports = ports
        self._heartbeat_s = settings.server.stream_heartbeat_s
        self._live = live
        self._history = history
        self._hub = hub
        self._ends = ends

    async def is_over(self, execution_id: str, after: int) -> bool:
        """Whether a client that saw ``after`` has seen the end.

        Raises NotFoundError, UnavailableError.
        """
        await self._live.facts(execution_id)
        if not after:
            return False
        status = await self._live.status(execution_id, "events")
        return status.over and after >= int(status.last_event_id or 0)

    async def frames(
        self, execution_id: str, after: int, only: frozenset[str] = ALL_TYPES
    ) -> AsyncIterator[bytes]:
        """The stream of an execution after an event id; 0 for all of it.

        ``only`` events of some types are told; the terminal always is.
        """
        yield f"retry: {RETRY_MS}\n\n".encode()
        try:
            if only == END_ONLY:
                async for frame in self._end(execution_id, after):
                    yield frame
                return
            wanted = only | TERMINAL_STATUS.keys() if only else ALL_TYPES
            listener = await self._hub.join(execution_id)
            try:
                facts = await self._live.facts(execution_id)
                told = _Told(execution_id, facts, after, wanted)
                async for frame in self._past(told):
                    yield frame
                async for frame in self._coming(told, listener):
                    yield frame
            finally:
                self._hub.leave(listener)
        except UnavailableError as error:
            log.warning("stream.ended", execution_id=execution_id, reason=str(error))
            yield f": unavailable, come back later: {_line(str(error))}\n\n".encode()

    async def _end(self, execution_id: str, after: int) -> AsyncIterator[bytes]:
        facts = await self._live.facts(execution_id)
        told = _Told(execution_id, facts, after, frozenset(TERMINAL_STATUS))
        wait_s = END_AGAIN_S if self._history.started(execution_id) else 0.0
        while not told.over:
            place = await self._ends.wait(execution_id, wait_s)
            wait_s = END_AGAIN_S
            if place and (frame := await self._end_at(place, told)):
                yield frame
            elif (await self._live.status(execution_id, "events")).over:
                async for found in self._past(told):
                    yield found
            else:
                yield HEARTBEAT
                if place:  # heard of and nowhere found yet: not again at once
                    await self._ports.clock.sleep(END_AGAIN_S)

    async def _end_at(self, sequence: int, told: _Told) -> bytes:
        """The end in a message of the log.

        Nothing when it was trimmed, or when the event before it is not there too.
        """
        message = await self._ports.log.read(sequence)
        if message is None:
            return b""
        generation = (await self._ports.log.info()).generation
        found = events_of(message, told.execution_id, generation)
        if not found or found[0].event.type in TERMINAL_STATUS:
            return b""
        return b"".join(map(told.log, found))

    async def _past(self, told: _Told) -> AsyncIterator[bytes]:
        recent = self._recent(told)
        if recent is not None:
            frames = map(told.log, recent)
            if told_now := b"".join(frames):
                yield told_now
            return
        until = await self._ports.log.info()
        async for found in self._history.since(told.execution_id, told.last, until):
            frame = (
                told.log(found)
                if isinstance(found, Logged)
                else told.row(event_of_row(found))
            )
            if frame:
                yield frame

    def _recent(self, told: _Told) -> list[Logged] | None:
        """The past where the hub still holds all of it."""
        eid, after = told.execution_id, told.last
        place = self._history.place(eid, after, self._hub.generation)
        found = None if place is None else self._hub.past(eid, place)
        return found and [logged for logged in found if logged.event_id > after]

    async def _coming(self, told: _Told, listener: Listener) -> AsyncIterator[bytes]:
        while not told.over:
            frames = []
            for logged in listener.take():
                # What history told already is in the listener's buffer too.
                if logged.event_id > told.last and not told.over:
                    frames.append(told.log(logged))
            if told_now := b"".join(frames):
                yield told_now
            elif listener.closed:
                yield f": closed ({listener.closed}), reconnect\n\n".encode()
                return
            elif not frames and not await listener.wait(self._heartbeat_s):
                yield HEARTBEAT


class _Told:
    """How far a stream is, and its frames.

    Attributes:
        last: id of the last event told.
        over: the terminal was told.
    """

    def __init__(
        self, execution_id: str, facts: Facts, after: int, wanted: frozenset[str]
    ) -> None:
        self.execution_id = execution_id
        self._wanted = wanted
        self.last = after
        self.over = False
        self._facts = facts

    def log(self, logged: Logged) -> bytes:
        """A frame straight from the log; nothing for an event nobody asked for."""
        if self._wanted and logged.event.type not in self._wanted:
            self.last = logged.event_id
            return b""
        answer = event_of_log(self.execution_id, logged, self._facts, self.last)
        return self.row(answer)

    def row(self, answer: EventAnswer) -> bytes:
        """A frame; nothing for an event nobody asked for."""
        self.last = int(answer.event_id)
        if self._wanted and answer.event_type not in self._wanted:
            return b""
        self.over = self.over or answer.event_type in TERMINAL_STATUS
        head = f"id: {answer.event_id}\nevent: {_line(answer.event_type)}\ndata: "
        return head.encode() + encode_json(answer) + b"\n\n"


def _line(text: str) -> str:
    """A text on one line, as a field of a frame must be."""
    return " ".join(text.split())
