"""What happens after a run: policy rules, then ``retry``, then the default (PB §5)."""

from __future__ import annotations

from typing import NamedTuple, cast

import structlog

from state_builder.errors import LimitExceededError, TemplateError
from state_builder.records import JSON
from state_builder.retry import Backoff, BackoffKind, RetryRule
from state_builder.template import StepResult, condition, render
from tools.errors import configuration
from tools.pipeline.job import Job, Ran, envelope
from tools.pipeline.plan import ACTIONS, Plan, Rule
from tools.pipeline.variables import apply, evaluate

log = structlog.get_logger()

_BACKOFF: dict[str, BackoffKind] = {
    "none": "fixed",
    "fixed": "fixed",
    "constant": "fixed",
    "linear": "linear",
    "exponential": "exponential",
}


class Verdict(NamedTuple):
    """What to do next; ``exhausted`` marks a retry that may not be made (PB-150)."""

    do: str
    wait_s: float = 0.0
    to: str = ""
    message: str = ""
    exhausted: bool = False


PROCEED = Verdict("continue")
FAIL = Verdict("fail")


def decide(plan: Plan, ran: Ran, job: Job, attempt: int) -> Verdict:
    """The verdict on run number ``attempt`` of a task; variables of a rule are set.

    Raises TemplateError, LimitExceededError or ToolCallError for a rule that matched
    and cannot be carried out.
    """
    if plan.policy:
        _enter(plan, ran, job, attempt)
        for index, rule in enumerate(plan.policy):
            if _matches(rule, index, plan, job):
                return _carry_out(rule, ran, job, attempt)
    if ran.error is None:
        return PROCEED
    return _by_retry(plan.retry or job.retry, ran, attempt)


def _enter(plan: Plan, ran: Ran, job: Job, attempt: int) -> None:
    """The names of PB-115."""
    output = envelope(ran, attempt)
    error = output.value["error"] if isinstance(output.value, dict) else None
    job.scope.fixed = {
        "output": output,
        "outcome": output,
        "error": error,
        "_attempt": attempt,
        "_task": plan.label or job.command.step,
    }
    if not plan.label:
        job.name(job.command.step, StepResult(ran.value, ran.form))


def _matches(rule: Rule, index: int, plan: Plan, job: Job) -> bool:
    if rule.when is None:
        return True
    try:
        return condition(rule.when, job.scope)
    except (TemplateError, LimitExceededError) as error:
        # PB-114: what cannot be evaluated has not matched.
        log.warning(
            "policy.condition_failed",
            step=job.command.step,
            task=plan.label,
            rule=index,
            reason=str(error),
        )
        return False


def _carry_out(rule: Rule, ran: Ran, job: Job, attempt: int) -> Verdict:
    if rule.set:
        changes = cast("dict[str, JSON]", rule.set)
        apply(evaluate(changes, job.scope), job.scope, job.updates)
    do = str(_rendered(rule.do, job))
    if do not in ACTIONS:
        known = ", ".join(sorted(ACTIONS))
        raise configuration(f"policy action '{do}' is none of {known}")
    if do == "retry":
        return _retry(rule, ran, job, attempt)
    if do == "jump":
        return Verdict(do, to=str(_rendered(rule.to, job)))
    if do == "fail" and rule.message is not None:
        return Verdict(do, message=str(_rendered(rule.message, job)))
    return Verdict(do)


def _retry(rule: Rule, ran: Ran, job: Job, attempt: int) -> Verdict:
    if attempt >= _number("attempts", rule.attempts, job):
        return Verdict("fail", exhausted=True)
    word = _rendered(rule.backoff, job)
    kind = _BACKOFF.get(word) if isinstance(word, str) else None
    if kind is None:
        raise configuration(f"policy backoff '{word}' is none of {', '.join(_BACKOFF)}")
    waits = Backoff(
        delay_s=_number("delay", rule.delay, job),
        kind=kind,
        max_delay_s=_number("max_delay", rule.max_delay, job),
    )
    return Verdict("retry", wait_s=waits.wait_s(attempt, _retry_after(ran)))


def _by_retry(rule: RetryRule | None, ran: Ran, attempt: int) -> Verdict:
    error = ran.error
    if rule is None or error is None or attempt >= rule.max_attempts:
        return FAIL
    if not rule.applies(error.kind, error.status_code, retryable=error.retryable):
        return FAIL
    return Verdict("retry", wait_s=rule.wait_s(attempt, error.retry_after))


def _retry_after(ran: Ran) -> float | None:
    return None if ran.error is None else ran.error.retry_after


def _rendered(value: object, job: Job) -> object:
    return render(value, job.scope) if isinstance(value, str) else value


def _number(name: str, value: object, job: Job) -> float:
    found = _rendered(value, job)
    try:
        if isinstance(found, int | float | str) and not isinstance(found, bool):
            number = float(found)
            if 0 <= number < float("inf"):
                return number
    except ValueError:
        pass
    raise configuration(f"policy {name} must be a number from 0, got {found!r}")
