"""Playbooks that call playbooks: starting a child (PB §16).

A call holds no worker: the owner writes the call, its parking and the child's genesis
in one message, later the child's terminal and the parent's result in one message. A
tree lives on one shard, so no crash can come between.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Raw, Struct
from msgspec.json import decode as decode_json

from state_builder.binding import effective_workload
from state_builder.drive.answers import settle
from state_builder.drive.bulk import LackingError
from state_builder.drive.commands import attempts, command_meta, is_claim
from state_builder.drive.decision import Draft, raw
from state_builder.drive.names import call_inputs, iteration_scope
from state_builder.errors import LimitExceededError, NoetlError, TemplateError
from state_builder.ids import CommandId, Shard, child_execution_id, command_id
from state_builder.iteration import Iteration
from state_builder.locator import data_locator
from state_builder.playbook.model import Call, Playbook, Step
from state_builder.policy import Run
from state_builder.records import (
    GENESIS,
    JSON,
    NOTHING,
    CallMode,
    CommandContext,
    Event,
    Genesis,
    ToolFailure,
    encode_json,
)
from state_builder.state import TIMEOUT_TIMER, Pass
from state_builder.template import BulkNeededError, Scope, render


class ChildNeed(Struct, frozen=True):
    """A playbook the owner must look up before the call can be decided."""

    path: str
    catalog_id: str
    version: int | None


class Child(Struct, frozen=True, kw_only=True):
    """What the lookup gave; ``problem`` says why it cannot be started."""

    catalog_id: str = ""
    path: str = ""
    version: int = 0
    playbook: Playbook | None = None
    problem: str = ""


class _Start(Struct, kw_only=True):
    """One child about to be started.

    Attributes:
        failure: why its call cannot even be made.
    """

    step: Step
    call: Call
    visit: int
    attempt: int
    iteration: str
    command: CommandId
    need: ChildNeed
    data: dict[str, JSON]
    failure: ToolFailure | None = None


def start_children(draft: Draft) -> None:
    """Start the children that active call steps lack (PB-600, PB-609)."""
    for step, run, iteration, attempt in _lacking(draft):
        if draft.full or len(draft.others) >= draft.others_max:
            return
        _start(draft, _prepare(draft, step, run, iteration, attempt))


def _lacking(draft: Draft) -> Iterator[tuple[Step, Pass, Iteration | None, int]]:
    for name in list(draft.state.live):
        step = draft.plan.playbook.steps[name]
        run = draft.state.steps[name].active
        if step.call is None or run is None or run.outcome is not None:
            continue
        for iteration, attempt in attempts(draft, step, run):
            if not is_claim(iteration):
                yield step, run, iteration, attempt


def _prepare(
    draft: Draft, step: Step, run: Pass, iteration: Iteration | None, attempt: int
) -> _Start:
    call = step.call
    assert call is not None
    loop_id = "" if iteration is None else iteration.id
    eid = draft.turn.state.execution_id
    start = _Start(
        step=step,
        call=call,
        visit=run.visit,
        attempt=attempt,
        iteration=loop_id,
        command=command_id(eid, step.name, run.visit, attempt, loop_id),
        need=ChildNeed(path=call.path, catalog_id=call.catalog_id, version=None),
        data={},
    )
    scope = iteration_scope(draft, step, run, iteration)
    try:
        start.data = _request_data(call, step, scope)
        start.need = _need(call, scope)
    except TemplateError as error:
        message = f"step '{step.name}', {error}"
        start.failure = ToolFailure(kind="template", message=message)
    except LimitExceededError as error:
        message = f"step '{step.name}': {error}"
        code = limit_of(draft, error)
        start.failure = ToolFailure(kind="limit", code=code, message=message)
    return start


def _request_data(call: Call, step: Step, scope: Scope) -> dict[str, JSON]:
    """Rendered ``payload`` overlaid by the author's ``input`` (PB-602)."""
    payload = _rendered("payload", call.payload, scope)
    data = dict(payload) if isinstance(payload, dict) else {}
    for key, value in call_inputs(step).items():
        data[key] = _rendered(f"input.{key}", value, scope)
    return data


def _need(call: Call, scope: Scope) -> ChildNeed:
    version = _rendered("version", call.version, scope)
    number = str(version).strip() if version is not None else ""
    if number and number != "latest" and not number.isdecimal():
        raise TemplateError(f"version: '{number[:80]}' is no version")
    return ChildNeed(
        path=str(_rendered("path", call.path, scope) or ""),
        catalog_id=str(_rendered("catalog_id", call.catalog_id, scope) or ""),
        version=int(number) if number.isdecimal() else None,
    )


def _rendered(key: str, value: JSON, scope: Scope) -> JSON:
    try:
        return render(value, scope, data=True)
    except TemplateError as error:
        raise TemplateError(f"{key}: {error}") from error


def _start(draft: Draft, start: _Start) -> None:
    if start.failure is not None:
        _issue(draft, start, start.need.path, "")
        settle(draft, start.command, Run(error=start.failure))
        return
    child = draft.turn.children.get(start.need)
    if child is None:
        if start.need not in draft.needs:
            draft.needs.append(start.need)
        return
    assert isinstance(child, Child)
    child_id = child_execution_id(
        start.command,
        int(draft.turn.now * 1000),
        Shard(draft.turn.shard),
        draft.turn.shard_count,
    )
    _issue(draft, start, start.need.path or child.path, child_id)
    problem, genesis, limit = child.problem, None, ""
    if not problem:
        try:
            genesis = _genesis(draft, start, child, child_id)
        except (BulkNeededError, LackingError):
            raise
        except NoetlError as error:
            problem, limit = str(error), limit_of(draft, error)
    if genesis is None:
        _not_started(draft, start, child_id, problem, limit)
        return
    event = birth(draft.turn.at, genesis)
    draft.bear(child_id, event)
    draft.weight += len(event.context)
    if start.call.wait == "none":
        data: JSON = {
            "status": "started",
            "execution_id": child_id,
            "path": child.path,
            "async": True,
        }
        settle(draft, start.command, Run(data=data))
    else:
        _park(draft, start)


def _issue(draft: Draft, start: _Start, path: str, child_id: str) -> None:
    tool = {"kind": "playbook", "path": path}
    draft.write(
        Event(
            type="command.issued",
            at=draft.turn.at,
            step=start.step.name,
            visit=start.visit,
            iteration=start.iteration,
            kind="playbook",
            status="PENDING",
            command_id=start.command,
            attempt=start.attempt,
            child=child_id,
            # Its answer is judged before it counts (PB-608).
            pending=start.call.is_judged,
            context=raw(CommandContext(tool_config=Raw(encode_json(tool)))),
            meta=command_meta(draft),
        )
    )


def _genesis(draft: Draft, start: _Start, child: Child, child_id: str) -> Genesis:
    genesis = child_genesis(draft, child, child_id, start.data)
    if start.call.wait != "none":
        genesis.parent_command_id = start.command
        genesis.call = CallMode(
            step=start.step.name,
            tolerant=start.call.wait == "tolerant",
            result_step=start.call.result_step,
        )
    return genesis


def child_genesis(
    draft: Draft, child: Child, child_id: str, data: dict[str, JSON]
) -> Genesis:
    """What a child is born with, but for how its end is waited for.

    Raises LimitExceededError and TemplateError.
    """
    parent = draft.turn.state.genesis
    assert parent is not None and child.playbook is not None
    depth = parent.depth + 1
    if depth > draft.turn.limits.depth_max:
        raise LimitExceededError(
            "depth_max",
            f"playbooks call each other {depth} deep; "
            f"at most {draft.turn.limits.depth_max} levels are allowed",
        )
    most = draft.turn.limits.tree_executions_max
    if draft.turn.tree_size + draft.born >= most:
        raise LimitExceededError(
            "tree_executions_max",
            f"{most:,} executions have come of one, as many as are allowed; "
            "does a playbook call itself?",
        )
    env: JSON = decode_json(parent.env) if parent.env else {}
    workload = effective_workload(child.playbook, data, child_id, draft.turn.at, env)
    genesis = Genesis(
        catalog_id=child.catalog_id,
        path=child.path,
        version=child.version,
        pool=child.playbook.pool or parent.pool,
        parent_execution_id=draft.turn.state.execution_id,
        depth=depth,
        root=parent.root or draft.turn.state.execution_id,
        trace=parent.trace,
        env=parent.env,
    )
    for name, value in (("workload", workload), ("payload", data)):
        encoded = encode_json(value)
        if len(encoded) <= draft.turn.limits.context_bytes_max // 2:
            setattr(genesis, name, Raw(encoded))
        else:
            locator = data_locator(f"{name}s", child_id, name, encoded)
            kept = draft.turn.bulk.keep(locator, encoded)
            setattr(genesis, f"{name}_ref", Raw(encode_json(kept)))
    return genesis


def birth(at: str, genesis: Genesis) -> Event:
    """The first event of a child; it belongs to its parent's trace (RT-OBS-10)."""
    trace = bytes(genesis.trace)
    return Event(
        type=GENESIS,
        at=at,
        status="STARTED",
        context=raw(genesis),
        meta=Raw(b'{"trace":' + trace + b"}") if trace else NOTHING,
    )


def _park(draft: Draft, start: _Start) -> None:
    name = start.step.name
    draft.write(
        Event(
            type="command.completed",
            at=draft.turn.at,
            step=name,
            visit=start.visit,
            iteration=start.iteration,
            command_id=start.command,
            status="pending",
            pending=True,
        )
    )
    draft.write(
        Event(
            type="timer.set",
            at=draft.turn.at,
            step=name,
            timer=f"{TIMEOUT_TIMER}{start.command}",
            due=draft.turn.now + start.call.timeout_s,
            status="PENDING",
        )
    )


def limit_of(draft: Draft, error: NoetlError) -> str:
    """The name of the limit an error speaks of, which is counted; else nothing."""
    if not isinstance(error, LimitExceededError):
        return ""
    draft.limits.append(error.limit)
    return error.limit


def _not_started(
    draft: Draft, start: _Start, child_id: str, problem: str, limit: str
) -> None:
    """An unknown path stays an error; an invalid child is tolerated (PB-605)."""
    path = start.need.path or start.need.catalog_id
    tolerated: JSON = None
    if start.call.wait == "tolerant" and not problem.startswith("unknown"):
        tolerated = {
            "execution_id": child_id,
            "path": path,
            "status": "FAILED",
            "error": problem,
            "result": {},
        }
    failure = ToolFailure(
        kind="configuration",
        code=limit,
        message=f"playbook '{path}' cannot be started: {problem}",
    )
    settle(draft, start.command, Run(error=failure), tolerated=tolerated)
