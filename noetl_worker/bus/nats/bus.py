"""One process's bus on NATS: every port behind one connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from noetl_worker.bus.nats.blobs import NatsBlobs
from noetl_worker.bus.nats.commands import NatsCommands
from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.log import NatsLog
from noetl_worker.bus.nats.members import NatsMembers
from noetl_worker.bus.nats.results import NatsResults
from noetl_worker.bus.nats.signals import NatsSignals
from noetl_worker.bus.topology import BusSettings, Topology
from state_builder.ports import LogInfo, Observer


class NatsBus:
    """Made by :meth:`connect`.

    Attributes:
        log, commands, signals, members: the ports of the same names.
    """

    def __init__(self, connection: Connection, tasks: TaskGroup) -> None:
        topology = Topology(connection.settings)
        self._connection = connection
        self._topology = topology
        self.log = NatsLog(connection, topology)
        self.commands = NatsCommands(connection, topology)
        self.signals = NatsSignals(connection, topology, tasks)
        self.members = NatsMembers(connection, topology)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, settings: BusSettings, observer: Observer
    ) -> AsyncIterator[NatsBus]:
        """A connected bus, closed on leaving.

        Raises:
            UnavailableError: no broker within ``connect_timeout_s``.
            SettingsError: a bad address, or a broker that is too old.
        """
        connection = Connection(settings, observer)
        await connection.open()
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            bus = cls(connection, tasks)
            try:
                yield bus
            # Kept out of the task group, so that the user's error is not wrapped.
            except Exception as error:  # noqa: BLE001 - raised again below
                failure = error
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    bus.log.close()
                    await connection.close()
        if failure is not None:
            raise failure

    @property
    def connected(self) -> bool:
        """For readiness: the broker is there, as far as anybody knows."""
        return self._connection.connected

    @property
    def reconnects(self) -> int:
        """How often the connection was made anew."""
        return self._connection.reconnects

    def on_state(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call back on every change of ``connected``; returns how to stop."""
        return self._connection.on_state(callback)

    def blobs(self, bucket: str) -> NatsBlobs:
        """The objects of one bucket."""
        return NatsBlobs(self._connection, self._topology, bucket)

    def results(self, bucket: str, tier: str = "object") -> NatsResults:
        """Large values in one bucket."""
        return NatsResults(self.blobs(bucket), tier)

    async def ensure_log(self, *, create: bool) -> LogInfo:
        """Server and materializer make the log, the others wait for it (RT-NATS-1).

        Raises:
            SettingsError: the log there was made for other settings; names both.
        """
        return await self.log.ensure(create)

    async def set_generation(self, generation: int) -> None:
        """Write into the log which of its lives this is (RT-NATS-36)."""
        await self.log.set_generation(generation)
