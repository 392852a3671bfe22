"""JetStream's management requests, as far as the bus needs them.

Configurations stay plain dictionaries: a field this build does not know (of a newer
broker, or set by an operator) survives an update, which a typed copy would drop.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TypeVar

import structlog
from msgspec import Struct, field
from msgspec.json import decode, encode

from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.wire import NO_RESPONDERS, Fault
from noetl_worker.bus.topology import Config
from state_builder.errors import SettingsError, UnavailableError

STREAM_MISSING = 10059
CONSUMER_MISSING = 10014
MESSAGE_MISSING = 10037
STREAM_NAME_IN_USE = 10058
_TEMPORARY = {10008, 10009, 10023, 10076, 10112}
"""Codes of a broker that is busy choosing a leader or out of memory for now."""

log = structlog.get_logger(__name__)
T = TypeVar("T", bound="Answer")


class JetStreamError(UnavailableError):
    """The broker refused a management request.

    Attributes:
        err_code: JetStream's stable number.
    """

    def __init__(self, err_code: int, message: str) -> None:
        super().__init__(f"JetStream says: {message} ({err_code})")
        self.err_code = err_code


class Answer(Struct):
    """What all answers share."""

    error: Fault | None = None


class StreamState(Struct):
    """How much is in a stream."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    subjects: dict[str, int] = field(default_factory=dict)


class StreamInfo(Answer):
    """A stream as its leader knows it."""

    config: Config = field(default_factory=dict)
    state: StreamState = field(default_factory=StreamState)
    created: str = ""
    total: int = 0


class SequencePair(Struct):
    """A place as a consumer counts it, and in the stream."""

    consumer_seq: int = 0
    stream_seq: int = 0


class ConsumerInfo(Answer):
    """A consumer as its leader knows it."""

    config: Config = field(default_factory=dict)
    num_pending: int = 0
    num_ack_pending: int = 0
    num_waiting: int = 0
    ack_floor: SequencePair = field(default_factory=SequencePair)


class StoredMessage(Struct):
    """One message as read back by sequence or subject."""

    subject: str
    seq: int
    time: str
    data: str = ""

    @property
    def payload(self) -> bytes:
        """The bytes as published."""
        return base64.b64decode(self.data)

    @property
    def stored_at(self) -> float:
        """When it was stored, Unix seconds."""
        return datetime.fromisoformat(self.time).timestamp()


class _MessageAnswer(Answer):
    message: StoredMessage | None = None


class _PurgeAnswer(Answer):
    purged: int = 0


class JetStream:
    """Typed management requests over a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def call(self, action: str, body: Config | None, kind: type[T]) -> T:
        """One request.

        Raises:
            JetStreamError: the broker refused; ``err_code`` says why.
            UnavailableError: no answer, or JetStream is not enabled or leaderless.
        """
        reply = await self._connection.ask(
            f"$JS.API.{action}",
            b"" if body is None else encode(body),
            self._connection.settings.request_timeout_s,
        )
        if reply.status == NO_RESPONDERS:
            raise UnavailableError(
                "JetStream does not answer: it is not enabled on the NATS server, or "
                "has no leader at the moment"
            )
        answer = decode(reply.data, type=kind)
        if answer.error is not None:
            raise JetStreamError(answer.error.err_code, answer.error.description)
        return answer

    async def stream_info(
        self, stream: str, subjects: str = "", offset: int = 0
    ) -> StreamInfo:
        """A stream; with a filter also how many messages each subject has."""
        body: Config | None = None
        if subjects:
            body = {"subjects_filter": subjects, "offset": offset}
        return await self.call(f"STREAM.INFO.{stream}", body, StreamInfo)

    async def ensure_stream(self, desired: Config) -> StreamInfo:
        """Create when missing, update what differs, never delete (RT-NATS-1).

        Metadata that is already there stays: it says what the messages are.

        Raises:
            SettingsError: the broker cannot have it like that; says what and why.
            UnavailableError: try again later.
        """
        name = str(desired["name"])
        try:
            info = await self.stream_info(name)
        except JetStreamError as error:
            if error.err_code != STREAM_MISSING:
                raise
            try:
                made = await self._change(f"STREAM.CREATE.{name}", desired)
            except JetStreamError as second:
                if second.err_code != STREAM_NAME_IN_USE:
                    raise
                made = await self.stream_info(name)  # another process was faster
            log.info("stream.ensured", stream=name)
            return made
        merged = dict(info.config)
        merged.update(desired)
        if "metadata" in desired:
            merged["metadata"] = _merge_metadata(desired, info.config)
        if merged == info.config:
            return info
        changed = sorted(k for k in merged if merged[k] != info.config.get(k))
        log.info("stream.updated", stream=name, changed=changed)
        return await self._change(f"STREAM.UPDATE.{name}", merged)

    async def update_metadata(self, stream: str, entries: dict[str, str]) -> StreamInfo:
        """Set metadata of a stream, whatever stands there."""
        info = await self.stream_info(stream)
        old = info.config.get("metadata")
        metadata = {**(old if isinstance(old, dict) else {}), **entries}
        config = {**info.config, "metadata": metadata}
        return await self._change(f"STREAM.UPDATE.{stream}", config)

    async def ensure_consumer(self, stream: str, desired: Config) -> ConsumerInfo:
        """Create or update a durable consumer (RT-NATS-40)."""
        name = desired["durable_name"]
        try:
            info = await self.call(f"CONSUMER.INFO.{stream}.{name}", None, ConsumerInfo)
            merged = {**info.config, **desired}
            if merged == info.config:
                return info
        except JetStreamError as error:
            if error.err_code != CONSUMER_MISSING:
                raise
            merged = desired
        return await self.make_consumer(stream, merged)

    async def make_consumer(self, stream: str, config: Config) -> ConsumerInfo:
        """Create a consumer, or update the one of that name."""
        return await self.call(
            f"CONSUMER.CREATE.{stream}.{config['name']}",
            {"stream_name": stream, "config": config},
            ConsumerInfo,
        )

    async def consumer_info(self, stream: str, name: str) -> ConsumerInfo | None:
        """A consumer, or None."""
        try:
            return await self.call(f"CONSUMER.INFO.{stream}.{name}", None, ConsumerInfo)
        except JetStreamError as error:
            if error.err_code == CONSUMER_MISSING:
                return None
            raise

    async def message(self, stream: str, query: Config) -> StoredMessage | None:
        """One message as the stream's leader has it, or None."""
        try:
            answer = await self.call(f"STREAM.MSG.GET.{stream}", query, _MessageAnswer)
        except JetStreamError as error:
            if error.err_code == MESSAGE_MISSING:
                return None
            raise
        return answer.message

    async def purge(self, stream: str, query: Config) -> int:
        """Drop messages by sequence or subject; how many went."""
        answer = await self.call(f"STREAM.PURGE.{stream}", query, _PurgeAnswer)
        return answer.purged

    async def _change(self, action: str, config: Config) -> StreamInfo:
        try:
            return await self.call(action, config, StreamInfo)
        except JetStreamError as error:
            if error.err_code in {STREAM_NAME_IN_USE, *_TEMPORARY}:
                raise
            raise SettingsError(
                f"the NATS server refuses stream {config['name']!r}: {error}; "
                "check subjects, replicas and the disk limits of server and stream"
            ) from error


def _merge_metadata(desired: Config, found: Config) -> dict[str, str]:
    wanted, standing = desired["metadata"], found.get("metadata")
    merged: dict[str, str] = dict(wanted) if isinstance(wanted, dict) else {}
    merged.update(standing if isinstance(standing, dict) else {})
    return merged
