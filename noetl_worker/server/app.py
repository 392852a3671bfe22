"""The server edge put together: parts, daemons, and the ASGI application.

``create_edge`` wires the parts, ``create_app`` puts the routes before them. Every
request is counted by its route's template, never by its path (RT-OBS-1).
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import anyio
from litestar import Litestar, Router
from litestar.config.cors import CORSConfig
from litestar.enums import ScopeType
from litestar.openapi.config import OpenAPIConfig
from litestar.types import (
    ASGIApp,
    ControllerRouterHandler,
    Message,
    Receive,
    Scope,
    Send,
)

from noetl_worker.lifecycle import Daemon
from noetl_worker.server.admission import Admission
from noetl_worker.server.analysis import Analyst
from noetl_worker.server.answers import HANDLERS
from noetl_worker.server.catalog import Catalog
from noetl_worker.server.edge import Edge
from noetl_worker.server.ending import Ending
from noetl_worker.server.ends import Ends
from noetl_worker.server.executions import Executions
from noetl_worker.server.exporting import Exporter
from noetl_worker.server.guards import closed_to_browsers
from noetl_worker.server.history import History
from noetl_worker.server.hub import Hub
from noetl_worker.server.ingest import Ingest
from noetl_worker.server.live import Live, LiveSettings
from noetl_worker.server.ports import EdgeSettings, ServerPorts
from noetl_worker.server.routes import (
    catalog,
    closed,
    credentials,
    docs,
    events,
    executions,
    looking,
    notes,
    plugins,
    replay,
    results,
    system,
    wallet,
    workers,
)
from noetl_worker.server.starting import Starter
from noetl_worker.server.stored import StoredResults
from noetl_worker.server.streams import Streams
from noetl_worker.server.why import Why
from state_builder.errors import UnavailableError

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def create_edge(ports: ServerPorts, settings: EdgeSettings) -> Edge:
    """The parts, wired."""
    kept = settings.server
    hub = Hub(
        ports.log, ports.observer, kept.stream_events_max, kept.stream_window_bytes
    )
    ends = Ends(ports.signals)
    history = History(ports.log, ports.rows, settings.shard_count)
    live = Live(
        ports.signals,
        ports.rows,
        history,
        ports.observer,
        LiveSettings(settings.shard_count, settings.server.ask_s),
    )
    admission = Admission(ports, settings)
    reader = Executions(ports, live, history)
    why = Why(ports, live, history, settings.shard_count)
    entries = Catalog(ports, settings.playbook_bytes_max)
    return Edge(
        ports=ports,
        settings=settings,
        started_at=ports.clock.monotonic(),
        admission=admission,
        catalog=entries,
        starter=Starter(ports, settings, entries, live, admission),
        hub=hub,
        live=live,
        ends=ends,
        streams=Streams(ports, settings, live, history, hub, ends),
        executions=reader,
        analyst=Analyst(reader, why, entries),
        ending=Ending(ports, settings, live, history, ends),
        stored=StoredResults(ports),
        ingest=Ingest(ports, settings, live, history, admission),
        exporter=Exporter(ports, entries, live, history, settings.shard_count),
        why=why,
    )


def daemons(edge: Edge) -> dict[str, Daemon]:
    """What runs beside the listener for as long as the server does."""

    async def sweep(stop: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_sweep, edge)
            await stop.wait()
            tasks.cancel_scope.cancel()

    return {
        "hub": edge.hub.run,
        "ends": edge.ends.run,
        "admission": edge.admission.run,
        "sweeper": sweep,
    }


async def _sweep(edge: Edge) -> None:
    """Mark silent workers as offline (RT-WPL-4)."""
    settings = edge.settings.server
    while True:
        await edge.ports.clock.sleep(settings.runtime_sweep_s)
        try:
            await edge.ports.tables.sweep_runtimes(settings.runtime_offline_s)
        except UnavailableError:
            # The database is away; health says so, and the next round tries again.
            continue


def create_app(
    edge: Edge, more_routes: Sequence[ControllerRouterHandler] = ()
) -> ASGIApp:
    """The application; ``more_routes`` are those of other rooms (secrets, results)."""
    settings = edge.settings.server
    app = Litestar(
        route_handlers=[
            *system.ROUTES,
            *catalog.ROUTES,
            *executions.ROUTES,
            *looking.ROUTES,
            *notes.ROUTES,
            *replay.ROUTES,
            *closed.ROUTES,
            *docs.ROUTES,
            *events.ROUTES,
            *workers.ROUTES,
            *credentials.ROUTES,
            *wallet.ROUTES,
            *plugins.ROUTES,
            Router(
                path="/",
                route_handlers=results.ROUTES,
                request_max_body_size=settings.blob_bytes_max,
            ),
            *more_routes,
        ],
        exception_handlers=HANDLERS,
        cors_config=CORSConfig(
            allow_origins=list(settings.cors_origins),
            allow_methods=list(METHODS),
            allow_headers=["*"],
        ),
        openapi_config=OpenAPIConfig(
            title="noetl",
            version=edge.settings.version,
            path="/api/docs",
            use_handler_docstrings=True,
            render_plugins=docs.PLUGINS,
        ),
        request_max_body_size=settings.body_bytes_max,
        logging_config=None,
        debug=False,
    )
    app.state["edge"] = edge
    return _Counted(app, edge)


class _Counted:
    """Counts and times requests by method, route template and status."""

    def __init__(self, app: ASGIApp, edge: Edge) -> None:
        self._app = app
        self._observer = edge.ports.observer
        self._monotonic = edge.ports.clock.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began = self._monotonic()
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(closed_to_browsers(scope), receive, watched)
        finally:
            route = scope.get("path_template") or "unmatched"
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._observer.count(
                "noetl_http_requests_total",
                method=method,
                route=route,
                status=str(status),
            )
            self._observer.time(
                "noetl_http_request_duration_seconds",
                self._monotonic() - began,
                method=method,
                route=route,
            )
