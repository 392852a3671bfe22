"""Why is an open execution not finished: what it waits for, thing by thing, by name.

A question about one state and the graph of its playbook; nothing here decides. Every
open execution waits for something this room can name (RT-DRV-15): if it cannot, the
drive has a fault, and the answer says so.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from state_builder.arcs import Plan, blockers
from state_builder.records import timestamp
from state_builder.state import LoopRun, OpenCommand, State

COMMANDS_NAMED_MAX: Final = 50
"""Open commands named one by one; the rest is a number."""

QUEUED_AFTER_S: Final = 1.0
"""A running command is announced after 250 ms (RT-EVT-6); one that is not announced
well after that has no worker."""


class Wait(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing an execution waits for.

    Attributes:
        kind: ``command`` (a worker), ``callback`` (from outside), ``child``, ``timer``,
            ``join`` (other branches), ``loop`` (a summary of its commands), ``owner``
            (a decision under way), ``nothing`` (a fault of ours).
        text: the same as a sentence.
        since: when it began to wait, or for a timer when it fires, RFC 3339.
        starts: ``command.started`` seen without a result: deliveries that ran.
        blocked_by: live steps a join waits for.
    """

    kind: Literal[
        "command", "callback", "child", "timer", "join", "loop", "owner", "nothing"
    ]
    text: str
    step: str = ""
    command_id: str = ""
    iteration: str = ""
    pool: str = ""
    worker: str = ""
    child: str = ""
    timer: str = ""
    since: str = ""
    starts: int = 0
    arrived_from: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()


class LastDecision(Struct, frozen=True, kw_only=True):
    """The last thing the drive wrote that can still be told from the state.

    Attributes:
        event: id of the newest event it wrote.
        cause: id of the event that led to it; 0 when the state does not tell.
    """

    text: str
    event: int
    cause: int = 0
    step: str = ""


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
    found += [_command(command_id, command, now) for command_id, command in named]
    more = len(state.commands) - len(named)
    if more:
        found.append(Wait(kind="command", text=f"{more:,} further open commands"))
    found += [
        _timer(state, name, due, now) for name, due in sorted(state.timers.items())
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


def _command(command_id: str, command: OpenCommand, now: float) -> Wait:
    where = f"step '{command.step}'"
    if command.iteration:
        where += f", iteration {command.iteration}"
    since = command.started_at or command.issued_at
    ago = span(now - _unix(since, now))
    if command.child:
        kind: Literal["child", "callback", "command"] = "child"
        text = f"{where} waits for its child execution {command.child}, for {ago}"
    elif command.parked:
        kind = "callback"
        text = f"{where} is parked for {ago}: a call-back from outside must end it"
    else:
        kind = "command"
        text = f"{where}: command {command_id} {_whereabouts(command, now, ago)}"
    return Wait(
        kind=kind,
        step=command.step,
        command_id=command_id,
        iteration=command.iteration,
        pool=command.pool,
        worker=command.worker,
        child=command.child,
        since=since,
        starts=command.starts,
        text=text,
    )


def _whereabouts(command: OpenCommand, now: float, ago: str) -> str:
    pool = command.pool or "shared"
    if command.starts == 1:
        return f"is running on worker {command.worker} for {ago} (pool {pool})"
    if command.starts:
        return (
            f"is running on worker {command.worker} for {ago} (pool {pool}); it was "
            f"started {command.starts} times, so workers were lost with it"
        )
    if now - _unix(command.issued_at, now) < QUEUED_AFTER_S:
        return f"was issued {ago} ago to pool {pool}"
    return (
        f"was issued {ago} ago and no worker of pool {pool} has said that it runs: "
        "are there workers for this pool, and are their slots free?"
    )


_TIMERS: Final = {
    "duration": "its time limit",
    "timeout": "the time its child has",
    "repeat": "the next attempt",
}


def _step_of(state: State, command_id: str) -> str:
    found = state.commands.get(command_id) or state.repeats.get(command_id)
    return found.step if found else ""


def _timer(state: State, name: str, due: float, now: float) -> Wait:
    word, _, command = name.partition(":")
    step = command and _step_of(state, command)
    of = f"step '{step}'" if step else "the execution"
    what = _TIMERS.get(word, f"timer {name}")
    left = due - now
    when = f"in {span(left)}" if left > 0 else f"{span(-left)} ago, about to fire"
    return Wait(
        kind="timer",
        step=step,
        command_id=command,
        timer=name,
        since=timestamp(due),
        text=f"{of}: {what} fires at {timestamp(due)} ({when})",
    )


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


def span(seconds: float) -> str:
    """A span of time for people."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} days"


def _unix(at: str, fallback: float) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return fallback
