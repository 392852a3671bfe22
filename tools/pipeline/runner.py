"""The port ``ToolRunner``: from a command's bytes to the outcome that is reported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import cast

import structlog
from msgspec import DecodeError, EncodeError, Raw, ValidationError
from msgspec.json import Decoder
from msgspec.structs import replace

from state_builder.credentials import Wallet
from state_builder.errors import LimitExceededError
from state_builder.policy import Run
from state_builder.ports import Clock, Command, Observer
from state_builder.records import (
    JSON,
    NOTHING,
    CommandContext,
    ToolFailure,
    ToolOutcome,
    encode_json,
)
from state_builder.redact import mask, mask_error
from state_builder.values import ValueStore
from tools.contract import ToolLimits
from tools.errors import ToolCallError
from tools.pipeline.call import Caller
from tools.pipeline.holder import Holder
from tools.pipeline.job import Job
from tools.pipeline.plan import SEQUENCE, Plan, Plans
from tools.pipeline.sequence import Walk, Walker
from tools.registry import Registry

log = structlog.get_logger()

ERROR_TEXT_MAX = 4096
"""Characters of an error's message (TL-ERR-03)."""

_KEPT_OF_SEQUENCE = ("stdout", "stderr", "exit_code")
"""Helpers of a sequence: those of its last run (TL-TS-31)."""

_DEPTH_MAX = 12
"""How deep a provider's error is looked for (TL-RES-07)."""

_PROVIDER_ERROR = ToolFailure(
    kind="server_error",
    code="isError",
    message="the result says isError: true, which fails a step here "
    "(NOETL_PROVIDER_ERROR_TERMINATES)",
)

_decode_context = Decoder(CommandContext).decode


class Runner:
    """Runs commands; knows every kind of its registry."""

    def __init__(
        self,
        registry: Registry,
        limits: ToolLimits,
        clock: Clock,
        observer: Observer,
        wallet: Wallet,
        values: ValueStore,
    ) -> None:
        self._values = values
        self._wallet = wallet
        self._registry = registry
        self._limits = limits
        self._caller = Caller(
            registry=registry, limits=limits, clock=clock, observer=observer
        )
        self._clock = clock
        self._observer = observer
        self._plans = Plans()
        self._functions: dict[str, Callable[..., JSON]] = {"now": self._now}

    async def run(self, command: Command) -> ToolOutcome:
        """The command's outcome, scrubbed.

        Raises UnavailableError where the command could not begin because the platform
        was away, and otherwise nothing but cancellation.
        """
        try:
            context = _decode_context(command.context)
            strict = self._limits.keychain_strict
            holder = Holder(self._wallet, command, strict=strict)
            job = Job(
                command,
                context,
                self._functions,
                holder,
                self._values,
                self._limits.public_url,
            )
            await job.prepare()
            plan = self._plans.get(context.tool_config)
        except ToolCallError as error:
            return _failure(error.failure)
        except (ValidationError, DecodeError) as error:
            text = f"step '{command.step}': the command cannot be read: {error}"
            return _failure(ToolFailure(kind="configuration", message=text))
        tasks = plan.tasks if plan.kind == SEQUENCE else (plan,)
        walk = await Walker(self._caller, job).walk(tasks, {**job.input, **_own(plan)})
        try:
            return self._outcome(plan, walk, job)
        except (LimitExceededError, EncodeError, OverflowError, TypeError) as error:
            kind = "limit" if isinstance(error, LimitExceededError) else "json"
            text = f"the result of step '{command.step}' cannot be reported: {error}"
            failure = _scrubbed(ToolFailure(kind=kind, message=text), job.holder.masks)
            return _failure(failure, runs=job.runs)

    async def hold(self, command_id: str) -> None:
        """Keep what the command took from outside a while longer."""
        for held in self._caller.held.get(command_id, ()):
            await _quietly(held.hold())

    async def settle(self, command_id: str, kept: bool) -> None:
        """Acknowledge what the command took from outside, or give it back."""
        for held in self._caller.held.pop(command_id, ()):
            await _quietly(held.settle(kept))

    async def close(self) -> None:
        """Stop children, close pools."""
        await self._registry.close()

    def _outcome(self, plan: Plan, walk: Walk, job: Job) -> ToolOutcome:
        secrets = job.holder.masks
        data, form, helpers = _parts(plan, walk, job)
        error = walk.failure or walk.absorbed
        failed = walk.failure is not None
        encoded = self._encoded(mask(data, secrets))
        if not failed and self._says_error(job, encoded, data):
            error, failed = _PROVIDER_ERROR, True
        return ToolOutcome(
            form=form,
            failed=failed,
            data=Raw(encoded),
            error=None if error is None else _scrubbed(error, secrets),
            updates=_object(mask(job.updates, secrets)),
            helpers=_object(mask(helpers, secrets)),
            runs=max(job.runs, 1),
            duration_ms=round(job.duration_ms, 3),
        )

    def _says_error(self, job: Job, encoded: bytes, data: JSON) -> bool:
        """Counted always; whether it fails the step is a setting (TL-RES-07)."""
        if b'"isError":true' not in encoded or not _has_error(data, _DEPTH_MAX):
            return False
        kind = job.command.kind
        self._observer.count("noetl_worker_tool_result_error_total", tool_kind=kind)
        return self._limits.provider_error_terminates

    def _encoded(self, data: JSON) -> bytes:
        raw = encode_json(data)
        limit = self._limits.result_bytes_max
        if len(raw) > limit:
            raise LimitExceededError(
                "result_bytes_max",
                f"{len(raw):,} bytes of JSON, at most {limit:,} are allowed: give "
                "less, or write a file and store it with artifact put and source",
            )
        return raw

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock.now(), UTC).isoformat()


async def _quietly(action: Awaitable[None]) -> None:
    """What cannot be said now the source finds out by itself: it gives again."""
    try:
        await action
    except ToolCallError as error:
        log.warning("source.not_answered", reason=str(error)[:200])


def _has_error(value: JSON, depth: int) -> bool:
    if depth < 0:
        return False
    if isinstance(value, dict):
        if value.get("isError") is True:
            return True
        return any(_has_error(one, depth - 1) for one in value.values())
    return isinstance(value, list) and any(_has_error(one, depth - 1) for one in value)


def _own(plan: Plan) -> dict[str, JSON]:
    """The input of a sequence as a whole lies under that of its tasks."""
    return plan.input if plan.kind == SEQUENCE else {}


def _parts(plan: Plan, walk: Walk, job: Job) -> tuple[JSON, str, dict[str, JSON]]:
    """Data, its form, and helpers of a finished walk (PB-183, PB-184)."""
    last = walk.last
    if plan.kind != SEQUENCE:
        return _single(walk, last)
    helpers: dict[str, JSON] = {
        key: last.helpers[key] for key in _KEPT_OF_SEQUENCE if key in last.helpers
    }
    helpers["meta"] = {"task_timings": job.timings}
    if walk.failure is not None:
        return walk.failure_data, "plain", helpers
    return cast("JSON", walk.results), "pipeline", helpers


def _single(walk: Walk, last: Run) -> tuple[JSON, str, dict[str, JSON]]:
    if walk.failure is None:
        return last.value, last.form, last.helpers
    return last.data, last.form, last.helpers


def _object(value: JSON) -> Raw:
    return Raw(encode_json(value)) if value else NOTHING


def _scrubbed(error: ToolFailure, secrets: tuple[str, ...]) -> ToolFailure:
    # A text is cut after it is masked: a secret cut in two would be known no more.
    text = mask_error(error.message, secrets)[:ERROR_TEXT_MAX]
    return error if text == error.message else replace(error, message=text)


def _failure(error: ToolFailure | None, runs: int = 1) -> ToolOutcome:
    assert error is not None
    return ToolOutcome(
        failed=True, data=Raw(b"null"), error=_scrubbed(error, ()), runs=runs
    )
