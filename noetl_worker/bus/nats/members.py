"""The ``Members`` port: heartbeats in a key-value bucket whose entries expire."""

from __future__ import annotations

from urllib.parse import quote, unquote

from msgspec.json import decode, encode

from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.direct import BucketMissingError, get_batch
from noetl_worker.bus.nats.jetstream import JetStream
from noetl_worker.bus.nats.wire import NO_RESPONDERS, decode_pub_ack
from noetl_worker.bus.topology import Topology
from state_builder.errors import UnavailableError
from state_builder.records import JSON


class NatsMembers:
    """See :class:`state_builder.ports.Members`. The bucket is made when missing."""

    def __init__(self, connection: Connection, topology: Topology) -> None:
        self._connection = connection
        self._topology = topology
        self._jetstream = JetStream(connection)
        self._prefix = f"$KV.{topology.settings.members_bucket}."
        self._stream = f"KV_{topology.settings.members_bucket}"
        self._ensured = False

    async def beat(self, member: str, value: dict[str, JSON]) -> None:
        """See the port. Raises UnavailableError when it was not stored."""
        await self._ensure()
        reply = await self._connection.ask(
            self._prefix + key_of(member),
            encode(value),
            self._connection.settings.request_timeout_s,
        )
        if reply.status == NO_RESPONDERS:
            self._ensured = False
            raise UnavailableError(f"nobody stores heartbeats in {self._stream}")
        fault = decode_pub_ack(reply.data).error
        if fault is not None:
            raise UnavailableError(
                f"heartbeat not stored: {fault.description} ({fault.err_code})"
            )

    async def leave(self, member: str) -> None:
        """See the port."""
        await self._ensure()
        subject = self._prefix + key_of(member)
        await self._jetstream.purge(self._stream, {"filter": subject})

    async def alive(self) -> dict[str, dict[str, JSON]]:
        """See the port."""
        try:
            found = await get_batch(
                self._connection, self._stream, {"multi_last": [f"{self._prefix}>"]}
            )
        except BucketMissingError:
            await self._ensure()
            return {}
        return {
            member_of(message.subject[len(self._prefix) :]): decode(message.data)
            for message in found
            if message.data
        }

    async def _ensure(self) -> None:
        if not self._ensured:
            await self._jetstream.ensure_stream(self._topology.members_config())
            self._ensured = True


def key_of(member: str) -> str:
    """A member's name as a key every NATS client accepts; different names differ."""
    return (
        quote(member, safe="").replace(".", "%2E").replace("~", "%7E").replace("%", "=")
    )


def member_of(key: str) -> str:
    """The name a key was made of."""
    return unquote(key.replace("=", "%"))
