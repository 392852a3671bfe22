"""The database of a role that may touch it, and the log both make at boot."""

from __future__ import annotations

from urllib.parse import quote

import anyio
import structlog

from materializer.generation import settle_life
from materializer.postgres import (
    Database,
    DatabaseSettings,
    PostgresLives,
    PostgresTables,
)
from noetl_worker.bus.nats import NatsBus
from noetl_worker.lifecycle import SystemClock
from noetl_worker.settings import Postgres
from state_builder.errors import UnavailableError

log = structlog.get_logger(__name__)

BOOT_RETRY_S = 1.0
SETTLE_EVERY_S = 10.0


def database_settings(postgres: Postgres, application: str) -> DatabaseSettings:
    """How to reach the database, out of what the process was told."""
    dsn = postgres.url.reveal()
    if not dsn:
        user = quote(postgres.user, safe="")
        password = quote(postgres.password.reveal(), safe="")
        host = quote(postgres.host, safe="")
        address = f"{host}:{postgres.port}/{quote(postgres.database, safe='')}"
        dsn = f"postgresql://{user}:{password}@{address}"
    return DatabaseSettings(
        dsn=dsn,
        schema=postgres.schema,
        connections_max=postgres.connections_max,
        acquire_s=postgres.acquire_s,
        statement_cache=postgres.statement_cache,
        application_name=application,
    )


async def settle_log(bus: NatsBus, database: Database, stream: str) -> None:
    """Make the log when it is missing, and agree on its generation (RT-NATS-36)."""
    await bus.ensure_log(create=True)
    try:
        await settle_life(stream, bus.log, PostgresLives(database), bus.set_generation)
    except UnavailableError as error:
        # While the database is away, the generation in the log is trusted.
        log.warning("generation.unchecked", reason=str(error))


class LogKeeper:
    """Has the log there and its life agreed on for as long as the process runs.

    A broker that comes back may have lost its volume or the end of the log: after
    every reconnect, and now and then, log and tables are compared (RT-NATS-36).
    """

    def __init__(self, bus: NatsBus, database: Database, stream: str) -> None:
        self._bus = bus
        self._database = database
        self._stream = stream
        self._wake = anyio.Event()

    async def settle(self) -> None:
        """Compare now."""
        await settle_log(self._bus, self._database, self._stream)

    async def run(self, stop: anyio.Event) -> None:
        """Compare until ``stop``."""
        forget = self._bus.on_state(self._changed)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._settle_for_ever)
            await stop.wait()
            tasks.cancel_scope.cancel()
        forget()

    def _changed(self, connected: bool) -> None:
        if connected:
            self._wake.set()

    async def _settle_for_ever(self) -> None:
        while True:
            with anyio.move_on_after(SETTLE_EVERY_S):
                await self._wake.wait()
            self._wake = anyio.Event()
            try:
                await self.settle()
            except UnavailableError as error:
                log.warning("log.unsettled", reason=str(error))


async def wait_for_schema(database: Database, clock: SystemClock) -> None:
    """Bring the tables up to date; wait for a database that is away."""
    while True:
        try:
            await PostgresTables(database).apply_schema()
        except UnavailableError as error:
            log.warning("database.waited_for", reason=str(error))
            await clock.sleep(BOOT_RETRY_S)
        else:
            return
