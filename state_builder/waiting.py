"""Why is an open execution not finished: what it waits for, thing by thing, by name.

A question about one state and the graph of its playbook; nothing here decides. Every
open execution waits for something this room can name (RT-DRV-15): if it cannot, the
drive has a fault, and the answer says so.
"""

from __future__ import annotations

from typing import Final

from state_builder.arcs import Plan, blockers
from state_builder.state import LoopRun, OpenCommand, State
from state_builder.wait import LastDecision, Wait, command_wait, timer_wait

COMMANDS_NAMED_MAX: Final = 50
"""Open commands named one by one; the rest is a number."""


def waits(state: State, plan: Plan | None, now: float) -> list[Wait]:
    """Everything an open execution waits for; empty once it ended.

    Args:
        plan: of its playbook; without it, joins do not say whom they wait for.
        now: Unix seconds, for spans of time.
    """
    if state.terminal:
        return []
    found = _loops(state)
    named = list(state.commands.items())[:COMMANDS_NAMED_MAX]
    found += [command_wait(command_id, command, now) for command_id, command in named]
    more = len(state.commands) - len(named)
    if more:
        found.append(Wait(kind="command", text=f"{more:,} further open commands"))
    found += [
        timer_wait(name, due, now, step=_step_of(state, name))
        for name, due in sorted(state.timers.items())
    ]
    found += _joins(state, plan)
    if not found:
        found.append(_nothing(state))
    return found


def last_decision(state: State) -> LastDecision | None:
    """What the drive did last, and which event it answered."""
    newest: LastDecision | None = None
    for name, step in state.steps.items():
        run = step.active
        if step.exited and (newest is None or step.exited > newest.event):
            cause = 0 if step.result is None else step.result.event
            text = f"step '{name}' {step.status} (visit {step.visit})"
            newest = LastDecision(text=text, event=step.exited, cause=cause, step=name)
        if run is not None and (newest is None or run.entered > newest.event):
            origin = state.steps.get(run.origin)
            newest = LastDecision(
                text=f"step '{name}' was entered (visit {run.visit}), coming from "
                + (f"'{run.origin}'" if run.origin else "the start"),
                event=run.entered,
                cause=0 if origin is None else origin.exited,
                step=name,
            )
    for command_id, command in state.commands.items():
        if newest is None or command.event > newest.event:
            newest = _issued(state, command_id, command)
    return newest


def _issued(state: State, command_id: str, command: OpenCommand) -> LastDecision:
    run = state.steps[command.step].active
    cause = 0
    if run is not None and run.loop is not None:
        cause = run.loop.last_event
    if run is not None and not cause:
        origin = state.steps.get(run.origin)
        cause = 0 if origin is None else origin.exited
    return LastDecision(
        text=f"command {command_id} of step '{command.step}' was issued",
        event=command.event,
        cause=cause,
        step=command.step,
    )


def _loops(state: State) -> list[Wait]:
    found = []
    for name in state.live:
        run = state.steps[name].active
        if run is not None and run.loop is not None:
            found.append(
                Wait(
                    kind="loop",
                    step=name,
                    since=state.steps[name].entered_at,
                    text=f"loop '{name}': {_progress(run.loop)}",
                )
            )
    return found


def _progress(loop: LoopRun) -> str:
    failed = f", {loop.failed:,} failed" if loop.failed else ""
    cursor = loop.cursor
    if cursor is not None:
        return (
            f"{cursor.rows:,} rows in {cursor.claimed:,} frames claimed so far, "
            f"{loop.completed:,} bodies done{failed}, {cursor.claiming} claims and "
            f"{len(cursor.frames)} frames open"
        )
    done = loop.completed + loop.failed
    return f"{done:,} of {loop.total:,} iterations done{failed}, {loop.open:,} open"


def _step_of(state: State, timer: str) -> str:
    """The step whose command a timer belongs to, if any."""
    command_id = timer.partition(":")[2]
    found = state.commands.get(command_id) or state.repeats.get(command_id)
    return found.step if found else ""


def _joins(state: State, plan: Plan | None) -> list[Wait]:
    found = []
    for name in state.live:
        step = state.steps[name]
        if not step.tokens:
            continue
        origins = tuple(dict.fromkeys(token.origin for token in step.tokens))
        blocked: tuple[str, ...] = ()
        if step.active is not None:
            why = "its own pass must end first"
        elif state.failing:
            failed = ", ".join(f"'{failed}'" for failed in state.failing)
            why = f"it will not be entered, {failed} failed"
        elif plan is None:
            why = "other branches can still reach it"
        else:
            blocked = tuple(blockers(plan, state, name))
            names = ", ".join(f"'{other}'" for other in blocked)
            verb = "is" if len(blocked) == 1 else "are"
            why = f"{names} {verb} under way and can still reach it"
            why = why if blocked else "it is about to be entered"
        arrived = ", ".join(f"'{origin}'" for origin in origins)
        found.append(
            Wait(
                kind="join",
                step=name,
                arrived_from=origins,
                blocked_by=blocked,
                text=f"step '{name}' was reached from {arrived}; {why}",
            )
        )
    return found


def _nothing(state: State) -> Wait:
    if state.request is not None:
        return Wait(
            kind="owner", text=f"a {state.request.kind} request is answered now"
        )
    if not state.steps:
        return Wait(kind="owner", text="its first decision is about to be made")
    if any(step.active is not None for step in state.steps.values()):
        return Wait(
            kind="owner", text="a result came in, a decision is about to follow"
        )
    return Wait(
        kind="nothing", text="nothing is open and it has not ended: please report this"
    )
