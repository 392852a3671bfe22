"""The ``CommandQueue`` port on JetStream's durable pull consumers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.jetstream import JetStream
from noetl_worker.bus.nats.puller import Puller
from noetl_worker.bus.topology import Topology, pool_consumer_name
from state_builder.errors import SettingsError
from state_builder.ports import Delivery, PoolProgress


class NatsCommands:
    """See :class:`state_builder.ports.CommandQueue`."""

    def __init__(self, connection: Connection, topology: Topology) -> None:
        self._connection = connection
        self._topology = topology
        self._jetstream = JetStream(connection)
        self._view_start: int | None = None

    def pull(self, pools: Sequence[str], slots: int) -> AsyncIterator[list[Delivery]]:
        """See the port.

        Raises:
            SettingsError: no pool, a bad pool name, or no slot.
        """
        if not pools or slots < 1:
            raise SettingsError("a worker needs at least one pool and one slot")
        for pool in pools:
            self._topology.commands(pool, ">")
        puller = Puller(
            self._connection, self._topology, pools, slots, self._refresh_view
        )
        return puller.deliveries()

    async def view_start(self) -> int:
        """See the port."""
        if self._view_start is None:
            await self._refresh_view()
        return self._view_start or 0

    async def progress(self, pool: str) -> PoolProgress:
        """See the port. Without a consumer yet, every command of the pool waits."""
        name = pool_consumer_name(pool)
        info = await self._jetstream.consumer_info(self._topology.stream, name)
        if info is not None:
            return PoolProgress(
                acknowledged=info.ack_floor.stream_seq,
                pending=info.num_pending,
                unfinished=info.num_ack_pending,
                waiting=info.num_waiting,
            )
        subjects = self._topology.commands(pool, ">")
        stream = await self._jetstream.stream_info(self._topology.stream, subjects)
        return PoolProgress(0, sum(stream.state.subjects.values()), 0, 0)

    async def _refresh_view(self) -> None:
        info = await self._jetstream.stream_info(self._topology.stream)
        self._view_start = info.state.last_seq
