"""How an execution ends: requests, time limits, quiescence, the terminal (§17)."""

from __future__ import annotations

from copy import copy
from datetime import datetime
from typing import Final

from msgspec import Raw
from msgspec.structs import replace

from state_builder.arcs import Plan
from state_builder.drive.answers import answer_parent, cancel_children, time_out
from state_builder.drive.bulk import view
from state_builder.drive.decision import Decision, Draft, Turn, raw
from state_builder.drive.entry import enter
from state_builder.drive.names import step_names
from state_builder.errors import LimitExceededError
from state_builder.playbook import Playbook
from state_builder.records import (
    NOTHING,
    Event,
    ResultEnvelope,
    ToolOutcome,
    decode_reference,
    encode_json,
)
from state_builder.state import TIMEOUT_TIMER, Outcome, Request, State
from state_builder.template import plain, stub_of

ERROR_TEXT_MAX = 2000
"""Characters of an event's error text (RT-EVT-0)."""

GIVE_UP_OTHERS_MAX: Final = 300
"""Records of others beside a terminal that must fit its message, come what may."""

DURATION_TIMER = "duration"


def answer_request(draft: Draft, request: Request) -> None:
    """A cancel or finalize request gets its terminal (RT-DRV-17)."""
    meta = {"reason": request.reason} if request.reason else {}
    if request.kind == "cancel":
        _finish(draft, "playbook_cancelled", "CANCELLED", meta=raw(meta))
        cancel_children(draft)
        return
    operator = raw({**meta, "operator": True})
    if request.status == "COMPLETED":
        result = execution_result(draft.state, draft)
        _finish(draft, "playbook_completed", "COMPLETED", result=result, meta=operator)
    else:
        error = request.reason or "finalized by an operator"
        _finish(draft, "playbook_failed", "FAILED", error=error, meta=operator)
    cancel_children(draft)


def end_if_done(draft: Draft) -> None:
    """The terminal, once nothing is left to do (PB-640 ff.)."""
    state = draft.state
    if draft.events and draft.full:
        return
    if state.failing:
        if not state.tasks_open and not _enter_final(draft):
            _fail_steps(draft)
        return
    if not state.live and not _enter_final(draft):
        result = execution_result(state, draft)
        _finish(draft, "playbook.completed", "COMPLETED", result=result)


def _enter_final(draft: Draft) -> bool:
    """On first quiescence the final step gets its turn (PB-643)."""
    final = draft.plan.playbook.final_step
    if not final:
        return False
    known = draft.state.step(final)
    if known.active is not None:
        return True
    if known.visit or draft.state.final_entered:
        return False
    enter(draft, final, final=True)
    return draft.state.steps[final].active is not None


def _fail_steps(draft: Draft) -> None:
    state = draft.state
    steps = draft.plan.playbook.steps
    failed = sorted(dict.fromkeys(state.failing), key=lambda name: steps[name].index)
    first = state.steps[failed[0]].result
    text = first.error.message if first is not None and first.error else "failed"
    meta = {"failed_steps": failed, "reason": "step_failed"}
    if first is not None and first.error is not None and first.error.code:
        meta["code"] = [first.error.code]
    _finish(
        draft,
        "playbook.failed",
        "FAILED",
        error=f"Failed steps: {', '.join(failed)}: {text}",
        meta=raw(meta),
    )


def fail(turn: Turn, reason: str, message: str) -> Draft:
    """An execution that cannot go on: nothing but its terminal (RT-DRV-10)."""
    draft = Draft(turn)
    meta = {"reason": reason, "failed_steps": list(dict.fromkeys(turn.state.failing))}
    _finish(draft, "playbook.failed", "FAILED", error=message, meta=raw(meta))
    cancel_children(draft)
    return draft


def give_up(state: State, at: str, reason: str, message: str) -> Decision:
    """The pass that ends an execution no turn can be taken for.

    Whatever its state and its playbook are: its terminal, the answer to its parent, and
    what its children are told.
    """
    bare = copy(state)
    bare.steps = {}  # what the steps gave may be what is at fault
    turn = Turn(plan=Plan(Playbook(name="", path="")), state=bare, now=0.0, at=at)
    decision = fail(turn, reason, message).decision()
    assert decision is not None
    decision.key = f"{decision.key}:{reason}"
    decision.events = [replace(event, code=reason) for event in decision.events]
    decision.others = decision.others[:GIVE_UP_OTHERS_MAX]
    return decision


def _finish(
    draft: Draft,
    event_type: str,
    status: str,
    *,
    error: str = "",
    result: Raw = NOTHING,
    meta: Raw = NOTHING,
) -> None:
    draft.end(
        Event(
            type=event_type,
            at=draft.turn.at,
            status=status,
            error=error[:ERROR_TEXT_MAX],
            result=result,
            meta=meta,
        )
    )
    answer_parent(draft, status, error, last_outcome(draft.state, draft))


def last_outcome(state: State, draft: Draft) -> Outcome | None:
    """The result of the execution (PB-645): of ``end``, else of the last to complete.

    A bare noop says nothing and is passed over.
    """
    best: Outcome | None = None
    newest = 0
    for name in step_names(state):
        step = state.steps[name]
        if step.result is None or step.bare or step.status == "failed":
            continue
        if name == "end":
            return step.result
        if step.exited > newest:
            newest, best = step.exited, step.result
    return best


def execution_result(state: State, draft: Draft) -> Raw:
    """The terminal's result envelope."""
    outcome = last_outcome(state, draft)
    if outcome is not None and outcome.reference:
        return _stored_result(outcome)
    data = b"null" if outcome is None else whole(outcome, draft)
    context = ToolOutcome(data=Raw(data))
    return Raw(encode_json(ResultEnvelope(status="COMPLETED", context=context)))


def _stored_result(outcome: Outcome) -> Raw:
    """What stands for a result that is stored outside the log (RT-EVT-16)."""
    reference = decode_reference(outcome.reference)
    context = ToolOutcome(form=outcome.form, data=Raw(encode_json(stub_of(reference))))
    envelope = ResultEnvelope(
        status="COMPLETED", context=context, reference=Raw(outcome.reference)
    )
    return Raw(encode_json(envelope))


def whole(outcome: Outcome, draft: Draft) -> bytes:
    """The whole value of a result as JSON, views materialised."""
    if outcome.form == "plain":
        return outcome.data
    return encode_json(plain(view(outcome, draft.turn.bulk)))


def fire_timers(draft: Draft) -> None:
    """Fire what is due, oldest first, and do what it was for (RT-DRV-20).

    Raises:
        LimitExceededError: the execution's own time is over (PB-647).
    """
    state, now = draft.turn.state, draft.turn.now
    if not state.due or state.due[0][0] > now:
        return
    due = sorted((at, name) for name, at in state.timers.items() if at <= now)
    for _, name in due:
        draft.write(
            Event(type="timer.fired", at=draft.turn.at, timer=name, status="COMPLETED")
        )
        if name == DURATION_TIMER:
            limit = draft.plan.playbook.duration_max_s
            raise LimitExceededError(
                "max_duration_s", f"the execution ran longer than {limit:g} seconds"
            )
        if name.startswith(TIMEOUT_TIMER):
            time_out(draft, name.removeprefix(TIMEOUT_TIMER))
        if draft.full:
            return


def begin(draft: Draft) -> None:
    """The first pass: the execution's own bound in time, and its entry step."""
    limit = draft.plan.playbook.duration_max_s
    if limit:
        started = datetime.fromisoformat(draft.turn.state.started_at).timestamp()
        draft.write(
            Event(
                type="timer.set",
                at=draft.turn.at,
                timer=DURATION_TIMER,
                due=started + limit,
                status="PENDING",
            )
        )
    enter(draft, draft.plan.playbook.entry)
