"""Rules in order; the first that matches is carried out (PB-110 ff.)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from msgspec import Struct, field
from msgspec.structs import replace

from state_builder.errors import InvalidError, LimitExceededError, TemplateError
from state_builder.policy.variables import Changes, apply, evaluate
from state_builder.records import JSON, ToolFailure
from state_builder.retry import Backoff, BackoffKind, RetryRule
from state_builder.template import Scope, StepResult, condition, render

ACTIONS: Final = frozenset({"continue", "retry", "jump", "break", "fail"})

_BACKOFF: Final[dict[str, BackoffKind]] = {
    "none": "fixed",
    "fixed": "fixed",
    "constant": "fixed",
    "linear": "linear",
    "exponential": "exponential",
}


class PolicyError(InvalidError):
    """A rule that matched and cannot be carried out."""

    code = "configuration"


class Rule(Struct, frozen=True, kw_only=True):
    """One policy rule (PB-111); ``when`` None is an else. What is ``object`` is JSON.

    Attributes:
        set: ``ctx.…``/``iter.…`` key → value or template.
        attempts, delay, max_delay, backoff: of ``retry``; numbers or templates.
        to: of ``jump``; a label or a template.
    """

    when: str | bool | None = None
    do: str = "continue"
    set: dict[str, object] = field(default_factory=dict)
    attempts: object = 3
    delay: object = 1.0
    backoff: object = "fixed"
    max_delay: object = 60.0
    to: object = None
    message: object = None


class Run(Struct, kw_only=True):
    """What one run of one tool gave (PB-100).

    Attributes:
        data: also of a failed run, where there is some.
        form: how texts read ``data``.
    """

    data: JSON = None
    form: str = "plain"
    error: ToolFailure | None = None
    helpers: dict[str, JSON] = field(default_factory=dict)
    duration_ms: float = 0.0

    @property
    def value(self) -> JSON:
        """The task's value: its data, or its error where it has none (PB-117)."""
        if self.data is None and self.error is not None:
            return {"error": error_map(self.error)}
        return self.data


class Verdict(NamedTuple):
    """What to do next.

    Attributes:
        exhausted: a retry that may not be made any more (PB-150).
        unclear: rules that could not be evaluated, and why (PB-114).
    """

    do: str
    wait_s: float = 0.0
    to: str = ""
    message: str = ""
    exhausted: bool = False
    unclear: tuple[tuple[int, str], ...] = ()


def error_map(failure: ToolFailure) -> dict[str, JSON]:
    """The error object texts and people see (TL-OUT-02)."""
    result: dict[str, JSON] = {
        "kind": failure.kind,
        "code": failure.code,
        "message": failure.message,
        "retryable": failure.retryable,
    }
    if failure.status_code is not None:
        result["status_code"] = result["status"] = failure.status_code
    if failure.retry_after is not None:
        result["retry_after"] = failure.retry_after
    if failure.source:
        result["source"] = failure.source
    return result


def envelope(run: Run, attempt: int) -> StepResult:
    """``output`` of policy rules (PB-100, PB-101)."""
    value: dict[str, object] = {
        "status": "success" if run.error is None else "error",
        "data": StepResult(run.data, run.form),
        "ref": None,
        "error": None if run.error is None else error_map(run.error),
        **run.helpers,
        "meta": {"attempt": attempt, "duration_ms": run.duration_ms},
    }
    return StepResult(cast("JSON", value), "outcome")


def outcome_names(run: Run, attempt: int, task: str) -> Mapping[str, object]:
    """The names a rule sees beside those of its tool (PB-115)."""
    output = envelope(run, attempt)
    return {
        "output": output,
        "outcome": output,
        "error": None if run.error is None else error_map(run.error),
        "_attempt": attempt,
        "_task": task,
    }


class Case(NamedTuple):
    """What is judged: a run, which one it was, of which task."""

    run: Run
    attempt: int
    task: str


def judge(
    rules: tuple[Rule, ...],
    retry: RetryRule | None,
    case: Case,
    scope: Scope,
    updates: Changes,
) -> Verdict:
    """The verdict on a run; a rule's variables go to ``scope`` and ``updates``.

    Raises TemplateError, LimitExceededError or PolicyError for a rule that matched and
    cannot be carried out.
    """
    unclear: list[tuple[int, str]] = []
    if rules:
        scope.fixed = outcome_names(*case)
    for index, rule in enumerate(rules):
        try:
            matches = rule.when is None or condition(rule.when, scope)
        except (TemplateError, LimitExceededError) as error:
            # PB-114: what cannot be evaluated has not matched.
            unclear.append((index, str(error)))
            continue
        if matches:
            verdict = _carry_out(rule, case, scope, updates)
            return verdict._replace(unclear=tuple(unclear))
    verdict = Verdict("continue") if case.run.error is None else _by_retry(retry, case)
    return verdict._replace(unclear=tuple(unclear))


def _carry_out(rule: Rule, case: Case, scope: Scope, updates: Changes) -> Verdict:
    if rule.set:
        values = evaluate(cast("Changes", rule.set), scope)
        apply(values, scope, updates)
    do = str(_rendered(rule.do, scope))
    if do not in ACTIONS:
        known = ", ".join(sorted(ACTIONS))
        raise PolicyError(f"policy action '{do}' is none of {known}")
    if do == "retry":
        return _retry(rule, case, scope)
    if do == "jump":
        return Verdict(do, to=str(_rendered(rule.to, scope)))
    if do == "fail" and rule.message is not None:
        return Verdict(do, message=str(_rendered(rule.message, scope)))
    return Verdict(do)


def _retry(rule: Rule, case: Case, scope: Scope) -> Verdict:
    if case.attempt >= _number("attempts", rule.attempts, scope):
        return Verdict("fail", exhausted=True)
    word = _rendered(rule.backoff, scope)
    kind = _BACKOFF.get(word) if isinstance(word, str) else None
    if kind is None:
        raise PolicyError(f"policy backoff '{word}' is none of {', '.join(_BACKOFF)}")
    waits = Backoff(
        delay_s=_number("delay", rule.delay, scope),
        kind=kind,
        max_delay_s=_number("max_delay", rule.max_delay, scope),
    )
    error = case.run.error
    after = None if error is None else error.retry_after
    return Verdict("retry", wait_s=waits.wait_s(case.attempt, after))


def _by_retry(rule: RetryRule | None, case: Case) -> Verdict:
    error = case.run.error
    assert error is not None
    if rule is None or case.attempt >= rule.max_attempts:
        return Verdict("fail")
    if not rule.applies(error.kind, error.status_code, retryable=error.retryable):
        return Verdict("fail")
    return Verdict("retry", wait_s=rule.wait_s(case.attempt, error.retry_after))


def _rendered(value: object, scope: Scope) -> object:
    return render(value, scope) if isinstance(value, str) else value


def _number(name: str, value: object, scope: Scope) -> float:
    found = _rendered(value, scope)
    try:
        if isinstance(found, int | float | str) and not isinstance(found, bool):
            number = float(found)
            if 0 <= number < float("inf"):
                return number
    except ValueError:
        pass
    raise PolicyError(f"policy {name} must be a number from 0, got {found!r}")


def failure_of(run: Run, verdict: Verdict) -> ToolFailure:
    """Why a run that was judged a failure failed, in the author's words if any."""
    error = run.error
    if error is None:
        code, text = "POLICY_FAIL", "failed by a policy rule"
        if verdict.exhausted:
            code, text = "RETRY_EXHAUSTED", "still to be repeated after all attempts"
        error = ToolFailure(kind="exception", code=code, message=text)
    return replace(error, message=verdict.message) if verdict.message else error
