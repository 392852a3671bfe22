"""Streams: publish, read one message, look at the whole."""

from __future__ import annotations

from typing import Final, NamedTuple

import nats.js.errors
from nats.aio.client import Client

from tools.doors.broker.failures import missing
from tools.errors import configuration
from tools.fields import Fields

_STREAM_NOT_FOUND: Final = 10059


class Published(NamedTuple):
    """Where a message was stored."""

    stream: str
    seq: int
    duplicate: bool


class Stored(NamedTuple):
    """One message of a stream."""

    subject: str
    seq: int
    data: bytes
    headers: dict[str, str]


async def publish(
    client: Client, subject: str, data: bytes, headers: dict[str, str]
) -> Published:
    """Store a message. Raises what the client raises."""
    answer = await client.jetstream().publish(subject, data, headers=headers or None)
    return Published(answer.stream, answer.seq, bool(answer.duplicate))


async def get_message(
    client: Client, stream: str, *, seq: int | None, subject: str | None
) -> Stored:
    """By sequence, else the last one on a subject, else the last one of all."""
    jetstream = client.jetstream()
    try:
        if seq is None and subject is None:
            seq = (await jetstream.stream_info(stream)).state.last_seq
            if not seq:
                raise missing("a message in stream", stream)
        if seq is not None:
            found = await jetstream.get_msg(stream, seq)
        else:
            assert subject is not None
            found = await jetstream.get_last_msg(stream, subject)
    except nats.js.errors.NotFoundError as error:
        if error.err_code == _STREAM_NOT_FOUND:
            raise missing("stream", stream) from error
        what = f"{seq}" if seq is not None else f"on {subject}"
        raise missing(f"in stream '{stream}' message", what) from error
    return Stored(
        found.subject or "",
        found.seq or 0,
        found.data or b"",
        dict(found.headers or {}),
    )


async def stream_info(client: Client, stream: str) -> Fields:
    """Configuration and state. Raises ToolCallError ``not_found``."""
    try:
        found = await client.jetstream().stream_info(stream)
    except nats.js.errors.NotFoundError as error:
        raise missing("stream", stream) from error
    config, state = found.config, found.state
    return {
        "config": {
            "name": config.name,
            "subjects": [*(config.subjects or [])],
            "max_msgs": config.max_msgs,
            "max_bytes": config.max_bytes,
        },
        "state": {
            "messages": state.messages,
            "bytes": state.bytes,
            "first_seq": state.first_seq,
            "last_seq": state.last_seq,
            "consumer_count": state.consumer_count,
        },
    }


def wanted(config: Fields) -> tuple[int | None, str | None]:
    """Sequence and subject of a message that is asked for; both None for the last.

    Raises ToolCallError of ``configuration`` where nothing says which.
    """
    seq, subject, last = config["seq"], config["subject"], config["last"]
    if isinstance(seq, int):
        return seq, None
    if isinstance(subject, str) and subject:
        return None, subject
    if isinstance(last, str) and last.lower() not in ("true", "false"):
        return None, last
    if last:
        return None, None
    raise configuration("js_get_msg needs seq, subject or last: true")
