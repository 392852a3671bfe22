"""The materializer: the only writer of event tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from materializer.daemon import (
    Materializer,
    MaterializerPorts,
    MaterializerSettings,
)
from materializer.postgres import Database, PostgresReader, PostgresRows
from materializer.postgres.results import PostgresResults
from noetl_worker.bus.nats import NatsBus
from noetl_worker.bus.topology import SNAPSHOT_BUCKET
from noetl_worker.daemons.housekeeper import Housekeeper, HousekeeperPorts
from noetl_worker.daemons.janitor import (
    ALL_SHARDS,
    Janitor,
    JanitorPorts,
    JanitorSettings,
    rows_until,
)
from noetl_worker.daemons.rounds import Rounds
from noetl_worker.results.purge import Purger, PurgeSettings
from noetl_worker.roles.database import (
    LogKeeper,
    database_settings,
    wait_for_schema,
)
from noetl_worker.roles.process import Process, open_bus, run_with_health
from noetl_worker.roles.values import open_values, stores_of
from state_builder.ids import Shard

HOUSEKEEPING = "housekeeping"
"""The lock of all chores: one process of all (runtime.md §6.7)."""


def _purger(
    process: Process, bus: NatsBus, database: Database, rows: PostgresRows
) -> Purger:
    """Removes stored values of executions that are long over."""
    own = process.settings.materializer

    async def until() -> float:
        now = process.clock.now()
        return await rows_until(bus.log, await rows.durable_positions(), now)

    return Purger(
        stores_of(process, bus),
        open_values(process, bus),
        PostgresResults(database),
        until,
        (process.clock, process.observer),
        PurgeSettings(
            keep_s=own.result_keep_s,
            workflow_keep_s=own.result_workflow_keep_s,
        ),
    )


async def run(process: Process) -> None:
    """Copy the log into the tables until a signal."""
    settings = process.settings
    own = settings.materializer
    stream = settings.bus.event_stream
    pinned = settings.process.shards
    async with (
        Database(
            database_settings(settings.postgres, "noetl-materializer")
        ) as database,
        open_bus(process) as bus,
    ):
        await wait_for_schema(database, process.clock)
        log_keeper = LogKeeper(bus, database, stream)
        await log_keeper.settle()
        rows = PostgresRows(database)
        materializer = Materializer(
            MaterializerPorts(
                log=bus.log,
                rows=rows,
                clock=process.clock,
                observer=process.observer,
                settle=log_keeper.settle,
            ),
            MaterializerSettings(
                group=",".join(map(str, pinned)) or ALL_SHARDS,
                shards=tuple(map(Shard, pinned)) or None,
                stream=stream,
                batch_max=own.batch,
                pause_s=own.pause_ms / 1000,
                backoff_first_s=own.backoff_ms / 1000,
                lag_poll_s=settings.worker.lag_poll_s,
                fault_fail_first=own.fail_first,
            ),
        )
        daemons = {
            "log": log_keeper.run,
            "materializer": materializer.run,
        }
        chores: list[tuple[str, Callable[[], Awaitable[object]], float]] = [
            ("janitor", _janitor(process, bus, rows).trim, own.housekeeping_s),
            (
                "housekeeper",
                _housekeeper(process, database, rows).look,
                own.housekeeping_s,
            ),
            (
                "purger",
                _purger(process, bus, database, rows).purge,
                own.result_purge_s,
            ),
        ]
        for name, look, every_s in chores:
            daemons[name] = Rounds(
                name=name,
                look=look,
                every_s=every_s,
                alone=lambda: rows.lead(HOUSEKEEPING),
                clock=process.clock,
            ).run
        await run_with_health(process, daemons)


def _janitor(process: Process, bus: NatsBus, rows: PostgresRows) -> Janitor:
    own = process.settings.materializer
    return Janitor(
        JanitorPorts(
            log=bus.log,
            snapshots=bus.blobs(SNAPSHOT_BUCKET),
            positions=rows.durable_positions,
            clock=process.clock,
            observer=process.observer,
        ),
        JanitorSettings(retention_s=own.retention_s),
    )


def _housekeeper(
    process: Process, database: Database, rows: PostgresRows
) -> Housekeeper:
    return Housekeeper(
        HousekeeperPorts(
            rows=PostgresReader(database),
            clock=process.clock,
            observer=process.observer,
        )
    )
