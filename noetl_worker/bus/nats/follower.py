"""Reading the log in order: one standing pull, nothing skipped, nothing twice.

A reader holds at most ``follow_prefetch`` messages or ``follow_prefetch_bytes``, asked
for and not yet handed over taken together. The consumer on the broker is disposable: a
gap in its numbering, silence, a reconnect or its loss replaces it by one that starts
after the last message received, so its own state never matters.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import structlog
from msgspec.json import encode

from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.jetstream import JetStream
from noetl_worker.bus.nats.wire import (
    HEARTBEAT,
    description,
    header,
    metadata,
    publish_frame,
    status_of,
)
from noetl_worker.bus.topology import Topology
from state_builder.errors import LostDataError, UnavailableError
from state_builder.ids import Shard
from state_builder.ports import LogMessage

_EXPIRES_S = 60.0
_numbers = itertools.count(1)

log = structlog.get_logger(__name__)


class Follower:
    """One reader of the log; use :meth:`batches` once."""

    def __init__(
        self,
        connection: Connection,
        topology: Topology,
        shards: Sequence[Shard] | None,
        *,
        after: int,
        leases: bool,
    ) -> None:
        self._connection = connection
        self._jetstream = JetStream(connection)
        self._topology = topology
        self._settings = topology.settings
        self._subjects = topology.log_subjects(shards, leases)
        self._received = after
        self._after = after
        self._created = ""
        self._buffer: list[LogMessage] = []
        self._outstanding = 0
        self._consumer = ""
        self._consumer_sequence = 0
        self._sid = 0
        self._inbox = ""
        self._heard_at = 0.0
        self._stale = "start"
        self._wake: asyncio.Future[None] | None = None

    async def batches(self) -> AsyncIterator[list[LogMessage]]:
        """See ``EventLog.follow``."""
        connection = self._connection
        stop_state = connection.on_state(self._state_changed)
        stop_pulse = connection.on_pulse(self._check_silence)
        size = self._settings.follow_batch
        try:
            while True:
                if self._buffer:
                    batch = self._buffer[:size]
                    del self._buffer[:size]
                    self._ask_for_more()
                    yield batch
                elif self._stale:
                    await self._restart()
                else:
                    await self._wait()
        finally:
            stop_state()
            stop_pulse()
            self._dispose()

    async def _wait(self) -> None:
        self._wake = self._connection.loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _restart(self) -> None:
        """A new consumer after the last message received, however long it takes."""
        if self._stale != "start":
            log.warning("reader.restarted", reason=self._stale, after=self._received)
        wait_s = 0.05
        while True:
            await self._connection.wait_up()
            self._dispose()
            try:
                await self._check_continuity()
                await self._begin()
            except UnavailableError as error:
                log.warning("reader.delayed", reason=str(error))
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, 2.0)
            else:
                return

    async def _check_continuity(self) -> None:
        info = await self._jetstream.stream_info(self._topology.stream)
        first, last = info.state.first_seq, info.state.last_seq
        if self._created and info.created != self._created:
            raise LostDataError(
                f"the log was made anew at {info.created} while it was read (before: "
                f"{self._created}); restart this process after checking the broker"
            )
        if last < self._received:
            raise LostDataError(
                f"the log ends at {last}, but {self._received} was already read: the "
                "broker lost its tail; run `noetl repair`"
            )
        # Later, a reader of some shards cannot tell a trimmed message from one of
        # another shard; what it must not miss is kept by the janitor's floors.
        beginning = not self._created
        if 0 < self._received < first - 1 and (beginning or not self._subjects):
            raise LostDataError(
                f"the log begins at {first}, messages after {self._received} are "
                "needed: they were trimmed; run `noetl repair`"
            )
        self._created = info.created

    async def _begin(self) -> None:
        self._consumer = f"reader_{self._connection.name}_{next(_numbers)}"
        self._consumer_sequence = 0
        self._outstanding = 0
        self._inbox = self._connection.new_inbox()
        self._heard_at = self._connection.loop.time()
        self._stale = ""
        self._sid = self._connection.listen(self._inbox, self._handle)
        config = self._topology.reader_consumer(
            self._consumer, self._received + 1, self._subjects
        )
        try:
            await self._jetstream.make_consumer(self._topology.stream, config)
        except UnavailableError:
            self._stale = "consumer refused"
            raise
        self._ask_for_more()

    def _dispose(self) -> None:
        if not self._sid:
            return
        self._connection.mute(self._sid)
        self._sid = 0
        subject = f"$JS.API.CONSUMER.DELETE.{self._topology.stream}.{self._consumer}"
        self._connection.send(publish_frame(subject, b""))

    def _ask_for_more(self) -> None:
        settings = self._settings
        room = settings.follow_prefetch - self._outstanding - len(self._buffer)
        if self._stale or room < settings.follow_prefetch // 2:
            return
        self._outstanding += room
        body = {
            "batch": room,
            # At most two requests stand at a time, and each holds a whole message.
            "max_bytes": settings.follow_prefetch_bytes // 2,
            "expires": int(_EXPIRES_S * 1e9),
            "idle_heartbeat": int(settings.heartbeat_s * 1e9),
        }
        stream = self._topology.stream
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{self._consumer}"
        self._connection.send(publish_frame(subject, encode(body), self._inbox))

    def _handle(
        self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        self._heard_at = self._connection.loop.time()
        status = status_of(headers)
        if status and headers is not None:
            self._handle_status(status, headers)
            return
        if self._stale:
            return
        about = metadata(reply)
        if about.consumer_sequence != self._consumer_sequence + 1:
            self._mark_stale("gap")
            return
        self._consumer_sequence += 1
        self._outstanding -= 1
        self._received = about.stream_sequence
        place = self._topology.place(subject)
        self._buffer.append(
            LogMessage(
                about.stream_sequence,
                place.shard,
                place.kind,
                data,
                about.stored_ns / 1e9,
            )
        )
        self._notify()

    def _handle_status(self, status: int, headers: bytes) -> None:
        if status == HEARTBEAT:
            return
        unused = header(headers, b"Nats-Pending-Messages")
        if status not in {408, 409} or unused is None:
            self._mark_stale(f"{status} {description(headers)}".strip())
            return
        # This request ended before it was used up: its rest is not on its way.
        self._outstanding -= int(unused)
        self._ask_for_more()

    def _state_changed(self, connected: bool) -> None:
        if not connected:
            self._mark_stale("disconnected")

    def _check_silence(self, now: float) -> None:
        quiet = now - self._heard_at
        if (
            not self._stale
            and self._outstanding
            and quiet > 2.5 * self._settings.heartbeat_s
        ):
            self._mark_stale("silence")

    def _mark_stale(self, reason: str) -> None:
        if not self._stale:
            self._stale = reason
            self._notify()
