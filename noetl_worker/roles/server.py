"""The server: the HTTP edge of the fleet."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from materializer.postgres import (
    Database,
    PostgresReader,
    PostgresSecrets,
    PostgresTables,
)
from materializer.postgres.notes import PostgresNotes
from materializer.postgres.results import PostgresResults
from noetl_worker.bus.nats import NatsBus
from noetl_worker.lifecycle import Daemon, SnowflakeIds, machine_number
from noetl_worker.lifecycle import run_role as run_daemons
from noetl_worker.listener import Address, Listener, parse_address
from noetl_worker.roles.database import (
    LogKeeper,
    database_settings,
    wait_for_schema,
)
from noetl_worker.roles.process import Process, open_bus
from noetl_worker.roles.values import open_values
from noetl_worker.server import (
    PLUGIN_BUCKET,
    Edge,
    EdgeSettings,
    ServerPorts,
    create_app,
    create_edge,
    create_feed,
    daemons,
)
from noetl_worker.settings import Server
from noetl_worker.wallet import (
    Keeper,
    KeeperPorts,
    Keyring,
    ProviderSettings,
    keyring_of,
)
from state_builder.records import JSON
from tools.manual import known_fields

FEED_PORT: Final = 8083
"""Of the lifecycle feed, where its address names none."""


async def run(process: Process) -> None:
    """Serve until a signal."""
    settings = process.settings
    keys = keyring_of(settings.wallet)
    async with (
        Database(database_settings(settings.postgres, "noetl-server")) as database,
        open_bus(process) as bus,
    ):
        await wait_for_schema(database, process.clock)
        log_keeper = LogKeeper(bus, database, settings.bus.event_stream)
        await log_keeper.settle()
        async with _keeper(process, bus, database, keys) as keeper:
            ports = _ports(process, bus, database, keeper)
            edge = create_edge(ports, _edge_settings(process))
            listener = Listener(
                create_app(edge), _address(settings.server), settings.process.grace_s
            )
            feed = _feed(settings.server, edge)
            await run_daemons(
                process.role,
                {
                    "listener": listener.run,
                    **feed,
                    "log": log_keeper.run,
                    **daemons(edge),
                },
                readiness=process.readiness,
                grace_s=settings.process.grace_s + 2.0,
            )


def _address(own: Server) -> Address:
    return Address(
        host=own.host,
        port=own.port,
        cert=own.tls_cert,
        key=own.tls_key,
        client_ca=own.tls_client_ca,
    )


def _feed(own: Server, edge: Edge) -> dict[str, Daemon]:
    """The lifecycle feed, where it is asked for."""
    if not own.feed_bind:
        return {}
    address = parse_address(own.feed_bind, FEED_PORT)
    return {"feed": Listener(create_feed(edge), address).run}


def _keeper(
    process: Process, bus: NatsBus, database: Database, keys: Keyring
) -> Keeper:
    settings = process.settings
    own = settings.wallet
    ids = SnowflakeIds(machine_number(settings.process.machine_id), process.clock.now)
    ports = KeeperPorts(
        rows=PostgresSecrets(database),
        tables=PostgresTables(database),
        signals=bus.signals,
        clock=process.clock,
        observer=process.observer,
        mint_id=ids.mint,
    )
    providers = ProviderSettings(
        env_names=own.env_names,
        env_values=settings.keychain,
        secrets_dir=own.secrets_dir,
        outside=settings.outside,
        allowed_refs=own.allowed_refs,
        ttl_s=own.provider_ttl_s,
    )
    return Keeper(ports, own, keys, providers, settings.bus.shard_count)


def _ports(
    process: Process, bus: NatsBus, database: Database, keeper: Keeper
) -> ServerPorts:
    def pool_status() -> dict[str, JSON]:
        most, size, idle = database.occupancy
        busy = size - idle
        return {
            "pool_min": 0,
            "pool_max": most,
            "pool_size": size,
            "pool_available": idle,
            "requests_waiting": 0,
            "utilization": busy / most,
            "slots_available": most - busy,
            "status": "ok",
        }

    machine = machine_number(process.settings.process.machine_id)
    return ServerPorts(
        log=bus.log,
        commands=bus.commands,
        signals=bus.signals,
        rows=PostgresReader(database),
        tables=PostgresTables(database),
        notes=PostgresNotes(database),
        vault=keeper,
        plugins=bus.blobs(PLUGIN_BUCKET),
        values=open_values(process, bus),
        result_rows=PostgresResults(database),
        clock=process.clock,
        ids=SnowflakeIds(machine, process.clock.now),
        observer=process.observer,
        known_fields=known_fields,
        connected=lambda: bus.connected,
        metrics_page=process.observer.page,
        pool_status=pool_status,
    )


def _edge_settings(process: Process) -> EdgeSettings:
    settings = process.settings
    return EdgeSettings(
        server=settings.server,
        shard_count=settings.bus.shard_count,
        append_bytes_max=settings.bus.payload_bytes_soft,
        workload_bytes_max=settings.limits.workload_bytes_max,
        playbook_bytes_max=settings.limits.playbook_bytes_max,
        retention_s=settings.materializer.retention_s,
        internal_token=settings.process.internal_token.reveal(),
        version=version("noetl-worker"),
    )
