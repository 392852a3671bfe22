"""A durable consumer of a JetStream stream as a source."""

from __future__ import annotations

from tools.doors.broker.connections import Connections
from tools.doors.broker.payloads import named, value_of
from tools.doors.broker.pulling import Pulled, pull, settle_reply
from tools.errors import ToolCallError
from tools.fields import Fields
from tools.kinds.subscription.message import Message


class NatsSource:
    """One consumer; acknowledgements go to the reply subject (TL-SU-04)."""

    def __init__(
        self, connections: Connections, address: Fields, place: tuple[str, str]
    ) -> None:
        self._connections = connections
        self._address = address
        self._place = place

    async def poll(self, batch: int, wait_s: float) -> list[Message]:
        """Messages of the consumer."""
        async with self._connections.use(self._address) as client:
            pulled = await pull(client, self._place, batch, wait_s)
        return [_message(one, self._place[0]) for one in pulled]

    async def say(
        self, how: str, ack_ids: list[str], delay_ms: int = 0
    ) -> dict[str, str]:
        """Tell the server; flushed before this returns."""
        failed: dict[str, str] = {}
        async with self._connections.use(self._address) as client:
            for ack_id in ack_ids:
                try:
                    await settle_reply(client, ack_id, how, delay_ms)
                except ToolCallError as error:
                    failed[ack_id] = error.failure.message
            await client.flush()
        return failed


def _message(pulled: Pulled, stream: str) -> Message:
    data, encoding = value_of(pulled.data)
    return Message(
        id=pulled.headers.get("Nats-Msg-Id") or f"{stream}:{pulled.stream_seq}",
        data=data,
        encoding=encoding,
        ack_id=pulled.reply,
        size=len(pulled.data),
        headers=named(pulled.headers),
        attributes={**pulled.headers},
        metadata={
            "stream": stream,
            "subject": pulled.subject,
            "stream_seq": pulled.stream_seq,
            "consumer_seq": pulled.consumer_seq,
            "delivered": pulled.delivered,
            "pending": pulled.pending,
        },
    )
