"""Children that a pipeline asks for in its middle (PB-185).

The worker appends what it wants and waits; the owner starts the child in one message
with its answer to that, and the child's end is written to its parent as any other's.
A worker that runs the pipeline again asks under the same key and gets the same child.
"""

from __future__ import annotations

from msgspec import Raw, ValidationError
from msgspec.json import Decoder
from msgspec.json import decode as decode_json
from msgspec.structs import replace

from state_builder.drive.answers import answer_event
from state_builder.drive.bulk import LackingError
from state_builder.drive.calls import Child, ChildNeed, birth, child_genesis, limit_of
from state_builder.drive.decision import Draft
from state_builder.errors import NoetlError
from state_builder.ids import CommandId, Shard, child_execution_id
from state_builder.records import (
    JSON,
    CallMode,
    ChildRequest,
    Event,
    Genesis,
    ToolFailure,
    ToolOutcome,
    encode_json,
)
from state_builder.state import Asked
from state_builder.template import BulkNeededError

_request = Decoder(ChildRequest)


def start_asked(draft: Draft) -> None:
    """Start what running pipelines asked for; also when the execution is failing,
    for their commands are awaited (PB-565)."""
    for key in list(draft.state.wanting):
        if draft.full or len(draft.others) >= draft.others_max:
            return
        _start(draft, key, draft.state.asked[key])


def _start(draft: Draft, key: str, asked: Asked) -> None:
    try:
        request = _request.decode(asked.request)
    except ValidationError as error:
        _answer(draft, asked, "", None, f"the request cannot be read: {error}")
        return
    need = ChildNeed(request.path, request.catalog_id, request.version or None)
    child = draft.turn.children.get(need)
    if child is None:
        if need not in draft.needs:
            draft.needs.append(need)
        return
    assert isinstance(child, Child)
    child_id = child_execution_id(
        CommandId(key),
        int(draft.turn.now * 1000),
        Shard(draft.turn.shard),
        draft.turn.shard_count,
    )
    problem, genesis = child.problem, None
    if not problem:
        try:
            genesis = _genesis(draft, asked, request, child, child_id)
        except (BulkNeededError, LackingError):
            raise
        except NoetlError as error:
            limit_of(draft, error)
            problem = str(error)
    if genesis is None:
        path = request.path or request.catalog_id
        problem = f"playbook '{path}' cannot be started: {problem}"
        _answer(draft, asked, "", None, problem)
        return
    draft.bear(child_id, birth(draft.turn.at, genesis))
    data: JSON = None
    if not request.waits:
        data = {
            "status": "started",
            "execution_id": child_id,
            "path": child.path,
            "async": True,
        }
    _answer(draft, asked, child_id, data, "")


def _genesis(
    draft: Draft, asked: Asked, request: ChildRequest, child: Child, child_id: str
) -> Genesis:
    mode = CallMode(
        step=asked.step,
        tolerant=request.tolerant,
        result_step=request.result_step,
        task=asked.task,
    )
    genesis = child_genesis(draft, child, child_id, decode_json(request.data))
    if request.waits:
        genesis.parent_command_id, genesis.call = asked.command_id, mode
    return genesis


def _answer(
    draft: Draft, asked: Asked, child_id: str, data: JSON, problem: str
) -> None:
    """``child.started``, with the answer itself where nothing is to be waited for."""
    started = Event(
        type="child.started",
        at=draft.turn.at,
        step=asked.step,
        command_id=asked.command_id,
        task=asked.task,
        child=child_id,
        status="STARTED",
    )
    draft.write(started)
    if data is None and not problem:
        return
    failure = None
    if problem:
        failure = ToolFailure(kind="configuration", message=problem)
    outcome = ToolOutcome(
        failed=failure is not None, data=Raw(encode_json(data)), error=failure
    )
    result = answer_event(draft, asked.command_id, outcome).result
    draft.write(replace(started, type="child.done", status="COMPLETED", result=result))
