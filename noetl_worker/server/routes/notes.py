"""``/api/vars/…`` and ``/api/playbook-tests/…``: what clients keep (§1.3, §1.12).

Variables of an execution are its own (``ctx``), which nobody outside changes, and those
that clients keep beside it; where both have a name, the execution's own is shown.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from litestar import delete, get, post, put
from litestar.params import FromPath, JSONBody
from msgspec import Raw, Struct

from noetl_worker.server.bodies import Value, known_id
from noetl_worker.server.edge import Edge, HttpRequest, edge_of
from noetl_worker.server.shapes import moment
from state_builder.errors import InvalidError, NotFoundError, UnavailableError
from state_builder.notes import SuiteRow, VariableRow
from state_builder.records import JSON, encode_json

TYPES: Final = ("user_defined", "step_result", "computed", "iterator_state")
NAME_MAX: Final = 200
VARIABLES_MAX: Final = 1000
"""Variables of one request."""


class SuiteBody(Struct, kw_only=True):
    """``PUT /api/playbook-tests/suites/…``."""

    playbook_path: str
    tests: list[Value]
    metadata: Value = None


@get("/api/vars/{execution_id:str}")
async def variables(
    request: HttpRequest, execution_id: FromPath[str]
) -> dict[str, Any]:
    """The variables of an execution."""
    edge, eid = edge_of(request), known_id(execution_id)
    own = await _own(edge, eid)
    try:
        kept = await edge.ports.notes.variables(eid)
    except UnavailableError:
        if not own:
            raise
        # The execution's own are known to its owner, without any database.
        kept = []
    found = {row.name: _kept(row) for row in kept} | own
    return {"execution_id": eid, "count": len(found), "variables": found}


@get("/api/vars/{execution_id:str}/{name:str}")
async def variable(
    request: HttpRequest, execution_id: FromPath[str], name: FromPath[str]
) -> dict[str, Any]:
    """One variable; reading one that clients keep counts."""
    edge, eid = edge_of(request), known_id(execution_id)
    own = await _own(edge, eid)
    if name in own:
        return {"execution_id": eid, "name": name, **own[name]}
    row = await edge.ports.notes.read_variable(eid, name)
    if row is None:
        raise NotFoundError(f"execution {eid} has no variable '{name}'")
    return {"execution_id": eid, "name": name, **_kept(row)}


@post("/api/vars/{execution_id:str}", status_code=HTTPStatus.OK)
async def set_variables(
    request: HttpRequest,
    execution_id: FromPath[str],
    data: JSONBody[dict[str, Value]],
) -> dict[str, Any]:
    """Keep variables beside an execution: a list, a map of them, or plain values."""
    edge, eid = edge_of(request), known_id(execution_id)
    rows = _rows(data)
    await edge.live.facts(eid)
    await edge.ports.notes.set_variables(eid, rows)
    return {"status": "ok", "execution_id": eid, "variables_set": len(rows)}


@delete("/api/vars/{execution_id:str}", status_code=HTTPStatus.OK)
async def drop_variables(
    request: HttpRequest, execution_id: FromPath[str]
) -> dict[str, Any]:
    """Forget what clients keep beside an execution."""
    eid = known_id(execution_id)
    count = await edge_of(request).ports.notes.drop_variables(eid)
    return {"status": "ok", "execution_id": eid, "deleted": count}


@delete("/api/vars/{execution_id:str}/{name:str}", status_code=HTTPStatus.OK)
async def drop_variable(
    request: HttpRequest, execution_id: FromPath[str], name: FromPath[str]
) -> dict[str, Any]:
    """Forget one variable that clients keep."""
    eid = known_id(execution_id)
    count = await edge_of(request).ports.notes.drop_variables(eid, name)
    status = "ok" if count else "not_found"
    return {"status": status, "execution_id": eid, "name": name, "deleted": count}


@get("/api/playbook-tests/suites/{suite_id:path}")
async def suite(request: HttpRequest, suite_id: FromPath[str]) -> dict[str, Any]:
    """A test suite."""
    key = _suite_id(suite_id)
    row = await edge_of(request).ports.notes.suite(key)
    if row is None:
        raise NotFoundError(f"test suite '{key}' does not exist")
    return _shown(row)


@put("/api/playbook-tests/suites/{suite_id:path}", status_code=HTTPStatus.OK)
async def save_suite(
    request: HttpRequest, suite_id: FromPath[str], data: JSONBody[SuiteBody]
) -> dict[str, Any]:
    """Store a test suite, or replace it."""
    if not data.playbook_path:
        raise InvalidError("playbook_path: name the playbook that is tested")
    row = SuiteRow(
        suite_id=_suite_id(suite_id),
        playbook_path=data.playbook_path,
        tests=Raw(encode_json(data.tests)),
        metadata=Raw(encode_json(data.metadata)),
    )
    return _shown(await edge_of(request).ports.notes.save_suite(row))


@delete("/api/playbook-tests/suites/{suite_id:path}", status_code=HTTPStatus.OK)
async def drop_suite(request: HttpRequest, suite_id: FromPath[str]) -> dict[str, Any]:
    """Remove a test suite."""
    key = _suite_id(suite_id)
    if not await edge_of(request).ports.notes.drop_suite(key):
        raise NotFoundError(f"test suite '{key}' does not exist")
    return {"status": "deleted", "suite_id": key, "file_path": _file(key)}


async def _own(edge: Edge, execution_id: str) -> dict[str, dict[str, Any]]:
    found = (await edge.live.status(execution_id)).variables
    shape = {"type": "user_defined", "source_step": None, "created_at": None}
    last = {"accessed_at": None, "access_count": 0}
    return {name: {"value": value, **shape, **last} for name, value in found.items()}


def _kept(row: VariableRow) -> dict[str, Any]:
    return {
        "value": row.value,
        "type": row.type,
        "source_step": row.source_step,
        "created_at": moment(row.created_at),
        "accessed_at": moment(row.accessed_at),
        "access_count": row.access_count,
    }


def _rows(data: dict[str, JSON]) -> list[VariableRow]:
    """The three shapes of a request (§1.12). Raises InvalidError."""
    given = data.get("variables", data)
    shared: dict[str, JSON] = data if "variables" in data else {}
    if isinstance(given, dict):
        named = list(given.items())
        rows = [_row(name, value, shared) for name, value in named]
    elif isinstance(given, list):
        rows = [_listed(item) for item in given]
    else:
        raise InvalidError("variables: give a list or an object")
    if not 1 <= len(rows) <= VARIABLES_MAX:
        raise InvalidError(f"variables: give 1 to {VARIABLES_MAX}, not {len(rows)}")
    # PostgreSQL refuses to replace a row twice in one statement: the last one wins.
    return list({row.name: row for row in rows}.values())


def _listed(item: JSON) -> VariableRow:
    if not isinstance(item, dict):
        raise InvalidError("variables: each must be an object with 'var_name'")
    return _row(item.get("var_name"), item.get("var_value"), item)


def _row(name: JSON, value: JSON, about: dict[str, JSON]) -> VariableRow:
    kind, step = about.get("var_type") or TYPES[0], about.get("source_step")
    if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX or "\0" in name:
        raise InvalidError(f"var_name: give a text of 1 to {NAME_MAX} characters")
    if kind not in TYPES:
        raise InvalidError(f"var_type must be one of {', '.join(TYPES)}")
    if step is not None and not isinstance(step, str):
        raise InvalidError("source_step must be a text")
    return VariableRow(
        name=name, value=Raw(encode_json(value)), type=str(kind), source_step=step
    )


def _shown(row: SuiteRow) -> dict[str, Any]:
    return {
        "suite_id": row.suite_id,
        "file_path": _file(row.suite_id),
        "playbook_path": row.playbook_path,
        "tests": row.tests,
        "metadata": row.metadata,
        "updated_at": moment(row.updated_at),
    }


def _suite_id(text: str) -> str:
    found = text.strip("/")
    if not 0 < len(found) <= NAME_MAX or "\0" in found:
        raise InvalidError(f"suite id: give 1 to {NAME_MAX} characters")
    return found


def _file(suite_id: str) -> str:
    """What clients show as the place of a suite: it is a row, not a file."""
    return f"playbook-tests/{suite_id}"


ROUTES = (
    variables, variable, set_variables, drop_variables, drop_variable, suite,
    save_suite, drop_suite,
)  # fmt: skip
