"""What every role has: settings, logs, metrics, a bus, a page for probes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import structlog

from noetl_worker import logs
from noetl_worker.bus.nats import NatsBus
from noetl_worker.bus.topology import BusSettings
from noetl_worker.health import health_app
from noetl_worker.lifecycle import Daemon, Readiness, SystemClock
from noetl_worker.lifecycle import run_role as run_daemons
from noetl_worker.listener import Listener, parse_address
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.settings import Settings, load

log = structlog.get_logger(__name__)

VERSION = version("noetl-worker")


@dataclass(frozen=True, kw_only=True)
class Process:
    """The parts that are the same for every role."""

    role: str
    settings: Settings
    clock: SystemClock
    observer: PrometheusObserver
    readiness: Readiness


def open_process(role: str, environ: Mapping[str, str]) -> Process:
    """Read settings, set up logs and metrics; nothing is connected yet.

    Raises:
        SettingsError: names every variable at fault.
    """
    settings = load(environ, role)
    logs.setup(settings.logs, service=f"noetl-{role}", version=VERSION)
    for warning in settings.warnings:
        log.warning("settings.ignored", reason=warning)
    return Process(
        role=role,
        settings=settings,
        clock=SystemClock(),
        observer=PrometheusObserver(version=VERSION, role=role),
        readiness=Readiness(),
    )


def bus_settings(settings: Settings, client_name: str) -> BusSettings:
    """What the bus is told, out of what the process was told."""
    bus = settings.bus
    return BusSettings(
        urls=bus.urls.reveal(),
        user=bus.user,
        password=bus.password.reveal(),
        client_name=client_name,
        event_stream=bus.event_stream,
        command_subject=bus.command_subject,
        shard_count=bus.shard_count,
        replicas=bus.replicas,
        log_bytes_max=bus.log_bytes_max,
        bucket_bytes_max=bus.bucket_bytes_max,
        message_bytes_max=bus.message_bytes_max,
        duplicate_window_s=bus.duplicate_window_s,
        ack_wait_s=bus.ack_wait_s,
        member_ttl_s=bus.member_ttl_s,
        heartbeat_s=bus.heartbeat_s,
    )


@asynccontextmanager
async def open_bus(process: Process) -> AsyncIterator[NatsBus]:
    """The connected bus; losing it makes the process not ready, not dead."""
    settings = bus_settings(process.settings, f"noetl-{process.role}")
    async with NatsBus.connect(settings, process.observer) as bus:
        process.readiness.watch(
            "nats", lambda: "" if bus.connected else "not connected"
        )
        yield bus


async def run_with_health(process: Process, daemons: Mapping[str, Daemon]) -> None:
    """Run daemons beside the page for probes and metrics (RT-OBS-12)."""
    own = process.settings.process
    address = parse_address(own.metrics_bind or f"0.0.0.0:{own.port}", own.port)
    app = health_app(process.readiness, process.observer.page)
    listener = Listener(app, address)
    await run_daemons(
        process.role,
        {**daemons, "health": listener.run},
        readiness=process.readiness,
        grace_s=own.grace_s + 5.0,
    )
