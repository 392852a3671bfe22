"""Taking messages off a durable consumer, and saying what became of them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from state_builder.records import ToolFailure, encode_json
from tools.doors.broker.failures import missing
from tools.errors import ToolCallError, configuration

BATCH_MAX: Final = 1_000
WAIT_MS_MAX: Final = 5_000

_ACK_PREFIX: Final = "$JS.ACK."


class Pulled(NamedTuple):
    """One message that was taken and is not acknowledged yet.

    Attributes:
        reply: where its acknowledgement goes.
    """

    subject: str
    data: bytes
    headers: dict[str, str]
    reply: str
    stream_seq: int
    consumer_seq: int
    delivered: int
    pending: int


async def pull(
    client: Client, place: tuple[str, str], batch: int, wait_s: float
) -> list[Pulled]:
    """What a consumer (stream, name) has, at most ``batch``; waits for one alone.

    Raises ToolCallError ``not_found`` naming what does not exist, and client errors.
    """
    jetstream = client.jetstream()
    stream, consumer = place
    try:
        await jetstream.stream_info(stream)
    except nats.js.errors.NotFoundError as error:
        raise missing("stream", stream) from error
    try:
        info = await jetstream.consumer_info(stream, consumer)
    except nats.js.errors.NotFoundError as error:
        raise missing(f"consumer of stream '{stream}':", consumer) from error
    if info.config.deliver_subject:
        raise configuration(f"consumer '{consumer}' pushes; a pull consumer is needed")
    subscription = await jetstream.pull_subscribe_bind(consumer=consumer, stream=stream)
    try:
        messages = await subscription.fetch(batch, timeout=wait_s)
    except TimeoutError:
        messages = []
    finally:
        await _unsubscribe(subscription)
    return [_pulled(message) for message in messages]


async def _unsubscribe(subscription: JetStreamContext.PullSubscription) -> None:
    try:
        await subscription.unsubscribe()
    except nats.errors.Error:
        # The connection is gone, and the subscription with it.
        return


def _pulled(message: Msg) -> Pulled:
    about = message.metadata
    return Pulled(
        subject=message.subject,
        data=message.data,
        headers=dict(message.headers or {}),
        reply=message.reply,
        stream_seq=about.sequence.stream,
        consumer_seq=about.sequence.consumer,
        delivered=about.num_delivered or 1,
        pending=about.num_pending,
    )


async def settle_reply(
    client: Client, reply: str, how: str, delay_ms: int | None = None
) -> None:
    """Acknowledge (``ack``), give back (``nack``), drop (``term``) or go on holding
    (``hold``) one message; flush afterwards.

    Raises ToolCallError for what is no acknowledgement subject (TL-SU-04).
    """
    if not reply.startswith(_ACK_PREFIX) or set(reply) & set(" \t\r\n*>"):
        text = f"'{reply[:80]}' is no ack id of a NATS message"
        raise ToolCallError(ToolFailure(kind="configuration", message=text))
    words: dict[str, bytes] = {
        "ack": b"+ACK",
        "nack": _nak(delay_ms),
        "term": b"+TERM",
        "hold": b"+WPI",
    }
    await client.publish(reply, words[how])


def _nak(delay_ms: int | None) -> bytes:
    if not delay_ms:
        return b"-NAK"
    delay: dict[str, Any] = {"delay": delay_ms * 1_000_000}
    return b"-NAK " + encode_json(delay)
