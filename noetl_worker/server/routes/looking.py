"""Looking into one execution: why it stands, its log as a file, what stands out."""

from __future__ import annotations

from http import HTTPStatus

from litestar import get, post
from litestar.params import FromPath, JSONBody
from litestar.response import Stream

from noetl_worker.server.analysis import Analysis, AnalyzeBody
from noetl_worker.server.bodies import known_id
from noetl_worker.server.edge import HttpRequest, edge_of
from noetl_worker.server.why import WhyAnswer


@get("/api/executions/{execution_id:str}/export")
async def export(request: HttpRequest, execution_id: FromPath[str]) -> Stream:
    """The execution's log as JSON lines: what ``noetl replay`` folds again."""
    edge = edge_of(request)
    known = known_id(execution_id)
    # Asked first, so that what is unknown or away is an error and no torn answer.
    await edge.live.facts(known)
    return Stream(edge.exporter.lines(known), media_type="application/x-ndjson")


@get("/api/executions/{execution_id:str}/why")
async def why(request: HttpRequest, execution_id: FromPath[str]) -> WhyAnswer:
    """Why the execution is not finished: what it waits for, what was decided last."""
    return await edge_of(request).why.explain(known_id(execution_id))


@post("/api/executions/{execution_id:str}/analyze", status_code=HTTPStatus.OK)
async def analyze(
    request: HttpRequest,
    execution_id: FromPath[str],
    data: JSONBody[AnalyzeBody | None] = None,
) -> Analysis:
    """What stands out in the execution: failures, retries, slow steps, waits."""
    edge = edge_of(request)
    body = data or AnalyzeBody()
    now = edge.ports.clock.now()
    return await edge.analyst.analyze(known_id(execution_id), body, now)


ROUTES = (export, why, analyze)
