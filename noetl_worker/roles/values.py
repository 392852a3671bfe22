"""Large values as a role needs them: the configured store, and those asked by name."""

from __future__ import annotations

from noetl_worker.bus.nats import NatsBus
from noetl_worker.results.objects import open_store
from noetl_worker.results.values import Values, ValueSettings
from noetl_worker.roles.process import Process
from state_builder.values import ResultStore

RESULT_BUCKET = "noetl_results"


def stores_of(process: Process, bus: NatsBus) -> list[ResultStore]:
    """Every store there is, the configured one first.

    Raises:
        SettingsError: a tier without an address.
    """
    worker, data_dir = process.settings.worker, process.settings.tools.data_dir
    found: list[ResultStore] = [
        bus.results(RESULT_BUCKET),
        bus.results(f"{RESULT_BUCKET}_kv", tier="kv"),
    ]
    if worker.result_store != "object":
        url = worker.result_store_url
        found.append(open_store(worker.result_store, url, data_dir))
    return sorted(found, key=lambda store: store.tier != worker.result_store)


def open_values(process: Process, bus: NatsBus) -> Values:
    """Values behind references, by this process's settings."""
    first, *others = stores_of(process, bus)
    settings = process.settings
    return Values(
        first,
        process.clock,
        process.observer,
        ValueSettings(
            bytes_max=settings.tools.result_bytes_max,
            stream_bytes_max=settings.worker.stream_bytes_max,
            cache_bytes=settings.worker.result_cache_bytes,
        ),
        {store.tier: store for store in others},
    )
