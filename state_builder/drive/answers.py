"""What became of a call: told to the parent, judged by its policy, repeated (PB §16).

The child's last pass writes the answer into its parent's record; the parent's next pass
settles it. A call without rules, ``retry`` or ``set`` needs no settling: its answer
counts as it comes.
"""

from __future__ import annotations

from msgspec import Raw, convert
from msgspec.json import decode as decode_json
from msgspec.structs import replace

from state_builder.drive.bulk import described, view
from state_builder.drive.decision import Draft
from state_builder.drive.names import call_scope
from state_builder.errors import LimitExceededError, TemplateError
from state_builder.locator import data_locator
from state_builder.playbook.model import Call, Step
from state_builder.policy import (
    Case,
    Changes,
    PolicyError,
    Rule,
    Run,
    Verdict,
    apply,
    evaluate,
    failure_of,
    judge,
    outcome_names,
)
from state_builder.records import (
    JSON,
    NOTHING,
    Event,
    Genesis,
    Record,
    ResultEnvelope,
    ToolFailure,
    ToolOutcome,
    decode_reference,
    encode_json,
)
from state_builder.retry import RetryRule
from state_builder.state import OpenCommand, Outcome
from state_builder.template import StepResult, plain, stub_of

ERROR_TEXT_MAX = 2000
"""Characters of an event's error text (RT-EVT-0)."""


def settle_answers(draft: Draft) -> None:
    """Judge the answers that came in since (PB-608)."""
    for command_id in list(draft.turn.state.answered):
        command = draft.state.commands.get(command_id)
        assert command is not None and command.outcome is not None
        answer = command.outcome
        value = view(answer, draft.turn.bulk).value
        run = Run(data=value, form=answer.form, error=answer.error)
        # Tells the pass from a report of the same events: the owner's passes begin
        # with what only owners write.
        draft.write(
            Event(
                type="call.settled",
                at=draft.turn.at,
                step=command.step,
                command_id=command_id,
                status="SETTLED",
            )
        )
        settle(draft, command_id, run, rank=0)
        if draft.full:
            return


def settle(
    draft: Draft, command_id: str, run: Run, *, tolerated: JSON = None, rank: int = 8
) -> None:
    """End a call's command by what came of it, or have it repeated.

    Args:
        tolerated: what a tolerant call gives in place of this failure (PB-605).
        rank: where the events stand in the pass.
    """
    command = draft.state.commands.get(command_id)
    assert command is not None
    verdict, run, updates = _judged(draft, command, run)
    # What follows from it comes with the next pass, which sees it in the state.
    draft.unsettled = True
    if verdict.do == "retry":
        _repeat(draft, command_id, command, run, draft.turn.now + verdict.wait_s)
        return
    if verdict.do == "fail" and tolerated is not None:
        verdict, run = Verdict("continue"), Run(data=tolerated)
    failure = failure_of(run, verdict) if verdict.do == "fail" else None
    outcome = ToolOutcome(
        form=run.form,
        failed=failure is not None,
        data=Raw(encode_json(run.data if failure else run.value)),
        error=failure or run.error,
        updates=Raw(encode_json(updates)) if updates else NOTHING,
    )
    waits = command.parked and not command.judged
    if failure is None or not waits:
        called = answer_event(draft, command_id, outcome)
        draft.write(replace(called, step=command.step), rank=rank)
        if waits:
            # To a parked call, its answer is its end.
            return
    draft.write(
        Event(
            type="command.completed" if failure is None else "command.failed",
            at=draft.turn.at,
            step=command.step,
            command_id=command_id,
            status="success" if failure is None else "FAILED",
            code="" if failure is None else failure.kind,
            error="" if failure is None else failure.message[:ERROR_TEXT_MAX],
        ),
        rank=rank,
    )


def _judged(
    draft: Draft, command: OpenCommand, run: Run
) -> tuple[Verdict, Run, Changes]:
    """The verdict of the call's own rules, and the variables they set."""
    step = draft.plan.playbook.steps[command.step]
    updates: Changes = {}
    if not command.judged or draft.state.failing:
        return Verdict("continue" if run.error is None else "fail"), run, updates
    call = step.call
    assert call is not None
    scope = call_scope(draft, step, command)
    if call.set and run.error is None:
        data = StepResult(run.data, run.form)
        names = outcome_names(run, command.attempt, step.name)
        scope.fixed = {**names, "output": data, "outcome": data}
        try:
            apply(evaluate(call.set, scope), scope, updates)
        except (TemplateError, LimitExceededError) as error:
            run = replace(run, error=_broken(step, "set", error))
    scope.runtime = {step.name: StepResult(run.value, run.form)}
    case = Case(run, command.attempt, step.name)
    try:
        verdict = judge(_rules(call), _retry(step, call), case, scope, updates)
    except (TemplateError, LimitExceededError, PolicyError) as error:
        return Verdict("fail"), replace(run, error=_broken(step, "policy", error)), {}
    return verdict, run, updates


def _rules(call: Call) -> tuple[Rule, ...]:
    return convert(call.policy, tuple[Rule, ...])


def _retry(step: Step, call: Call) -> RetryRule | None:
    found = call.retry or step.retry
    return convert(decode_json(found), RetryRule) if found else None


def _broken(
    step: Step, place: str, error: TemplateError | LimitExceededError | PolicyError
) -> ToolFailure:
    code = error.limit if isinstance(error, LimitExceededError) else ""
    message = f"step '{step.name}', {place}: {error}"
    return ToolFailure(kind=error.code, code=code, message=message)


def _repeat(
    draft: Draft, command_id: str, command: OpenCommand, run: Run, due: float
) -> None:
    """This attempt failed for good; the next one starts when its time has come."""
    error = failure_of(run, Verdict("retry"))
    draft.write(
        Event(
            type="command.failed",
            at=draft.turn.at,
            step=command.step,
            visit=command.visit,
            iteration=command.iteration,
            command_id=command_id,
            attempt=command.attempt,
            status="FAILED",
            code=error.kind,
            error=error.message[:ERROR_TEXT_MAX],
            due=due,
        )
    )


def answer_event(draft: Draft, command_id: str, outcome: ToolOutcome) -> Event:
    """``call.done``/``call.error`` with its result envelope."""
    ok = not outcome.failed
    envelope = ResultEnvelope(status="success" if ok else "error", context=outcome)
    if len(outcome.data) > draft.turn.limits.inline_bytes_max:
        data = bytes(outcome.data)
        eid = draft.turn.state.execution_id
        locator = data_locator("answers", eid, command_id, data)
        about = {"form": outcome.form}
        reference = draft.turn.bulk.keep(locator, data, about)
        envelope.reference = described(reference, data)
        stub = Raw(encode_json(stub_of(decode_reference(envelope.reference))))
        envelope.context = replace(outcome, data=stub)
    error = "" if ok or outcome.error is None else outcome.error.message
    return Event(
        type="call.done" if ok else "call.error",
        at=draft.turn.at,
        command_id=command_id,
        status="COMPLETED" if ok else "FAILED",
        error=error[:ERROR_TEXT_MAX],
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
    outcome = ToolOutcome(
        failed=failure is not None, data=Raw(encode_json(data)), error=failure
    )
    event = answer_event(draft, genesis.parent_command_id, outcome)
    task = genesis.call.task
    kind = "child.done" if task else "call.done"
    event = replace(event, type=kind, step=genesis.call.step, task=task)
    draft.others.append(
        Record(
            execution_id=genesis.parent_execution_id,
            events=[event],
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
        if step is not None and step.status == "completed":
            named = step.result
    head: dict[str, JSON] = {
        "execution_id": draft.turn.state.execution_id,
        "path": genesis.path,
        "status": status,
    }
    if call.tolerant:
        if error:
            head["error"] = error
        found = named or result
        if found is None:
            return {**head, "result": {}}, None
        return shape(draft, found, head), None
    missing = bool(call.result_step) and named is None
    if status == "COMPLETED" and not missing:
        return shape(draft, named or result, head), None
    why = error or status
    if status == "COMPLETED":
        why = f"step '{call.result_step}' never completed"
    text = f"child playbook {genesis.path} ({draft.turn.state.execution_id}): {why}"
    return {**head, "error": why}, ToolFailure(kind="child_failed", message=text)


def shape(draft: Draft, outcome: Outcome | None, head: dict[str, JSON]) -> JSON:
    """The value a caller reads (PB-606)."""
    value = None if outcome is None else plain(view(outcome, draft.turn.bulk))
    if isinstance(value, dict):
        own = {key: member for key, member in value.items() if not key.startswith("_")}
        return {**head, "result": own, **own}
    return {**head, "result": value, "data": value}


def time_out(draft: Draft, command_id: str) -> None:
    """A waited-for child took too long (PB-607)."""
    command = draft.state.commands.get(command_id)
    assert command is not None, "the timer goes with its command"
    call = draft.plan.playbook.steps[command.step].call
    assert call is not None
    if call.cancel_on_timeout:
        draft.others.append(cancel_record(draft, command.child, "timeout"))
    text = f"child playbook did not end within {call.timeout_s:g} seconds"
    tolerated: JSON = None
    if call.wait == "tolerant":
        tolerated = {
            "execution_id": command.child,
            "path": command.path,
            "status": "timeout",
            "error": text,
            "result": {},
        }
    failure = ToolFailure(kind="timeout", message=text, retryable=True)
    settle(draft, command_id, Run(error=failure), tolerated=tolerated, rank=0)


def cancel_children(draft: Draft) -> None:
    """Cancelling goes down to the children an execution waits for (PB-610)."""
    state = draft.turn.state
    children = [command.child for command in state.commands.values()]
    children += [asked.child for asked in state.asked.values() if not asked.answer]
    for child in children:
        if child:
            draft.others.append(cancel_record(draft, child, "parent ended"))


def cancel_record(draft: Draft, child: str, reason: str) -> Record:
    """A request that a child ends."""
    request = Event(
        type="playbook.cancel_requested",
        at=draft.turn.at,
        status="PENDING",
        error=reason,
    )
    return Record(execution_id=child, events=[request])
