"""The ``EventLog`` port on JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

import structlog

from noetl_worker.bus.nats.appender import Appender
from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.follower import Follower
from noetl_worker.bus.nats.jetstream import STREAM_MISSING, JetStream, JetStreamError
from noetl_worker.bus.topology import Topology, check_log
from state_builder.errors import ConflictError, FencedError, UnavailableError
from state_builder.ids import Shard
from state_builder.ports import Appended, LogInfo, LogMessage
from state_builder.records import Lease, Record, encode_lease

log = structlog.get_logger(__name__)


class NatsLog:
    """See :class:`state_builder.ports.EventLog`."""

    def __init__(self, connection: Connection, topology: Topology) -> None:
        self._connection = connection
        self._topology = topology
        self._jetstream = JetStream(connection)
        self._appender = Appender(connection, topology)

    async def ensure(self, create: bool) -> LogInfo:
        """Have a log that fits the settings: make it, or wait until others did.

        Raises:
            SettingsError: shard count or format differ, or the broker refuses it.
            UnavailableError: the broker does not answer (only when creating).
        """
        if create:
            await self._jetstream.ensure_stream(self._topology.log_config())
            return await self.info()
        wait_s, told = 0.05, False
        while True:
            try:
                return await self.info()
            except UnavailableError as error:
                if not told:
                    log.info("log.awaited", reason=str(error))
                told = True
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 2.0)

    async def set_generation(self, generation: int) -> None:
        """Write into the stream which of its lives this is (RT-NATS-36)."""
        await self._jetstream.update_metadata(
            self._topology.stream, {"noetl_generation": str(generation)}
        )

    def append(
        self,
        shard: Shard,
        records: list[Record],
        *,
        message_id: str,
        epoch: int = 0,
        pool: str = "",
    ) -> Awaitable[Appended]:
        """See the port."""
        return self._appender.append(
            shard, records, message_id=message_id, epoch=epoch, pool=pool
        )

    async def try_append(
        self, shard: Shard, records: list[Record], *, message_id: str, timeout_s: float
    ) -> Appended:
        """See the port."""
        return await self._appender.try_append(
            shard, records, message_id=message_id, timeout_s=timeout_s
        )

    def follow(
        self, shards: Sequence[Shard] | None, *, after: int, leases: bool = True
    ) -> AsyncIterator[list[LogMessage]]:
        """See the port.

        Raises (when iterated):
            LostDataError: what comes after ``after`` was trimmed or lost.
        """
        follower = Follower(
            self._connection, self._topology, shards, after=after, leases=leases
        )
        return follower.batches()

    async def read(self, sequence: int) -> LogMessage | None:
        """See the port; asks the leader, so an acknowledged append is seen."""
        if sequence < 1:
            return None
        found = await self._jetstream.message(self._topology.stream, {"seq": sequence})
        if found is None:
            return None
        place = self._topology.place(found.subject.encode())
        return LogMessage(
            found.seq, place.shard, place.kind, found.payload, found.stored_at
        )

    async def info(self) -> LogInfo:
        """See the port. Raises SettingsError when the log does not fit (RT-NATS-10)."""
        try:
            info = await self._jetstream.stream_info(self._topology.stream)
        except JetStreamError as error:
            if error.err_code != STREAM_MISSING:
                raise
            raise UnavailableError(
                f"there is no stream {self._topology.stream!r} yet: the server and "
                "materializer roles make it when they start"
            ) from error
        generation = check_log(info.config, self._topology.settings)
        return LogInfo(
            first_sequence=info.state.first_seq,
            last_sequence=info.state.last_seq,
            generation=generation,
            shard_count=self._topology.settings.shard_count,
            bytes=info.state.bytes,
            bytes_max=int(str(info.config.get("max_bytes", 0))),
            created_at=info.created,
        )

    async def take_lease(self, shard: Shard, holder: str, at: str) -> int:
        """See the port (RT-NATS-31)."""
        expected = await self.lease_sequence(shard)
        verdict = await self._appender.append_once(
            self._topology.lease(shard),
            encode_lease(Lease(holder=holder, since=at)),
            expected,
        )
        if isinstance(verdict, Appended):
            return verdict.sequence
        if isinstance(verdict, FencedError):
            raise ConflictError(f"shard {shard}: another one took the lease first")
        raise verdict

    async def lease_sequence(self, shard: Shard) -> int:
        """See the port."""
        found = await self._jetstream.message(
            self._topology.stream, {"last_by_subj": self._topology.lease(shard)}
        )
        return found.seq if found else 0

    async def trim(self, below: int) -> int:
        """See the port."""
        if below <= 1:
            return 0
        return await self._jetstream.purge(self._topology.stream, {"seq": below})

    def close(self) -> None:
        """Tell callers of unfinished appends that nothing more will be tried."""
        self._appender.close()
