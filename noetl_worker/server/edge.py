"""The server edge: what it may touch, how it is set, and its parts.

Built once by :func:`noetl_worker.server.app.create_edge`; handlers find it by
:func:`edge_of`. It keeps caches, never truth: any replica can take any request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from litestar import Request

from noetl_worker.settings import Server
from state_builder.ports import Clock, EventLog, Observer, Signals
from state_builder.records import JSON
from state_builder.stores import RowReader, Tables

if TYPE_CHECKING:
    from noetl_worker.server.admission import Admission
    from noetl_worker.server.catalog import Catalog
    from noetl_worker.server.ending import Ending
    from noetl_worker.server.executions import Executions
    from noetl_worker.server.hub import Hub
    from noetl_worker.server.ingest import Ingest
    from noetl_worker.server.live import Live
    from noetl_worker.server.starting import Starter
    from noetl_worker.server.streams import Streams


HttpRequest: TypeAlias = Request[Any, Any, Any]


class Ids(Protocol):
    """Mints ids of executions, entries and runtimes (RT-EVT-10)."""

    def mint(self) -> str:
        """A new one, decimal."""


@dataclass(frozen=True, kw_only=True)
class ServerPorts:
    """What the server may touch.

    Attributes:
        connected: whether the broker can be reached right now.
        metrics_page: all metrics as text.
        pool_status: the database's connection pool, by the names of §1.2.
    """

    log: EventLog
    signals: Signals
    rows: RowReader
    tables: Tables
    clock: Clock
    ids: Ids
    observer: Observer
    connected: Callable[[], bool]
    metrics_page: Callable[[], bytes]
    pool_status: Callable[[], dict[str, JSON]]


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """How the server is set.

    Attributes:
        append_bytes_max: largest encoded append (RT-NATS-26).
        workload_bytes_max: largest workload of a start.
        retention_s: starts are refused when rows lag by a quarter of it (RT-LIM-8).
    """

    server: Server
    shard_count: int
    append_bytes_max: int = 921_600
    workload_bytes_max: int = 524_288
    retention_s: float = 86_400.0
    internal_token: str = ""
    version: str = "0"


@dataclass(frozen=True, kw_only=True)
class Edge:
    """The parts, wired."""

    ports: ServerPorts
    settings: EdgeSettings
    started_at: float
    admission: Admission
    catalog: Catalog
    starter: Starter
    hub: Hub
    live: Live
    streams: Streams
    executions: Executions
    ending: Ending
    ingest: Ingest


def edge_of(request: HttpRequest) -> Edge:
    """The edge behind a request."""
    return cast("Edge", request.app.state["edge"])
