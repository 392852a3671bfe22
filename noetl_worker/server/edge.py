"""The server edge: its parts, wired.

Built once by :func:`noetl_worker.server.app.create_edge`; handlers find it by
:func:`edge_of`. It keeps caches, never truth: any replica can take any request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from litestar import Request

from noetl_worker.server.admission import Admission
from noetl_worker.server.analysis import Analyst
from noetl_worker.server.catalog import Catalog
from noetl_worker.server.ending import Ending
from noetl_worker.server.ends import Ends
from noetl_worker.server.executions import Executions
from noetl_worker.server.exporting import Exporter
from noetl_worker.server.hub import Hub
from noetl_worker.server.ingest import Ingest
from noetl_worker.server.live import Live
from noetl_worker.server.ports import EdgeSettings, ServerPorts
from noetl_worker.server.starting import Starter
from noetl_worker.server.stored import StoredResults
from noetl_worker.server.streams import Streams
from noetl_worker.server.why import Why

HttpRequest: TypeAlias = Request[Any, Any, Any]


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
    ends: Ends
    live: Live
    streams: Streams
    executions: Executions
    analyst: Analyst
    ending: Ending
    ingest: Ingest
    stored: StoredResults
    why: Why
    exporter: Exporter


def edge_of(request: HttpRequest) -> Edge:
    """The edge behind a request."""
    return cast("Edge", request.app.state["edge"])
