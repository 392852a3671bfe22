"""What precedes a step: guard, admission, collection, ``step.enter`` (PB-503.2–3)."""

from __future__ import annotations

from msgspec import Raw
from msgspec.structs import replace

from state_builder.arcs import next_to_enter, route, unreachable
from state_builder.drive.completion import consume, deliver, write_arc_values
from state_builder.drive.decision import Draft, raw
from state_builder.drive.names import entry_scope, exit_scope
from state_builder.errors import LimitExceededError, TemplateError
from state_builder.iteration import NotIterableError, open_loop
from state_builder.locator import data_locator
from state_builder.playbook.model import Step
from state_builder.records import Event, ToolFailure, encode_json
from state_builder.state import Entered, Exited, Outcome, Pass, StepState
from state_builder.template import Scope, condition


def enter_all(draft: Draft) -> None:
    """Enter every step that may be entered, until nothing changes (PB-503)."""
    while not draft.full:
        name = next_to_enter(draft.plan, draft.state)
        if name is None:
            return
        enter(draft, name)


def enter(draft: Draft, name: str, *, final: bool = False) -> None:
    """Enter one step, or step over it (PB-504, PB-046, PB-047)."""
    step = draft.plan.playbook.steps[name]
    known = draft.state.step(name)
    run = _pass_of(known, draft)
    _check_limits(draft, name, run.visit)
    entered, failure = Entered(), None
    if step.when is not None or step.admit or step.loop is not None:
        scope = entry_scope(draft, name, run)
        if not _holds(step, scope):
            _step_over(draft, step, run)
            return
        if not _admitted(step, scope):
            _skip(draft, name, Exited(reason="admit"))
            return
        entered, failure = _open(step, scope, draft.turn.limits.loop_items_max)
    entered.final = final
    draft.write(
        Event(
            type="step.enter",
            at=draft.turn.at,
            step=name,
            visit=run.visit,
            status="ENTERED",
            context=_with_collection(draft, name, run.visit, entered),
        )
    )
    if failure is not None:
        _fail(draft, step, failure)
    elif (
        step.loop is not None
        and entered.cursor is None
        and not (entered.iterations_expected)
    ):
        consume_empty(draft, name)


def _with_collection(draft: Draft, name: str, visit: int, entered: Entered) -> Raw:
    """The event's context; a large collection is stored on its own (RT-LIM-4)."""
    context = raw(entered)
    if not entered.items or len(context) <= draft.turn.limits.inline_bytes_max:
        return context
    items = encode_json(entered.items)
    eid = draft.turn.state.execution_id
    locator = data_locator("collections", eid, f"{name}.{visit}", items)
    kept = draft.turn.bulk.keep(locator, items)
    return raw(replace(entered, items=None, items_ref=Raw(encode_json(kept))))


def _pass_of(known: StepState, draft: Draft) -> Pass:
    """The pass as folding ``step.enter`` will make it, for the names it sees."""
    run = Pass(visit=known.visit + 1, entered=0)
    for token in known.tokens:
        run.origin, run.event_name = token.origin, token.event_name
        run.args = {**run.args, **token.args}
        run.overlay = {**run.overlay, **token.set}
        run.over = (*run.over, *(one for one in token.over if one not in run.over))
    return run


def _check_limits(draft: Draft, name: str, visit: int) -> None:
    limits = draft.turn.limits
    own = draft.plan.playbook.steps_max
    most = min(own, limits.entries_max) if own else limits.entries_max
    if draft.state.entries >= most:
        raise LimitExceededError(
            "steps_per_execution",
            f"step '{name}' would be entry {draft.state.entries + 1} of the execution; "
            f"at most {most} are allowed",
        )
    if visit > limits.visits_max:
        raise LimitExceededError(
            "visits_per_step",
            f"step '{name}' would be visited {visit} times; "
            f"at most {limits.visits_max} are allowed",
        )


def _holds(step: Step, scope: Scope) -> bool:
    if step.when is None:
        return True
    try:
        return condition(step.when, scope)
    except TemplateError as error:
        raise TemplateError(f"step '{step.name}', when: {error}") from error


def _admitted(step: Step, scope: Scope) -> bool:
    """First rule that matches decides; none admits (PB-047)."""
    for index, rule in enumerate(step.admit):
        try:
            if rule.when is None or condition(rule.when, scope):
                return rule.allow
        except TemplateError as error:
            where = f"step '{step.name}', spec.policy.admit.rules[{index}]"
            raise TemplateError(f"{where}: {error}") from error
    return True


def _open(
    step: Step, scope: Scope, items_max: int
) -> tuple[Entered, ToolFailure | None]:
    if step.loop is None:
        return Entered(), None
    try:
        entered = open_loop(step, scope, items_max)
    except NotIterableError as error:
        return Entered(), ToolFailure(kind="configuration", message=str(error))
    entered.cursor_loop = entered.cursor is not None
    return entered, None


def _fail(draft: Draft, step: Step, failure: ToolFailure) -> None:
    """The step fails before any command: its collection is none (PB-222)."""
    run = draft.state.steps[step.name].active
    assert run is not None
    run.outcome = Outcome(ok=False, error=failure, event=run.entered)
    _consume_at_entry(draft, step.name)


def consume_empty(draft: Draft, name: str) -> None:
    """A loop over nothing completes at once, without a command (PB-224)."""
    _consume_at_entry(draft, name)


def _consume_at_entry(draft: Draft, name: str) -> None:
    """The exit of a step entered in this very decision stands behind its enter."""
    draft.in_order()
    consume(draft, name)


def _step_over(draft: Draft, step: Step, run: Pass) -> None:
    """The guard is false: the step's own arcs decide where to go on (PB-046).

    Once per chain of steps without a command between them, else two guarded steps
    that point at each other would never end.
    """
    if step.name in run.over:
        _skip(draft, step.name, Exited(reason="when"))
        return
    scope = exit_scope(draft, step.name, run, None, "step.skipped")
    routed = route(draft.plan, step, scope, after_failure=False)
    exited = Exited(
        reason="when",
        arcs=deliver(draft, step, routed),
        event_name="step.skipped",
        over=(*run.over, step.name),
    )
    _skip(draft, step.name, exited)
    write_arc_values(draft, step.name, routed, draft.turn.state.head.event_id)


def _skip(draft: Draft, name: str, exited: Exited) -> None:
    draft.write(
        Event(
            type="step.skipped",
            at=draft.turn.at,
            step=name,
            status="SKIPPED",
            context=raw(exited),
        )
    )


def skip_unreachable(draft: Draft) -> None:
    """Mark what nothing can lead to any more (PB-530 ff.)."""
    # Nothing of this pass concerns them, so they stand where PB-505 wants them.
    draft.floor = 0
    for name in unreachable(draft.plan, draft.state, draft.candidates):
        _skip(draft, name, Exited(reason="unreachable"))
