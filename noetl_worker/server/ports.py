"""What the server may touch and how it is set; its parts are given both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from noetl_worker.settings import Server
from state_builder.credentials import Vault
from state_builder.notes import Notes
from state_builder.ports import Blobs, Clock, CommandQueue, EventLog, Observer, Signals
from state_builder.records import JSON
from state_builder.stores import RowReader, Tables
from state_builder.values import ResultRows, ValueStore


class Ids(Protocol):
    """Mints ids of executions, entries and runtimes (RT-EVT-10)."""

    def mint(self) -> str:
        """A new one, decimal."""


@dataclass(frozen=True, kw_only=True)
class ServerPorts:
    """What the server may touch.

    Attributes:
        plugins: modules of WebAssembly plug-ins.
        known_fields: what a tool of a kind may carry; None where nobody knows.
        connected: whether the broker can be reached right now.
        metrics_page: all metrics as text.
        pool_status: the database's connection pool, by the names of §1.2.
    """

    log: EventLog
    commands: CommandQueue
    signals: Signals
    rows: RowReader
    tables: Tables
    notes: Notes
    vault: Vault
    plugins: Blobs
    values: ValueStore
    result_rows: ResultRows
    clock: Clock
    ids: Ids
    observer: Observer
    known_fields: Callable[[str], frozenset[str] | None]
    connected: Callable[[], bool]
    metrics_page: Callable[[], bytes]
    pool_status: Callable[[], dict[str, JSON]]


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """How the server is set.

    Attributes:
        append_bytes_max: largest encoded append (RT-NATS-26).
        workload_bytes_max: largest workload of a start.
        playbook_bytes_max: largest document of the catalog.
        retention_s: starts are refused when rows lag by a quarter of it (RT-LIM-8).
    """

    server: Server
    shard_count: int
    append_bytes_max: int = 921_600
    workload_bytes_max: int = 524_288
    playbook_bytes_max: int = 1 << 20
    retention_s: float = 86_400.0
    internal_token: str = ""
    version: str = "0"
