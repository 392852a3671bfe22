"""What happens after a run of a task: its policy, over the command's own names."""

from __future__ import annotations

import structlog

from state_builder.policy import Case, Run, Verdict, judge
from state_builder.template import StepResult
from tools.pipeline.job import Job
from tools.pipeline.plan import Plan

log = structlog.get_logger()


def decide(plan: Plan, ran: Run, job: Job, attempt: int) -> Verdict:
    """The verdict on run number ``attempt`` of a task; variables of a rule are set.

    Raises TemplateError, LimitExceededError or PolicyError for a rule that matched
    and cannot be carried out.
    """
    if not plan.policy and ran.error is None:
        return Verdict("continue")
    if plan.policy and not plan.label:
        job.name(job.command.step, StepResult(ran.value, ran.form))
    task = plan.label or job.command.step
    case = Case(ran, attempt, task)
    scope = job.scope
    verdict = judge(plan.policy, plan.retry or job.retry, case, scope, job.updates)
    for rule, reason in verdict.unclear:
        log.warning(
            "policy.condition_failed",
            step=job.command.step,
            task=plan.label,
            rule=rule,
            reason=reason,
        )
    return verdict
