"""Health, metrics, dashboard and the database for operators (§1.2, §1.12)."""

from __future__ import annotations

import resource
import threading
from base64 import b64decode
from http import HTTPStatus
from typing import Any, Final

from litestar import Response, get, post
from litestar.params import JSONBody
from msgspec import Struct, field

from noetl_worker.server.bodies import Value
from noetl_worker.server.edge import Edge, HttpRequest, edge_of
from noetl_worker.server.guards import check_token
from state_builder.errors import InvalidError, NotFoundError, UnavailableError

VALIDATED_TABLES = (
    "resource", "catalog", "transient", "event", "credential", "runtime", "schedule",
    "keychain",
)  # fmt: skip

KIB: Final = 1024
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The exposition format of /metrics (RT §1.2)."""


class QueryBody(Struct, kw_only=True):
    """``/api/postgres/execute``."""

    query: str | None = None
    query_base64: str | None = None
    parameters: list[Value] = field(default_factory=list)
    row_format: str = "object"


@get("/health")
async def liveness() -> dict[str, str]:
    """The process serves; nothing else is looked at."""
    return {"status": "ok"}


@get("/api/health")
async def health(request: HttpRequest) -> Response[dict[str, Any]]:
    """Whether database and broker can be reached; 503 without the database."""
    edge = edge_of(request)
    try:
        await edge.ports.tables.ping()
        database = "connected"
    except UnavailableError:
        database = "disconnected"
    ready = database == "connected"
    uptime = edge.ports.clock.monotonic() - edge.started_at
    body = {
        "status": "ok" if ready else "unhealthy",
        "database": database,
        "nats": "connected" if edge.ports.connected() else "disconnected",
        "uptime_seconds": round(uptime, 3),
        "version": edge.settings.version,
    }
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(body, status_code=status)


@get("/metrics", include_in_schema=False)
async def metrics(request: HttpRequest) -> Response[bytes]:
    """Prometheus text."""
    edge = edge_of(request)
    if edge.settings.server.disable_metrics:
        raise NotFoundError("metrics are switched off here")
    return Response(edge.ports.metrics_page(), media_type=METRICS_TYPE)


@get("/api/openapi.json", include_in_schema=False)
async def openapi(request: HttpRequest) -> dict[str, Any]:
    """The description of all routes."""
    return request.app.openapi_schema.to_schema()


@get("/api/pool/status")
async def pool_status(request: HttpRequest) -> dict[str, Any]:
    """The database's connection pool."""
    return edge_of(request).ports.pool_status()


@get("/api/dashboard/stats")
async def dashboard_stats(request: HttpRequest) -> dict[str, Any]:
    """Counts for the front page."""
    edge = edge_of(request)
    counts = await edge.ports.rows.counts()
    stats = {
        "total_executions": counts.total,
        "successful_executions": counts.completed,
        "failed_executions": counts.failed,
        "cancelled_executions": counts.cancelled,
        "running_executions": counts.running,
        "total_playbooks": await _playbooks(edge),
        "total_workers": len(await edge.ports.tables.runtimes(kind="worker_pool")),
    }
    return {
        "status": "ok",
        "stats": stats,
        **{name: stats[name] for name in (
            "total_executions", "successful_executions", "failed_executions",
            "total_playbooks",
        )},
        "active_workflows": counts.running,
    }  # fmt: skip


@get("/api/dashboard/widgets")
async def dashboard_widgets(request: HttpRequest) -> dict[str, Any]:
    """The front page's widgets."""
    counts = await edge_of(request).ports.rows.counts()
    data = {
        "running": counts.running,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
    }
    widget = {
        "id": "executions",
        "type": "counts",
        "title": "Executions",
        "config": {},
        "data": data,
    }
    return {"widgets": [widget]}


@post("/api/db/init", status_code=HTTPStatus.OK)
async def init_database(request: HttpRequest) -> dict[str, Any]:
    """Create or migrate the tables."""
    version = await edge_of(request).ports.tables.apply_schema()
    return {"status": "ok", "version": version, "message": f"schema version {version}"}


@get("/api/db/validate")
async def validate_database(request: HttpRequest) -> dict[str, Any]:
    """Whether the tables are those this build needs."""
    missing = await edge_of(request).ports.tables.missing()
    absent = {name.partition(".")[0] for name in missing}
    valid = not missing
    return {
        "status": "ok" if valid else "error",
        "valid": valid,
        "tables": [name for name in VALIDATED_TABLES if name not in absent],
        "missing": missing,
        "message": "complete" if valid else f"missing: {', '.join(missing)}",
    }


@post("/api/postgres/execute", status_code=HTTPStatus.OK)
async def execute_sql(
    request: HttpRequest, data: JSONBody[QueryBody]
) -> dict[str, Any]:
    """Run an operator's statement; refused statements are answered, not raised."""
    edge = edge_of(request)
    if not edge.settings.server.allow_sql:
        check_token(edge, request.headers.get("authorization", ""))
    try:
        rows = await edge.ports.tables.query(_statement(data), data.parameters)
    except UnavailableError:
        raise
    except InvalidError as error:
        return {"status": "error", "result": [], "error": str(error)}
    if data.row_format == "array":
        return {"status": "ok", "result": [list(row.values()) for row in rows]}
    return {"status": "ok", "result": rows}


async def _playbooks(edge: Edge) -> int:
    rows = await edge.ports.tables.catalog(kind="playbook")
    return len({row.path for row in rows})


def _statement(data: QueryBody) -> str:
    if data.query:
        return data.query
    if not data.query_base64:
        raise InvalidError("give 'query' or 'query_base64'")
    try:
        return b64decode(data.query_base64, validate=True).decode()
    except ValueError as error:
        raise InvalidError("query_base64 is no base64 of a text") from error


@get("/api/status")
async def process_status(request: HttpRequest) -> dict[str, Any]:
    """What this process uses: seconds, bytes, threads."""
    edge = edge_of(request)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "status": "ok",
        "version": edge.settings.version,
        "uptime_seconds": round(edge.ports.clock.monotonic() - edge.started_at, 3),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "memory_peak_bytes": used.ru_maxrss * KIB,
        "threads": threading.active_count(),
    }


@get("/api/threads")
async def threads(request: HttpRequest) -> dict[str, Any]:
    """The threads of this process."""
    del request
    found = [
        {"name": one.name, "daemon": one.daemon, "alive": one.is_alive()}
        for one in threading.enumerate()
    ]
    return {"count": len(found), "threads": found}


@get("/api/profiler/status")
async def profiler() -> dict[str, str]:
    """There is none inside: a process is profiled from outside."""
    return {"status": "unavailable"}


@post(["/api/profiler/memory/start", "/api/profiler/memory/stop"], status_code=200)
async def memory_profiler() -> dict[str, str]:
    """As above."""
    return {"status": "unavailable"}


ROUTES = (
    liveness, health, metrics, openapi, pool_status, dashboard_stats, dashboard_widgets,
    init_database, validate_database, execute_sql, process_status, threads, profiler,
    memory_profiler,
)  # fmt: skip
