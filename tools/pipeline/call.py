"""One run of one tool: render, check, run within its time, and say what came of it."""

from __future__ import annotations

from http import HTTPStatus
from traceback import format_exc
from typing import cast

import anyio
import structlog
from msgspec import Struct, field

from state_builder.errors import LimitExceededError, TemplateError
from state_builder.policy import PolicyError, Run, apply, evaluate
from state_builder.ports import Clock, Observer
from state_builder.records import JSON, ToolFailure
from state_builder.redact import mask_error
from state_builder.template import StepResult, render
from tools.auth import authorize, secret_values
from tools.contract import CallContext, Held, Tool, ToolLimits, ToolResult
from tools.errors import ToolCallError, configuration
from tools.fields import boolean_of
from tools.pipeline.holder import WalletAwayError
from tools.pipeline.job import Job
from tools.pipeline.names import iteration_input, variables_of
from tools.pipeline.plan import Plan
from tools.registry import Registry

log = structlog.get_logger()

Fields = dict[str, JSON]


class Caller(Struct, frozen=True, kw_only=True):
    """Runs tools; what goes wrong is part of what they gave (TL-OUT-04).

    Attributes:
        held: command id → what its calls took from outside.
    """

    registry: Registry
    limits: ToolLimits
    clock: Clock
    observer: Observer
    held: dict[str, list[Held]] = field(default_factory=dict)

    async def call(self, plan: Plan, job: Job, base: Fields, attempt: int) -> Run:
        """Run a tool once and apply its ``set``.

        Raises WalletAwayError, and otherwise nothing but cancellation.
        """
        started = self.clock.monotonic()
        try:
            ran = await self._signed_in(plan, job, base, attempt)
            if plan.set:
                await job.settle(lambda: _set(plan, ran, job, attempt))
        except (ToolCallError, TemplateError, LimitExceededError) as error:
            ran = failed(error, job.where(plan))
        except WalletAwayError:
            raise
        except Exception as error:  # noqa: BLE001 - told below
            # A tool's own fault fails its step, not the worker.
            trace = mask_error(format_exc(), job.holder.masks)
            log.error(
                "tool.crashed", tool_kind=plan.kind, step=job.command.step, trace=trace
            )
            ran = _crashed(error)
        seconds = self.clock.monotonic() - started
        ran.duration_ms = round(seconds * 1000, 3)
        self.observer.time(
            "noetl_worker_dispatch_duration_seconds",
            seconds,
            tool_kind=plan.kind,
            status="success" if ran.error is None else "error",
        )
        if ran.error is not None:
            ran.helpers = {**self.registry.blank(plan.kind, ran.error), **ran.helpers}
            if ran.error.kind == "limit":
                limit = ran.error.code or "unnamed"
                self.observer.count("noetl_limit_hits_total", limit=limit)
            if ran.error.kind == "auth":
                job.holder.refused()
            self.observer.count(
                "noetl_worker_dispatch_errors_total", tool_kind=plan.kind
            )
        return ran

    async def _signed_in(self, plan: Plan, job: Job, base: Fields, attempt: int) -> Run:
        """A run; where a token was refused, once more with a new one (SC-KC-14)."""
        try:
            return await self._run(plan, job, base, attempt)
        except ToolCallError as error:
            refused = error.failure.status_code == HTTPStatus.UNAUTHORIZED
            wanted = refused and boolean_of(plan.fields, "auth_retry", False)
            if not wanted or not job.holder.renew():
                raise
        return await self._run(plan, job, base, attempt)

    async def _run(self, plan: Plan, job: Job, base: Fields, attempt: int) -> Run:
        tool = self.registry.get(plan.kind)
        config = await self._configured(plan, tool, job, base, attempt)
        limit = await self._timeout_s(plan, tool, config, job)
        if "variables" in tool.wants(config):
            await job.fetch_named(str(config.get("code", "")))
        call = self._context(plan, tool, config, job, attempt, limit)
        if tool.instant or tool.keeps_time:
            return _ran(await tool.run(config, call))
        result: ToolResult | None = None
        async with self.registry.room(plan.kind):
            with anyio.move_on_after(limit):
                result = await tool.run(config, call)
        if result is None:
            kind, code = tool.timeout_as
            text = f"Execution timed out after {limit:g} seconds"
            raise ToolCallError(
                ToolFailure(kind=kind, code=code, message=text, retryable=True)
            )
        if result.held is not None:
            self.held.setdefault(job.command.command_id, []).append(result.held)
        return _ran(result)

    async def _configured(
        self, plan: Plan, tool: Tool, job: Job, base: Fields, attempt: int
    ) -> Fields:
        """The kind's canonical configuration for this run (PB-048 to PB-050)."""
        inputs = {**base, **plan.input} if base or plan.input else plan.input
        literal = not inputs and not plan.texts and not job.has_iteration
        if literal and plan.validated is not None:
            return plan.validated
        config = dict(plan.fields)
        if not literal:
            config = await job.settle(
                lambda: _rendered_into(config, plan, inputs, job, attempt)
            )
        if plan.credentials:
            config = await authorize(plan.kind, config, job.holder.lookup)
        stated = secret_values(config)
        if stated:
            job.holder.hide(stated)
        validated = tool.validate(config)
        if literal and not plan.credentials and not stated:
            plan.validated = validated
        return validated

    async def _timeout_s(
        self, plan: Plan, tool: Tool, config: Fields, job: Job
    ) -> float:
        """TL-LIM-01: tool, else step, else kind, else worker."""
        if plan.timeout is not None:
            given = await job.settle(lambda: _rendered("timeout", plan.timeout, job))
            limit = _seconds(given)
        else:
            limit = job.context.timeout_s or tool.default_timeout_s(config) or 0.0
        limit = limit or self.limits.timeout_s
        return min(limit, self.limits.timeout_s) if tool.clamped else limit

    def _context(
        self,
        plan: Plan,
        tool: Tool,
        config: Fields,
        job: Job,
        attempt: int,
        limit: float,
    ) -> CallContext:
        command = job.command
        wanted = tool.wants(config)
        return CallContext(
            execution_id=command.execution_id,
            command_id=command.command_id,
            step=command.step,
            label=plan.label,
            attempt=attempt,
            index=job.runs + 1 - attempt,
            ports=self.registry.ports,
            timeout_s=limit,
            limits=self.limits,
            path=command.path,
            traceparent=command.trace.get("traceparent", ""),
            variables=variables_of(job.scope) if "variables" in wanted else {},
            workload=cast("Fields", dict(job.scope.workload))
            if "workload" in wanted
            else {},
        )


def _rendered_into(
    config: Fields, plan: Plan, inputs: Fields, job: Job, attempt: int
) -> Fields:
    """Input first, entries blind to each other; then the fields, which see it."""
    config = dict(config)
    scope = job.scope
    scope.fixed = {}
    scope.inputs = {}
    job.name("_task", plan.label or job.command.step)
    job.name("_attempt", attempt)
    rendered = {
        key: _rendered(f"input.{key}", value, job, data=True)
        for key, value in inputs.items()
    }
    scope.inputs = rendered
    # A child gets what its author gives, not what the iteration adds (PB-602).
    added = {} if plan.kind == "playbook" else iteration_input(scope)
    entries = {**added, **rendered}
    if entries:
        config["input"] = entries
    for text in plan.texts:
        config[text.key] = _rendered(text.key, text.value, job, data=text.data)
    return config


def _rendered(key: str, value: JSON, job: Job, *, data: bool = False) -> JSON:
    try:
        return render(value, job.scope, data=data)
    except TemplateError as error:
        raise TemplateError(f"{key}: {error}") from error


def _seconds(value: JSON) -> float:
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            number = float(value)
            if 0 < number < float("inf"):
                return number
    except ValueError:
        pass
    raise configuration(f"timeout must be a positive number of seconds, got {value!r}")


def _set(plan: Plan, ran: Run, job: Job, attempt: int) -> None:
    """The tool's ``set`` after a success; ``output`` is its data (PB-203)."""
    data = StepResult(ran.value, ran.form)
    job.scope.fixed = {
        "output": data,
        "outcome": data,
        "_attempt": attempt,
        "_task": plan.label or job.command.step,
    }
    job.name(plan.label or job.command.step, data)
    try:
        values = evaluate(plan.set, job.scope)
    except TemplateError as error:
        raise TemplateError(f"set: {error}") from error
    apply(values, job.scope, job.updates)


def _ran(result: ToolResult) -> Run:
    return Run(data=result.data, form=result.form, helpers=result.helpers)


def failed(
    error: ToolCallError | TemplateError | LimitExceededError | PolicyError, where: str
) -> Run:
    """A run that ended in one of the errors a tool may end in (PB-423)."""
    if isinstance(error, ToolCallError):
        return Run(
            data=error.data,
            form=error.form,
            error=error.failure,
            helpers=error.helpers,
        )
    if isinstance(error, TemplateError | PolicyError):
        failure = ToolFailure(kind=error.code, message=f"{where}, {error}")
    else:
        failure = ToolFailure(kind="limit", code=error.limit, message=str(error))
    return Run(error=failure)


def _crashed(error: Exception) -> Run:
    name = type(error).__name__
    return Run(error=ToolFailure(kind="unknown", code=name, message=f"{name}: {error}"))
