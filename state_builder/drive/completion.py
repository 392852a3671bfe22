"""What follows a completion: variables, ``set``, arcs, ``step.exit`` (PB-503.1).

Each completion is consumed exactly once, in one decision, in event order; its
``step.exit`` says so in the log. Afterwards its arcs are never looked at again.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from state_builder.arcs import Routed, route
from state_builder.drive.collecting import collected
from state_builder.drive.decision import Draft, FailExecution, raw
from state_builder.drive.names import exit_scope
from state_builder.errors import LimitExceededError, TemplateError
from state_builder.iteration import finished, tolerates
from state_builder.playbook.model import Step
from state_builder.policy import put
from state_builder.records import JSON, Event, ToolFailure
from state_builder.state import (
    Delivered,
    Exited,
    LoopRun,
    Outcome,
    Pass,
    Updated,
)
from state_builder.template import Scope, render
from state_builder.values import Part


def consume_all(draft: Draft) -> None:
    """Consume what is there to consume, in event order."""
    for _, name, updates in sorted(_pending(draft), key=lambda entry: entry[0]):
        if updates:
            _write_updates(draft, name, updates[0], updates[1])
        else:
            consume(draft, name)
        if draft.full:
            return


def _pending(
    draft: Draft,
) -> list[tuple[int, str, tuple[int, dict[str, JSON]] | None]]:
    """Unconsumed completions: (event, step, variable changes of an iteration)."""
    found: list[tuple[int, str, tuple[int, dict[str, JSON]] | None]] = []
    state = draft.turn.state
    for name in state.live:
        run = state.steps[name].active
        if run is None:
            continue
        if run.loop is None:
            if run.outcome is not None:
                found.append((run.outcome.event, name, None))
            continue
        _check_size(draft, name, run.loop)
        for event, values in run.loop.updates.items():
            found.append((event, name, (event, values)))
        best_effort = tolerates(draft.plan.playbook.steps[name])
        if finished(run.loop, best_effort=best_effort) or (
            state.failing and not run.loop.open
        ):
            found.append((run.loop.last_event + 1, name, None))
    return found


def _check_size(draft: Draft, name: str, loop: LoopRun) -> None:
    """What a loop may keep in memory: its results, the rows of its frames."""
    limits = draft.turn.limits
    if loop.size > limits.aggregate_bytes_max:
        raise LimitExceededError(
            "aggregate_bytes_max",
            f"loop step '{name}': results of {loop.completed:,} iterations take "
            f"{loop.size:,} bytes; at most {limits.aggregate_bytes_max:,} are allowed",
        )
    frames = {} if loop.cursor is None else loop.cursor.frames
    most = max((len(frame.rows) for frame in frames.values()), default=0)
    if most > limits.frame_rows_max:
        raise LimitExceededError(
            "frame_rows_max",
            f"loop step '{name}', cursor.claim: {most:,} rows at once; "
            f"at most {limits.frame_rows_max:,} are allowed",
        )


def consume(draft: Draft, name: str) -> None:
    """Consume the completion of one pass of a step."""
    step = draft.plan.playbook.steps[name]
    run = draft.state.steps[name].active
    assert run is not None
    outcome = _outcome(draft, step, run)
    if draft.turn.state.failing:
        # Results and variable changes are kept, arcs are not looked at (PB-565).
        leaving = _Leaving(step=step, run=run, outcome=outcome, routed=Routed([]))
        _leave(draft, leaving, dict(outcome.updates), "")
        return
    event_name = _event_name(step, run, outcome)
    absorbed = outcome.ok or tolerates(step)
    values = dict(outcome.updates)
    if values or step.set:
        # Before the scope is made: the arcs see what the block sets.
        draft.assign(values)
    routed = draft.plan.settled.get(name) if absorbed else None
    if routed is None or step.set:
        scope = exit_scope(draft, name, run, outcome, event_name)
        if absorbed:
            put(values, _assign_block(draft, step, scope))
        routed = route(draft.plan, step, scope, after_failure=not absorbed)
    if outcome.ok and _no_way_out(draft, step, routed):
        raise FailExecution(
            "no_matching_arc", f"no matching arc from step '{step.name}'"
        )
    for token in routed.tokens:
        put(values, token.set)
    leaving = _Leaving(step=step, run=run, outcome=outcome, routed=routed)
    _leave(draft, leaving, values, event_name)


def _outcome(draft: Draft, step: Step, run: Pass) -> Outcome:
    if run.loop is None:
        assert run.outcome is not None
        return run.outcome
    outcome = collected(draft, step.name, run.visit, run.loop)
    outcome.event = run.loop.last_event or run.entered
    if run.loop.failed and not tolerates(step):
        outcome.ok = False
        outcome.error = first_error(run.loop)
    return outcome


def first_error(loop: LoopRun) -> ToolFailure:
    """The failure of the lowest index that failed."""
    return loop.errors[min(loop.errors, key=int)]


def _event_name(step: Step, run: Pass, outcome: Outcome) -> str:
    if not outcome.ok:
        return "call.error"
    return "call.done" if run.loop is None else "loop.done"


def _no_way_out(draft: Draft, step: Step, routed: Routed) -> bool:
    return (
        draft.plan.playbook.no_next_is_error
        and bool(step.next.arcs)
        and not routed.tokens
    )


def _unmatched(step: Step, routed: Routed, event_name: str) -> bool:
    """Arcs were looked at and none was taken, which its author wants told (PB-320)."""
    looked = bool(event_name and step.next.arcs) and not step.next.quiet
    return looked and not routed.tokens


def _assign_block(draft: Draft, step: Step, scope: Scope) -> dict[str, JSON]:
    """The step's ``set``: all values against the state before the block (PB-201)."""
    if not step.set:
        return {}
    try:
        values = render({**step.set}, scope, data=True)
    except TemplateError as error:
        raise TemplateError(f"step '{step.name}', set: {error}") from error
    assert isinstance(values, dict)
    draft.assign(values)
    return values


class _Leaving(Struct, kw_only=True):
    """A pass on its way out."""

    step: Step
    run: Pass
    outcome: Outcome
    routed: Routed


def _leave(
    draft: Draft, leaving: _Leaving, values: dict[str, JSON], event_name: str
) -> None:
    """Write ``step.exit`` and ``ctx.updated`` of one completion (PB-205)."""
    step, run, outcome = leaving.step, leaving.run, leaving.outcome
    failed = not outcome.ok and not tolerates(step)
    final = step.name == draft.plan.playbook.final_step and draft.state.final_entered
    tokens = deliver(draft, step, leaving.routed)
    unmatched = _unmatched(step, leaving.routed, event_name)
    if unmatched:
        draft.unmatched.append(step.name)
    cursor = run.loop is not None and run.loop.cursor is not None
    stored: Part | None = None
    if run.loop is not None and outcome.reference:
        stored = Part(reference=Raw(outcome.reference), form=outcome.form)
    exited = Exited(
        arcs=tokens,
        event_name=event_name,
        over=() if run.issued else run.over,
        unmatched=unmatched,
        handled=bool(leaving.routed.tokens) or final,
        bare=step.bare_noop,
        failure=outcome.error if failed else None,
        cursor_drained=cursor and not failed,
        result=stored,
    )
    draft.write(
        Event(
            type="step.exit",
            at=draft.turn.at,
            step=step.name,
            visit=run.visit,
            status="FAILED" if failed else "COMPLETED",
            cause=draft.cause(outcome.event),
            context=raw(exited),
        )
    )
    if values:
        _write_updates(draft, step.name, outcome.event, values)


def deliver(draft: Draft, step: Step, routed: Routed) -> list[Delivered]:
    """Tokens for steps that exist; the others of its targets may be skipped now.

    An arc to an ``end`` that is not defined just ends the branch (PB-042).
    """
    reached = routed.targets
    draft.candidates.extend(
        target for target in draft.plan.targets[step.name] if target not in reached
    )
    steps = draft.plan.playbook.steps
    return [token for token in routed.tokens if token.step in steps]


def _write_updates(
    draft: Draft, step: str, event: int, values: dict[str, JSON]
) -> None:
    cause = draft.cause(event)
    draft.write(
        Event(
            type="ctx.updated",
            at=draft.turn.at,
            step=step,
            status="CONTEXT",
            cause=cause,
            context=raw(Updated(values=values, step=step, gen=cause)),
        )
    )


def write_arc_values(draft: Draft, step: str, routed: Routed, cause: int) -> None:
    """Variables that the arcs of a stepped-over step set (PB-208)."""
    values: dict[str, JSON] = {}
    for token in routed.tokens:
        put(values, token.set)
    if values:
        _write_updates(draft, step, cause, values)
