"""Runs tasks in order, with jumps and repetitions, until they are done (TL §4).

A single tool is walked as a sequence of one.
"""

from __future__ import annotations

from anyio.lowlevel import checkpoint
from msgspec import Struct, field
from msgspec.structs import replace

from state_builder.errors import LimitExceededError, TemplateError
from state_builder.policy import PolicyError, Run, Verdict, error_map, failure_of
from state_builder.records import JSON, ToolFailure
from state_builder.template import StepResult
from tools.errors import ToolCallError, configuration
from tools.pipeline.call import Caller, failed
from tools.pipeline.job import Job
from tools.pipeline.plan import SEQUENCE, Plan
from tools.pipeline.rules import decide

_PREVIOUS = frozenset(("previous", "prev", "_previous", "@previous"))


_NOBODYS_TO_JUDGE = frozenset(("cancelled", "max_iterations"))
"""Kinds of errors no rule is asked about (PB-119, PB-154)."""


class Walk(Struct, kw_only=True):
    """What a sequence gave.

    Attributes:
        results: label → data of the tasks that ran, in the order they ran last.
        last: the run that came last.
        failure: why the sequence failed.
        absorbed: the last error a rule took for good.
        failed_task, failed_index, attempt: where it failed, and on which run.
    """

    results: dict[str, JSON] = field(default_factory=dict)
    last: Run = field(default_factory=Run)
    failure: ToolFailure | None = None
    absorbed: ToolFailure | None = None
    failed_task: str = ""
    failed_index: int = 0
    attempt: int = 1

    @property
    def failure_data(self) -> JSON:
        """The data of a sequence that failed (TL-TS-30)."""
        assert self.failure is not None
        return {
            "labeled_results": self.results,
            "failed_task": self.failed_task,
            "failed_index": self.failed_index,
            "attempt": self.attempt,
            "error": error_map(self.failure),
        }


class Walker(Struct, frozen=True):
    """Walks the tasks of one command."""

    caller: Caller
    job: Job

    async def walk(self, tasks: tuple[Plan, ...], base: dict[str, JSON]) -> Walk:
        """Run the tasks; ``base`` lies under the input of each (PB-048)."""
        walk = Walk()
        if tasks[0].label and not self.job.runs:
            # They hide names from outside before anything has run (PB-182).
            self.job.name("_prev", None)
            self.job.name("_results", walk.results)
        place, attempt = 0, 1
        recovered: set[str] = set()
        while place < len(tasks):
            task = tasks[place]
            if self.job.runs:
                # Tasks that never wait must not keep others from their turn.
                await checkpoint()
            ran = await self._once(task, base, attempt)
            self._record(walk, task, ran, attempt)
            verdict, ran = await self._verdict(task, ran, attempt)
            walk.last = ran
            if verdict.do == "retry":
                await self.caller.clock.sleep(verdict.wait_s)
                attempt += 1
                continue
            if verdict.do == "fail" and _recovers(task, ran, place, recovered):
                place, attempt = place - 1, 1
                continue
            if verdict.do == "fail":
                _fail(walk, task, place, attempt, verdict)
                return walk
            walk.absorbed = ran.error or walk.absorbed
            if verdict.do == "break":
                return walk
            attempt = 1
            if verdict.do == "jump":
                try:
                    place = _target(tasks, place, verdict.to)
                except ToolCallError as error:
                    walk.last = failed(error, self.job.where(task))
                    _fail(walk, task, place, attempt, verdict)
                    return walk
            else:
                place += 1
        return walk

    async def _once(self, task: Plan, base: dict[str, JSON], attempt: int) -> Run:
        limit = self.caller.limits.sequence_runs_max
        if self.job.runs >= limit:
            return Run(
                error=ToolFailure(
                    kind="max_iterations",
                    code="max_iterations",
                    message=f"more than {limit} task runs in one command",
                )
            )
        if task.kind != SEQUENCE:
            return await self.caller.call(task, self.job, base, attempt)
        inner = await self.walk(task.tasks, {**base, **task.input})
        if inner.failure is None:
            return Run(data=inner.results, form="pipeline")
        return Run(data=inner.failure_data, error=inner.failure)

    def _record(self, walk: Walk, task: Plan, ran: Run, attempt: int) -> None:
        """Count the run and let later texts see what it gave (PB-181, PB-182)."""
        self.job.note(task.label, attempt, ran)
        if not task.label:
            return
        # A task that runs again writes last: order decides merged keys (PB-183).
        walk.results.pop(task.label, None)
        walk.results[task.label] = ran.value
        seen = StepResult(ran.value, ran.form)
        self.job.name(task.label, seen)
        self.job.name("_prev", seen)
        self.job.name("_results", walk.results)

    async def _verdict(self, task: Plan, ran: Run, attempt: int) -> tuple[Verdict, Run]:
        """What the rules say; rules that cannot be carried out fail the task."""
        if ran.error is not None and ran.error.kind in _NOBODYS_TO_JUDGE:
            return Verdict("fail"), ran
        try:
            job = self.job
            verdict = await job.settle(lambda: decide(task, ran, job, attempt))
            return verdict, ran
        except (
            ToolCallError,
            PolicyError,
            TemplateError,
            LimitExceededError,
        ) as error:
            broken = failed(error, f"{self.job.where(task)}, policy")
            return Verdict("fail"), replace(ran, error=broken.error)


def _recovers(task: Plan, ran: Run, place: int, recovered: set[str]) -> bool:
    """A value that is gone is made again by the task before, once (TL-TS-34)."""
    gone = ran.error is not None and ran.error.kind == "missing_reference"
    if not gone or task.policy or not place or task.label in recovered:
        return False
    recovered.add(task.label)
    return True


def _fail(walk: Walk, task: Plan, place: int, attempt: int, verdict: Verdict) -> None:
    walk.failed_task, walk.failed_index, walk.attempt = task.label, place, attempt
    walk.failure = failure_of(walk.last, verdict)


def _target(tasks: tuple[Plan, ...], place: int, to: str) -> int:
    """Where a jump leads (PB-153)."""
    if to in _PREVIOUS:
        if place:
            return place - 1
        raise configuration("jump to 'previous' from the first task")
    for index, task in enumerate(tasks):
        if task.label and task.label == to:
            return index
    labels = ", ".join(task.label for task in tasks if task.label)
    raise configuration(f"jump target '{to}' not found (labels: {labels or 'none'})")
