"""Reading stored messages in bulk, without a consumer.

JetStream's batched direct get: one request, many answers, then an end marker. Used for
buckets, where a consumer per read would cost more than the data.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from msgspec.json import encode

from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.wire import (
    NO_RESPONDERS,
    Reply,
    description,
    header,
    publish_frame,
)
from noetl_worker.bus.topology import Config
from state_builder.errors import UnavailableError

END_OF_BATCH = 204
NOTHING_FOUND = 404


class Found(NamedTuple):
    """One stored message."""

    subject: str
    sequence: int
    data: bytes
    headers: bytes


async def get_batch(connection: Connection, stream: str, query: Config) -> list[Found]:
    """All answers to one batched direct get; empty when nothing matches.

    Raises:
        UnavailableError: no complete answer in time.
    """
    found: list[Found] = []
    finished: asyncio.Future[None] = connection.loop.create_future()

    def answered(reply: Reply) -> None:
        if finished.done():
            return
        if reply.status in {END_OF_BATCH, NOTHING_FOUND}:
            finished.set_result(None)
        elif reply.status:
            reason = description(reply.headers) or "nobody answers"
            text = f"stream {stream}: {reply.status} {reason}"
            finished.set_exception(
                BucketMissingError(text)
                if reply.status == NO_RESPONDERS
                else UnavailableError(text)
            )
        else:
            found.append(
                Found(
                    (header(reply.headers, b"Nats-Subject") or b"").decode(),
                    int(header(reply.headers, b"Nats-Sequence") or b"0"),
                    reply.data,
                    reply.headers,
                )
            )

    token, inbox = connection.expect(answered)
    try:
        subject = f"$JS.API.DIRECT.GET.{stream}"
        if not connection.send(publish_frame(subject, encode(query), inbox)):
            raise UnavailableError("not connected to the NATS server")
        async with asyncio.timeout(connection.settings.request_timeout_s):
            await finished
    except TimeoutError as error:
        raise UnavailableError(
            f"stream {stream}: no complete answer in time"
        ) from error
    finally:
        connection.unexpect(token)
    return found


class BucketMissingError(UnavailableError):
    """Nobody answers for the stream: it was not made yet, or has no leader."""
