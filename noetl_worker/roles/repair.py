"""Repair as a process: log and tables by the settings of a role (RT-IDX-6)."""

from __future__ import annotations

from collections.abc import Mapping

from materializer.postgres import Database, PostgresReader
from noetl_worker.bus.topology import SNAPSHOT_BUCKET
from noetl_worker.daemons.repair import Repair, Repaired, RepairPorts
from noetl_worker.roles.database import database_settings, settle_log
from noetl_worker.roles.process import open_bus, open_process


async def run_repair(environ: Mapping[str, str], *, dry: bool) -> Repaired:
    """Compare log and tables, and restore what only the tables have."""
    process = open_process("materializer", {"LOG_LEVEL": "ERROR", **environ})
    settings = process.settings
    async with (
        Database(database_settings(settings.postgres, "noetl-repair")) as database,
        open_bus(process) as bus,
    ):
        await settle_log(bus, database, settings.bus.event_stream)
        ports = RepairPorts(
            log=bus.log,
            snapshots=bus.blobs(SNAPSHOT_BUCKET),
            rows=PostgresReader(database),
            clock=process.clock,
            observer=process.observer,
        )
        return await Repair(ports).run(dry=dry)
