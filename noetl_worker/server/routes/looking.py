"""Looking into one execution: why it stands, its log as a file, its variables."""

from __future__ import annotations

from typing import Any

from litestar import get
from litestar.params import FromPath
from litestar.response import Stream

from noetl_worker.server.bodies import known_id
from noetl_worker.server.edge import HttpRequest, edge_of
from noetl_worker.server.why import WhyAnswer
from state_builder.errors import NotFoundError


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


@get("/api/vars/{execution_id:str}")
async def variables(
    request: HttpRequest, execution_id: FromPath[str]
) -> dict[str, Any]:
    """The variables of an execution."""
    found = await edge_of(request).live.status(known_id(execution_id))
    return {
        "execution_id": found.execution_id,
        "count": len(found.variables),
        "variables": {
            name: _variable(value) for name, value in found.variables.items()
        },
    }


@get("/api/vars/{execution_id:str}/{name:str}")
async def variable(
    request: HttpRequest, execution_id: FromPath[str], name: FromPath[str]
) -> dict[str, Any]:
    """One variable."""
    found = await edge_of(request).live.status(known_id(execution_id))
    if name not in found.variables:
        raise NotFoundError(f"execution {found.execution_id} has no variable '{name}'")
    return {
        "execution_id": found.execution_id,
        "name": name,
        **_variable(found.variables[name]),
    }


def _variable(value: Any) -> dict[str, Any]:
    return {"value": value, "type": "user_defined", "source_step": None}


ROUTES = (export, why, variables, variable)
