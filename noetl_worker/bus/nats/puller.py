"""Taking commands: standing pull requests, as many as there are free slots.

Requested and not yet delivered, waiting to be handed over, and running together never
exceed the slots. Whatever interrupts this process's view of the queue (start,
reconnect, a consumer made anew, a long pause) is followed by a fresh ``view_start``
before another command is handed over (RT-NATS-44).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from msgspec.json import encode

from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.delivery import NatsDelivery
from noetl_worker.bus.nats.jetstream import JetStream
from noetl_worker.bus.nats.wire import (
    HEARTBEAT,
    description,
    header,
    metadata,
    publish_frame,
    status_of,
)
from noetl_worker.bus.topology import Topology, pool_consumer_name
from state_builder.errors import UnavailableError
from state_builder.ports import Delivery

_PAUSE_S = 5.0
"""Not having had the loop for this long counts as an interrupted view."""
_GIVE_BACK = b'-NAK {"delay": 500000000}'
_LINGER_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Pool:
    """One pool's standing requests.

    Attributes:
        outstanding: messages asked for and not delivered.
        busy: delivered something since its last request ran out.
    """

    name: str
    sid: int = 0
    inbox: str = ""
    outstanding: int = 0
    busy: bool = False
    heard_at: float = 0.0


class Puller:
    """One worker's share of its pools; use :meth:`deliveries` once."""

    def __init__(
        self,
        connection: Connection,
        topology: Topology,
        pools: Sequence[str],
        slots: int,
        refresh_view: Callable[[], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._jetstream = JetStream(connection)
        self._topology = topology
        self._settings = topology.settings
        self._pools = [_Pool(name) for name in dict.fromkeys(pools)]
        self._slots = slots
        self._refresh_view = refresh_view
        self._running: dict[tuple[str, int], NatsDelivery] = {}
        self._buffer: list[Delivery] = []
        self._interrupted = "start"
        self._closed = False
        self._top_up_due = False
        self._turn = 0
        self._advisories: list[int] = []
        self._wake: asyncio.Future[None] | None = None
        # With several pools requests run out soon, so that slots move to busy ones.
        self._expires_s = 60.0 if len(self._pools) == 1 else 5.0

    async def deliveries(self) -> AsyncIterator[list[Delivery]]:
        """See ``CommandQueue.pull``."""
        stop_state = self._connection.on_state(self._state_changed)
        stop_pulse = self._connection.on_pulse(self._check_pulse)
        self._watch_consumers()
        try:
            while True:
                if self._interrupted:
                    await self._restore()
                elif self._buffer:
                    batch, self._buffer = self._buffer, []
                    self._count("message", len(batch))
                    yield batch
                else:
                    await self._wait()
        finally:
            stop_state()
            stop_pulse()
            self._close()

    def say(self, delivery: NatsDelivery, reply: bytes, payload: bytes) -> bool:
        """Send something about a delivery, unless its time has passed."""
        if self._connection.loop.time() > delivery.deadline:
            self._connection.observer.count("noetl_bus_deliveries_silenced_total")
            return False
        return self._connection.send(publish_frame(reply.decode(), payload))

    def next_deadline(self) -> float:
        """Until when the broker waits after a sign of life sent now."""
        return self._connection.loop.time() + self._settings.ack_wait_s

    def release(self, delivery: NatsDelivery) -> None:
        """Free the slot of a finished delivery."""
        key = (delivery.pool, delivery.sequence)
        if self._running.get(key) is delivery:
            del self._running[key]
            self._top_up_soon()

    async def _wait(self) -> None:
        self._wake = self._connection.loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _restore(self) -> None:
        """Consumers there, view fresh, requests out; however long it takes."""
        if self._interrupted != "start":
            log.warning("queue.restored", reason=self._interrupted)
            self._connection.observer.count(
                "noetl_worker_command_loop_reconnect_total",
                reason=self._interrupted.split(":")[0],
            )
        wait_s = 0.05
        while True:
            await self._connection.wait_up()
            reason, self._interrupted = self._interrupted, ""
            try:
                for pool in self._pools:
                    await self._jetstream.ensure_consumer(
                        self._topology.stream, self._topology.pool_consumer(pool.name)
                    )
                await self._refresh_view()
            except UnavailableError as error:
                self._interrupted = reason
                log.warning("queue.delayed", reason=str(error))
                self._count("error")
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, 2.0)
                continue
            for pool in self._pools:
                if pool.outstanding == 0 or reason in {"start", "disconnected"}:
                    self._renew(pool)
            self._top_up()
            return

    def _watch_consumers(self) -> None:
        """Hear of it when a consumer is made anew: it starts at the first message."""
        for pool in self._pools:
            name = pool_consumer_name(pool.name)
            stream = self._topology.stream
            for action in ("CREATED", "DELETED"):
                subject = f"$JS.EVENT.ADVISORY.CONSUMER.{action}.{stream}.{name}"
                self._advisories.append(
                    self._connection.listen(subject, self._consumer_changed)
                )

    def _consumer_changed(
        self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        del subject, reply, data, headers
        self._interrupt("consumer")

    def _renew(self, pool: _Pool) -> None:
        """Void what was asked for: the broker drops requests nobody listens for."""
        if pool.sid:
            self._connection.mute(pool.sid, _LINGER_S)
        pool.inbox = self._connection.new_inbox()
        pool.outstanding = 0
        pool.heard_at = self._connection.loop.time()

        def handle(
            subject: bytes, reply: bytes, data: bytes, headers: bytes | None
        ) -> None:
            pool.heard_at = self._connection.loop.time()
            status = status_of(headers)
            if status and headers is not None:
                # A voided request's end changes nothing any more.
                if subject == inbox:
                    self._handle_status(pool, status, headers)
            else:
                self._handle_message(pool, subject, reply, data)

        inbox = pool.inbox.encode()
        pool.sid = self._connection.listen(pool.inbox, handle)

    def _handle_message(
        self, pool: _Pool, subject: bytes, reply: bytes, data: bytes
    ) -> None:
        pool.outstanding = max(0, pool.outstanding - 1)
        pool.busy = True
        about = metadata(reply)
        alive_at = self._connection.alive_at
        away_s = self._connection.loop.time() - alive_at
        if away_s > self._settings.ack_wait_s:
            # It lay unread for so long that it is, or will be, somebody else's.
            self._interrupt("pause")
            self._top_up_soon()
            return
        if away_s > _PAUSE_S:
            self._interrupt("pause")
        delivery = NatsDelivery(
            self, reply, pool.name, self._topology.place(subject).shard, data
        )
        delivery.sequence = about.stream_sequence
        delivery.count = about.delivered
        delivery.deadline = alive_at + self._settings.ack_wait_s
        key = (pool.name, about.stream_sequence)
        older = self._running.get(key)
        if older is not None:
            older.supersede()
            self._top_up_soon()
        elif self._closed or len(self._running) >= self._slots:
            self.say(delivery, reply, _GIVE_BACK)
            return
        self._running[key] = delivery
        self._buffer.append(delivery)
        self._notify()

    def _handle_status(self, pool: _Pool, status: int, headers: bytes) -> None:
        if status == HEARTBEAT:
            return
        unused = header(headers, b"Nats-Pending-Messages")
        if status in {408, 409} and unused is not None:
            pool.outstanding = max(0, pool.outstanding - int(unused))
            pool.busy = False
            self._count("empty")
            self._top_up_soon()
            return
        pool.outstanding = 0
        self._interrupt(f"{status}: {description(headers)}")

    def _top_up_soon(self) -> None:
        if not self._top_up_due and not self._closed:
            self._top_up_due = True
            self._connection.loop.call_soon(self._top_up)

    def _top_up(self) -> None:
        """Ask for as many messages as there are free slots, in few requests."""
        self._top_up_due = False
        if self._closed or self._interrupted or not self._connection.connected:
            return
        asked = sum(pool.outstanding for pool in self._pools)
        free = self._slots - len(self._running) - asked
        idle = any(pool.outstanding == 0 for pool in self._pools)
        if free <= 0 or (not idle and free < max(1, self._slots // 2)):
            return
        for pool, count in self._shares(free):
            self._ask(pool, count)

    def _shares(self, free: int) -> list[tuple[_Pool, int]]:
        """One slot for each pool that asks for none, the rest where work comes from."""
        self._turn += 1
        start = self._turn % len(self._pools)
        pools = self._pools[start:] + self._pools[:start]
        shares = dict.fromkeys(range(len(pools)), 0)
        for index, pool in enumerate(pools):
            if free and pool.outstanding == 0:
                shares[index], free = 1, free - 1
        busy = [i for i, pool in enumerate(pools) if pool.busy] or list(shares)
        while free:
            least = min(busy, key=lambda i: pools[i].outstanding + shares[i])
            shares[least], free = shares[least] + 1, free - 1
        return [(pools[i], count) for i, count in shares.items() if count]

    def _ask(self, pool: _Pool, count: int) -> None:
        heartbeat_s = min(self._settings.heartbeat_s, self._expires_s / 2.5)
        body = {
            "batch": count,
            "expires": int(self._expires_s * 1e9),
            "idle_heartbeat": int(heartbeat_s * 1e9),
        }
        name = pool_consumer_name(pool.name)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._topology.stream}.{name}"
        pool.outstanding += count
        self._connection.send(publish_frame(subject, encode(body), pool.inbox))

    def _state_changed(self, connected: bool) -> None:
        if connected:
            return
        self._interrupt("disconnected")
        # What was said since the broker was last heard may never have arrived.
        limit = self._connection.heard_at + self._settings.ack_wait_s
        for delivery in self._running.values():
            delivery.deadline = min(delivery.deadline, limit)

    def _check_pulse(self, now: float) -> None:
        if now - self._connection.alive_at > _PAUSE_S:
            self._interrupt("pause")
        for pool in self._pools:
            silent_s = now - pool.heard_at
            if pool.outstanding and silent_s > 2.5 * self._settings.heartbeat_s:
                pool.outstanding = 0
                self._interrupt("silence")

    def _interrupt(self, reason: str) -> None:
        if not self._interrupted:
            self._interrupted = reason
            self._notify()

    def _count(self, outcome: str, amount: int = 1) -> None:
        self._connection.observer.count(
            "noetl_worker_pulls_total", amount, outcome=outcome
        )

    def _close(self) -> None:
        """Give back what was not handed over; what was may still be finished."""
        self._closed = True
        for pool in self._pools:
            if pool.sid:
                self._connection.mute(pool.sid, _LINGER_S)
        for sid in self._advisories:
            self._connection.mute(sid)
        for delivery in self._buffer:
            delivery.nak(0.5)
        self._buffer.clear()
