"""The page every role but the server has: liveness, readiness, metrics (RT-OBS-12).

``/healthz`` answers while the event loop turns; ``/readyz`` says whether this process
should be given work and, if not, which part holds it back.
"""

from __future__ import annotations

from collections.abc import Callable

from litestar import Litestar, Response, get

from noetl_worker.lifecycle import Readiness
from noetl_worker.metrics import CONTENT_TYPE
from state_builder.records import encode_json

JSON_TYPE = "application/json"


def health_app(readiness: Readiness, metrics_page: Callable[[], bytes]) -> Litestar:
    """An application with the three routes."""

    @get("/healthz", include_in_schema=False)
    async def healthz() -> Response[bytes]:
        return Response(b'{"status":"ok"}', media_type=JSON_TYPE)

    @get("/readyz", include_in_schema=False)
    async def readyz() -> Response[bytes]:
        reasons = readiness.reasons()
        body = {"status": "waiting" if reasons else "ready", "reasons": dict(reasons)}
        return Response(
            encode_json(body),
            media_type=JSON_TYPE,
            status_code=503 if reasons else 200,
        )

    @get("/metrics", include_in_schema=False)
    async def metrics() -> Response[bytes]:
        return Response(metrics_page(), media_type=CONTENT_TYPE)

    return Litestar(
        route_handlers=[healthz, readyz, metrics],
        openapi_config=None,
        logging_config=None,
    )
