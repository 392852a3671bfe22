"""Playbooks that call playbooks (PB §16).

A call holds no worker: the owner writes the call, its parking and the child's genesis
in one message, later the child's terminal and the parent's result in one message. A
tree lives on one shard, so no crash can come between.
"""

from __future__ import annotations

from msgspec import Raw, Struct
from msgspec.json import decode as decode_json
from msgspec.structs import replace

from state_builder.binding import effective_workload
from state_builder.drive.commands import command_meta, iteration_names
from state_builder.drive.decision import Draft, raw
from state_builder.drive.names import entry_scope, view
from state_builder.errors import NoetlError, TemplateError
from state_builder.ids import Shard, child_execution_id, command_id
from state_builder.iteration import Iteration, due
from state_builder.playbook.model import Call, Playbook, Step
from state_builder.records import (
    JSON,
    CallMode,
    CommandContext,
    Event,
    Genesis,
    Record,
    ResultEnvelope,
    ToolFailure,
    ToolOutcome,
    encode_json,
)
from state_builder.state import Outcome, Pass
from state_builder.template import Iteration as TextIteration
from state_builder.template import Scope, plain, render


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
    """One child about to be started."""

    step: Step
    run: Pass
    call: Call
    iteration: Iteration | None
    need: ChildNeed
    data: dict[str, JSON]


def start_children(draft: Draft) -> None:
    """Start the children that active call steps lack (PB-600, PB-609)."""
    for name in list(draft.state.live):
        run = draft.state.steps[name].active
        step = draft.plan.playbook.steps[name]
        if step.call is None or run is None or run.outcome is not None:
            continue
        for iteration in _wanted(draft, step, run):
            if draft.full or len(draft.others) >= draft.turn.limits.events_max // 3:
                return
            _start(draft, _prepare(draft, step, run, iteration))


def _wanted(draft: Draft, step: Step, run: Pass) -> list[Iteration | None]:
    room = draft.turn.limits.open_commands_max - len(draft.state.commands)
    if run.loop is None:
        return [None] if not run.issued and room > 0 else []
    best_effort = step.best_effort or step.on_error == "continue"
    return list(due(run.loop, best_effort=best_effort, room=room))


def _prepare(
    draft: Draft, step: Step, run: Pass, iteration: Iteration | None
) -> _Start:
    call = step.call
    assert call is not None
    scope = entry_scope(draft, step.name, run)
    if iteration is not None:
        scope.iteration = loop_names(iteration_names(step, run, iteration))
    where = f"step '{step.name}'"
    payload = _rendered(call.payload, scope, f"{where}, payload")
    data = dict(payload) if isinstance(payload, dict) else {}
    own = decode_json(step.input) if step.input else {}
    for block in (own, call.input):
        for key, value in block.items():
            data[key] = _rendered(value, scope, f"{where}, input.{key}")
    path = _rendered(call.path, scope, f"{where}, path")
    version = _rendered(call.version, scope, f"{where}, version")
    need = ChildNeed(
        path=str(path or ""),
        catalog_id=str(_rendered(call.catalog_id, scope, where) or ""),
        version=int(str(version)) if str(version or "").isdecimal() else None,
    )
    return _Start(
        step=step, run=run, call=call, iteration=iteration, need=need, data=data
    )


def loop_names(names: dict[str, JSON]) -> TextIteration:
    """Iteration names as a scope takes them."""
    index, total = names["index"], names["total"]
    assert isinstance(index, int) and isinstance(total, int)
    return TextIteration(
        name=str(names["name"]), value=names["value"], index=index, total=total
    )


def _rendered(value: JSON, scope: Scope, where: str) -> JSON:
    try:
        return render(value, scope, data=True)
    except TemplateError as error:
        raise TemplateError(f"{where}: {error}") from error


def _start(draft: Draft, start: _Start) -> None:
    child = draft.turn.children.get(start.need)
    if child is None:
        if start.need not in draft.needs:
            draft.needs.append(start.need)
        return
    assert isinstance(child, Child)
    state, run, step = draft.turn.state, start.run, start.step
    iteration = "" if start.iteration is None else start.iteration.id
    command = command_id(state.execution_id, step.name, run.visit, 1, iteration)
    child_id = child_execution_id(
        command,
        int(draft.turn.now * 1000),
        Shard(draft.turn.shard),
        draft.turn.shard_count,
    )
    tool = {"kind": "playbook", "path": start.need.path or child.path}
    context = CommandContext(tool_config=Raw(encode_json(tool)))
    draft.write(
        Event(
            type="command.issued",
            at=draft.turn.at,
            step=step.name,
            visit=run.visit,
            iteration=iteration,
            kind="playbook",
            status="PENDING",
            command_id=command,
            attempt=1,
            child=child_id,
            context=raw(context),
            meta=command_meta(draft),
        )
    )
    problem = child.problem
    if not problem:
        try:
            genesis = _genesis(draft, start, child, child_id, command)
        except NoetlError as error:
            problem = str(error)
    if problem:
        _not_started(draft, start, command, child_id, problem)
        return
    draft.others.append(
        Record(
            execution_id=child_id,
            events=[
                Event(
                    type="playbook_started",
                    at=draft.turn.at,
                    status="STARTED",
                    context=raw(genesis),
                )
            ],
        )
    )
    if start.call.wait == "none":
        _answer_at_once(draft, step, command, child_id, child.path)
    else:
        _park(draft, start, command)


def _genesis(
    draft: Draft, start: _Start, child: Child, child_id: str, command: str
) -> Genesis:
    parent = draft.turn.state.genesis
    assert parent is not None and child.playbook is not None
    depth = parent.depth + 1
    if depth > draft.turn.limits.depth_max:
        raise TemplateError(
            f"playbooks call each other {depth} deep; "
            f"at most {draft.turn.limits.depth_max} levels are allowed"
        )
    env: JSON = decode_json(parent.env) if parent.env else {}
    workload = effective_workload(
        child.playbook, start.data, child_id, draft.turn.at, env
    )
    waits = start.call.wait != "none"
    return Genesis(
        catalog_id=child.catalog_id,
        path=child.path,
        version=child.version,
        workload=Raw(encode_json(workload)),
        payload=Raw(encode_json(start.data)),
        pool=child.playbook.pool or parent.pool,
        parent_execution_id=draft.turn.state.execution_id,
        parent_command_id=command if waits else "",
        depth=depth,
        call=CallMode(
            step=start.step.name,
            tolerant=start.call.wait == "tolerant",
            result_step=start.call.result_step,
        )
        if waits
        else None,
        trace=parent.trace,
        env=parent.env,
    )


def _park(draft: Draft, start: _Start, command: str) -> None:
    draft.write(
        Event(
            type="command.completed",
            at=draft.turn.at,
            step=start.step.name,
            visit=start.run.visit,
            iteration="" if start.iteration is None else start.iteration.id,
            command_id=command,
            status="pending",
            pending=True,
        )
    )
    if start.call.timeout_s > 0:
        draft.write(
            Event(
                type="timer.set",
                at=draft.turn.at,
                step=start.step.name,
                timer=f"{start.step.name}:{command}",
                due=draft.turn.now + start.call.timeout_s,
                status="PENDING",
            )
        )


def _answer_at_once(
    draft: Draft, step: Step, command: str, child_id: str, path: str
) -> None:
    data: JSON = {
        "status": "started",
        "execution_id": child_id,
        "path": path,
        "async": True,
    }
    _write_outcome(draft, step.name, command, data, None)


def _not_started(
    draft: Draft, start: _Start, command: str, child_id: str, problem: str
) -> None:
    """An unknown path stays an error; an invalid child is tolerated (PB-605)."""
    unknown = problem.startswith("unknown")
    path = start.need.path or start.need.catalog_id
    if start.call.wait == "tolerant" and not unknown:
        data: JSON = {
            "execution_id": child_id,
            "path": path,
            "status": "FAILED",
            "error": problem,
        }
        _write_outcome(draft, start.step.name, command, data, None)
        return
    failure = ToolFailure(
        kind="configuration",
        message=f"playbook '{path}' cannot be started: {problem}",
    )
    _write_outcome(draft, start.step.name, command, None, failure)


def _write_outcome(
    draft: Draft, step: str, command: str, data: JSON, failure: ToolFailure | None
) -> None:
    """The pair of events that ends a command, written by the owner itself."""
    ok = failure is None
    done = call_event(
        "call.done" if ok else "call.error", draft, command, data, failure
    )
    draft.write(_with_step(done, step), rank=8)
    draft.write(
        Event(
            type="command.completed" if ok else "command.failed",
            at=draft.turn.at,
            step=step,
            command_id=command,
            status="success" if ok else "FAILED",
            code="" if failure is None else failure.kind,
            error="" if failure is None else failure.message,
        ),
        rank=8,
    )


def _with_step(event: Event, step: str) -> Event:
    return replace(event, step=step)


def call_event(
    event_type: str,
    draft: Draft,
    command: str,
    data: JSON,
    failure: ToolFailure | None,
) -> Event:
    """``call.done``/``call.error`` with its result envelope."""
    ok = failure is None
    envelope = ResultEnvelope(
        status="success" if ok else "error",
        context=ToolOutcome(data=Raw(encode_json(data)), error=failure),
    )
    return Event(
        type=event_type,
        at=draft.turn.at,
        command_id=command,
        status="COMPLETED" if ok else "FAILED",
        error="" if failure is None else failure.message[:2000],
        result=Raw(encode_json(envelope)),
    )


def answer_parent(
    draft: Draft, status: str, error: str, result: Outcome | None
) -> None:
    """A waited-for child's end is its parent's result (PB-603 ff.)."""
    genesis = draft.turn.state.genesis
    if genesis is None or genesis.call is None:
        return
    data, failure = _value_for_parent(draft, genesis, status, error, result)
    event = call_event("call.done", draft, genesis.parent_command_id, data, failure)
    draft.others.append(
        Record(
            execution_id=genesis.parent_execution_id,
            events=[_with_step(event, genesis.call.step)],
        )
    )


def _value_for_parent(
    draft: Draft, genesis: Genesis, status: str, error: str, result: Outcome | None
) -> tuple[JSON, ToolFailure | None]:
    call = genesis.call
    assert call is not None
    named = None
    if call.result_step:
        step = draft.state.steps.get(call.result_step)
        if step is not None and step.result is not None and step.status == "completed":
            named = step.result
    head: dict[str, JSON] = {
        "execution_id": draft.turn.state.execution_id,
        "path": genesis.path,
        "status": status,
    }
    if not call.tolerant:
        missing = bool(call.result_step) and named is None
        if status != "COMPLETED" or missing:
            why = error or f"step '{call.result_step}' never completed"
            eid = draft.turn.state.execution_id
            text = f"child playbook {genesis.path} ({eid}): {why}"
            failure = ToolFailure(kind="child_failed", message=text)
            return {**head, "error": why}, failure
        return shape(named or result, head), None
    found = named or result
    if error:
        head["error"] = error
    return shape(found, head) if found is not None else {**head, "result": {}}, None


def shape(outcome: Outcome | None, head: dict[str, JSON]) -> JSON:
    """The value a caller reads (PB-606)."""
    value = None if outcome is None else plain(view(outcome))
    if isinstance(value, dict):
        own = {key: member for key, member in value.items() if not key.startswith("_")}
        return {**head, "result": own, **own}
    return {**head, "result": value, "data": value}


def time_out(draft: Draft, timer: str) -> None:
    """A waited-for child took too long (PB-607)."""
    step, _, command = timer.partition(":")
    open_command = draft.state.commands.get(command)
    playbook_step = draft.plan.playbook.steps.get(step)
    if open_command is None or playbook_step is None or playbook_step.call is None:
        return
    call = playbook_step.call
    if call.cancel_on_timeout:
        draft.others.append(_cancel(draft, open_command.child, "timeout"))
    text = f"child playbook did not end within {call.timeout_s:g} seconds"
    if call.wait == "tolerant":
        data: JSON = {
            "execution_id": open_command.child,
            "path": call.path,
            "status": "timeout",
            "error": text,
        }
        done = call_event("call.done", draft, command, data, None)
        draft.write(_with_step(done, step), rank=0)
        return
    draft.write(
        Event(
            type="command.failed",
            at=draft.turn.at,
            step=step,
            command_id=command,
            status="FAILED",
            code="timeout",
            error=text,
        ),
        rank=0,
    )


def cancel_children(draft: Draft) -> None:
    """Cancelling goes down to the children an execution waits for (PB-610)."""
    for command in draft.turn.state.commands.values():
        if command.child:
            draft.others.append(_cancel(draft, command.child, "parent ended"))


def _cancel(draft: Draft, child: str, reason: str) -> Record:
    request = Event(
        type="playbook.cancel_requested",
        at=draft.turn.at,
        status="PENDING",
        error=reason,
    )
    return Record(execution_id=child, events=[request])
