"""Storing appends: pipelined, in order, repeated until stored or refused.

All acknowledgements come in over one inbox and are matched by token; there is no task
and no timer per append. A message whose answer is lost, late or "not now" is sent again
with the same bytes under the same id, and with it everything of its shard that is still
unconfirmed behind it, in the order of the calls (RT-NATS-20, -25).

Invariant: a message is in exactly one of backlog, held (its shard waits) and in flight
until its callers know its fate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final

import structlog
from msgspec import DecodeError

from noetl_worker.bus.appends import (
    AppendQueue,
    Outgoing,
    check_size,
    count_events,
    encode,
)
from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.wire import (
    NO_RESPONDERS,
    Reply,
    decode_pub_ack,
    headed_frame,
    header_block,
)
from noetl_worker.bus.topology import BusSettings, Topology
from state_builder.errors import (
    FencedError,
    LimitExceededError,
    LogFullError,
    NoetlError,
    UnavailableError,
)
from state_builder.ids import Shard
from state_builder.ports import Appended
from state_builder.records import Record

WRONG_LAST_SEQUENCE = 10071
LOG_FULL = 10077
MESSAGE_TOO_LARGE: Final = {10054, 10060}
_BACKOFF_FIRST_S = 0.1

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Flight:
    """A message on its way."""

    message: Outgoing
    frame: bytes
    sent_at: float


@dataclass(slots=True)
class _Lane:
    """What waits in a shard while an earlier message of it is being repeated."""

    waiting: bool = False
    backoff_s: float = _BACKOFF_FIRST_S
    held: deque[Outgoing] = field(default_factory=deque)


class Appender:
    """The appending half of the log; see ``EventLog.append`` for the promises."""

    def __init__(self, connection: Connection, topology: Topology) -> None:
        self._connection = connection
        self._topology = topology
        self._settings: BusSettings = topology.settings
        self._queue = AppendQueue(topology.settings)
        self._turn_due = False
        self._backlog: deque[Outgoing] = deque()
        self._flights: dict[bytes, _Flight] = {}
        self._flight_bytes = 0
        self._lanes: dict[Shard, _Lane] = {}
        self._full: set[Shard] = set()
        connection.on_state(self._state_changed)
        connection.on_pulse(self._look_for_late_answers)

    def append(
        self,
        shard: Shard,
        records: list[Record],
        *,
        message_id: str,
        epoch: int,
        pool: str,
    ) -> Awaitable[Appended]:
        """See :class:`state_builder.ports.EventLog`."""
        done = self._queue.add(
            shard, records, message_id=message_id, epoch=epoch, pool=pool
        )
        if not self._turn_due:
            self._turn_due = True
            self._connection.loop.call_soon(self._turn)
        return done

    async def try_append(
        self, shard: Shard, records: list[Record], *, message_id: str, timeout_s: float
    ) -> Appended:
        """See :class:`state_builder.ports.EventLog`.

        Never shares a message: its caller may come again under the same id, and only a
        message of its own is recognised then.
        """
        count_events(records)
        data = encode(records)
        self._check_size(data)
        headers = header_block(message_id)
        subject = self._topology.events(shard)
        deadline = self._connection.loop.time() + timeout_s
        problem: NoetlError = UnavailableError("not connected to the NATS server")
        while (left := deadline - self._connection.loop.time()) > 0:
            try:
                reply = await self._connection.request(
                    lambda inbox: headed_frame(subject, inbox, headers, data),
                    min(left, self._settings.append_retry_s),
                )
            except UnavailableError as error:
                problem = error
            else:
                verdict = judge(reply)
                if isinstance(verdict, Appended):
                    return verdict
                if not verdict.retryable or isinstance(verdict, LogFullError):
                    self._count_failed(verdict)
                    raise verdict
                problem = verdict
            await asyncio.sleep(min(0.1, max(0.0, left)))
        self._count_failed(problem)
        raise UnavailableError(
            f"not known to be stored after {timeout_s:g} s: {problem}"
        ) from problem

    async def append_once(
        self, subject: str, data: bytes, expect_last: int
    ) -> Appended | NoetlError:
        """One fenced try on the subject itself, as a lease needs it."""
        headers = header_block(fence=(expect_last, subject))
        reply = await self._connection.request(
            lambda inbox: headed_frame(subject, inbox, headers, data),
            self._settings.request_timeout_s,
        )
        return judge(reply)

    def close(self) -> None:
        """Give up on what is not stored; its callers are told."""
        error = UnavailableError("the bus was closed before the append was confirmed")
        self._turn_due = True  # nothing is sent any more
        unsent = [*self._queue.take(), *self._backlog]
        unsent += [message for lane in self._lanes.values() for message in lane.held]
        for message in [flight.message for flight in self._flights.values()] + unsent:
            self._queue.fail(message.calls, error)
        for token in self._flights:
            self._connection.unexpect(token)
        self._flights.clear()
        self._backlog.clear()
        self._lanes.clear()

    def _turn(self) -> None:
        self._turn_due = False
        self._backlog.extend(self._queue.take())
        self._send_ready()
        # The frames leave now: a lone append waits for nothing else in this turn.
        self._connection.client.write_now()

    def _send_ready(self) -> None:
        """Move messages from the backlog on their way, as far as the window allows."""
        if not self._connection.connected:
            return
        settings = self._settings
        while self._backlog and len(self._flights) < settings.append_window:
            if self._flight_bytes > settings.append_window_bytes:
                return
            message = self._backlog.popleft()
            lane = self._lanes.get(message.shard)
            if lane is not None and lane.waiting:
                lane.held.append(message)
            else:
                self._send(message)

    def _send(self, message: Outgoing) -> None:
        try:
            self._check_size(message.data)
        except LimitExceededError as error:
            self._refuse(message, error)
            return
        topology = self._topology
        subject = (
            topology.commands(message.pool, message.shard)
            if message.pool
            else topology.events(message.shard)
        )
        fence = (
            (message.epoch, topology.lease(message.shard)) if message.epoch else None
        )

        def answered(reply: Reply) -> None:
            self._answered(token, reply)

        token, inbox = self._connection.expect(answered)
        headers = header_block(message.message_id, fence)
        frame = headed_frame(subject, inbox, headers, message.data)
        self._flights[token] = _Flight(message, frame, self._connection.loop.time())
        self._flight_bytes += len(frame)
        self._connection.send(frame)

    def _answered(self, token: bytes, reply: Reply) -> None:
        flight = self._flights.get(token)
        if flight is None:
            return
        verdict = judge(reply)
        if isinstance(verdict, Appended):
            self._land(token)
            self._queue.fulfil(flight.message, verdict)
        elif not verdict.retryable:
            self._land(token)
            self._refuse(flight.message, verdict)
        else:
            self._hold(flight.message.shard, verdict)
        if self._backlog:
            self._send_ready()

    def _land(self, token: bytes) -> None:
        flight = self._flights.pop(token)
        self._flight_bytes -= len(flight.frame)
        self._connection.unexpect(token)
        shard = flight.message.shard
        lane = self._lanes.get(shard)
        if lane is not None and not lane.waiting and not self._in_flight(shard):
            del self._lanes[shard]
            self._note_full(shard, False)

    def _in_flight(self, shard: Shard) -> bool:
        return any(flight.message.shard == shard for flight in self._flights.values())

    def _refuse(self, message: Outgoing, error: NoetlError) -> None:
        self._count_failed(error)
        self._queue.fail(message.calls, error)

    def _hold(self, shard: Shard, reason: NoetlError) -> None:
        """Let a shard wait, then send all of it that is unconfirmed again in order."""
        lane = self._lanes.setdefault(shard, _Lane())
        if lane.waiting:
            return
        lane.waiting = True
        self._note_full(shard, isinstance(reason, LogFullError))
        self._count_failed(reason)
        log.warning(
            "append.delayed", shard=shard, wait_s=lane.backoff_s, reason=str(reason)
        )
        self._connection.loop.call_later(lane.backoff_s, self._release, shard)
        lane.backoff_s = min(lane.backoff_s * 2, self._settings.append_backoff_max_s)

    def _release(self, shard: Shard) -> None:
        lane = self._lanes.get(shard)
        if lane is None or not lane.waiting or not self._connection.connected:
            return  # a reconnect sends everything again by itself
        lane.waiting = False
        self._resend(shard)
        self._backlog.extendleft(reversed(lane.held))
        lane.held.clear()
        self._send_ready()

    def _resend(self, shard: Shard | None) -> None:
        now = self._connection.loop.time()
        for flight in self._flights.values():
            if shard is None or flight.message.shard == shard:
                flight.sent_at = now
                self._connection.send(flight.frame)

    def _state_changed(self, connected: bool) -> None:
        if not connected:
            return
        # Everything in flight is older than everything held, which is older than the
        # backlog: per shard this is the order of the calls.
        self._resend(None)
        for lane in self._lanes.values():
            lane.waiting = False
            self._backlog.extendleft(reversed(lane.held))
            lane.held.clear()
        self._send_ready()

    def _look_for_late_answers(self, now: float) -> None:
        if not self._connection.connected:
            return
        limit = now - self._settings.append_retry_s
        late = {
            flight.message.shard
            for flight in self._flights.values()
            if flight.sent_at < limit
        }
        for shard in late:
            self._hold(shard, UnavailableError("no answer to an append in time"))

    def _check_size(self, data: bytes) -> None:
        broker = self._connection.client.max_payload
        check_size(data, min(self._settings.message_bytes_max, broker))

    def _note_full(self, shard: Shard, full: bool) -> None:
        before = len(self._full)
        (self._full.add if full else self._full.discard)(shard)
        if len(self._full) != before:
            self._connection.observer.gauge(
                "noetl_bus_log_full", float(bool(self._full))
            )

    def _count_failed(self, error: NoetlError) -> None:
        self._connection.observer.count(
            "noetl_event_publish_failed_total",
            reason=_REASONS.get(error.code, "timeout"),
        )


_REASONS: Final = {
    FencedError.code: "fenced",
    LogFullError.code: "log_full",
    LimitExceededError.code: "too_large",
    UnavailableError.code: "unavailable",
}


def judge(reply: Reply) -> Appended | NoetlError:
    """Stored, refused for good, or (retryable) not known to be stored."""
    if reply.status == NO_RESPONDERS:
        return UnavailableError(
            "nobody stores appends: the stream is missing or moving"
        )
    try:
        ack = decode_pub_ack(reply.data)
    except DecodeError as error:
        return UnavailableError(f"an answer that is no acknowledgement: {error}")
    fault = ack.error
    if fault is None:
        return Appended(ack.seq, ack.duplicate)
    if fault.err_code == WRONG_LAST_SEQUENCE:
        return FencedError(f"the lease has moved on: {fault.description}")
    if fault.err_code == LOG_FULL:
        return LogFullError("the log is full: it must be trimmed or given more room")
    if fault.err_code in MESSAGE_TOO_LARGE:
        return LimitExceededError("message_bytes", fault.description)
    return UnavailableError(f"{fault.description} ({fault.err_code})")
