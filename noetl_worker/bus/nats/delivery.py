"""One command as handed out, and what may still be said about it."""

from __future__ import annotations

from typing import Protocol

from state_builder.ids import Shard

ACK = b"+ACK"
PROGRESS = b"+WPI"
TERM = b"+TERM"


class Speaker(Protocol):
    """Who speaks to the broker for a delivery, and holds its slot."""

    def say(self, delivery: NatsDelivery, reply: bytes, payload: bytes) -> bool:
        """Send something about it; False when its time has passed."""

    def next_deadline(self) -> float:
        """Until when the broker waits after a sign of life given now."""

    def release(self, delivery: NatsDelivery) -> None:
        """Free its slot."""


class NatsDelivery:
    """See :class:`state_builder.ports.Delivery`.

    Falls silent once its deadline passed without a sign of life having been sent: the
    broker matches acknowledgements by stream sequence, so ours would remove the message
    under the worker that has it now (RT-NATS-45).

    Attributes:
        deadline: the loop's time up to which the broker waits for us.
    """

    __slots__ = (
        "_finished",
        "_puller",
        "_reply",
        "count",
        "data",
        "deadline",
        "pool",
        "sequence",
        "shard",
    )

    def __init__(
        self, puller: Speaker, reply: bytes, pool: str, shard: Shard, data: bytes
    ) -> None:
        self._puller = puller
        self._reply = reply
        self._finished = False
        self.pool = pool
        self.shard = shard
        self.data = data
        self.sequence = 0
        self.count = 0
        self.deadline = 0.0

    def ack(self) -> None:
        """See the port."""
        self._finish(ACK)

    def nak(self, delay_s: float) -> None:
        """See the port; a delay is always given (RT-NATS-43)."""
        self._finish(b'-NAK {"delay": %d}' % max(1, int(delay_s * 1e9)))

    def term(self) -> None:
        """See the port."""
        self._finish(TERM)

    def in_progress(self) -> None:
        """See the port."""
        if not self._finished and self._puller.say(self, self._reply, PROGRESS):
            self.deadline = self._puller.next_deadline()

    def step_aside(self) -> None:
        """See the port."""
        self._puller.release(self)

    def supersede(self) -> None:
        """Another delivery of the same message takes this one's place and slot."""
        self._finished = True

    def _finish(self, payload: bytes) -> None:
        if self._finished:
            return
        self._finished = True
        self._puller.say(self, self._reply, payload)
        self._puller.release(self)
