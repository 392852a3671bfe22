"""What stands out in one execution: findings for people (§1.5, analyze).

Reads what is there already: status, events, why it waits. Facts and sums only; what a
finding advises is a fixed sentence of its kind.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct, field

from noetl_worker.server.catalog import Catalog
from noetl_worker.server.executions import DetailAnswer, Executions, Page
from noetl_worker.server.shapes import EventAnswer, moment, parsed
from noetl_worker.server.why import Why
from state_builder.errors import InvalidError, NotFoundError, UnavailableError

SLOW_S: Final = 1.0
SLOW_SHARE: Final = 0.5
"""A step that takes longer than both, in seconds and of the whole, is named."""

FINDINGS_MAX: Final = 50
PAGE: Final = 500
_ENDS: Final = frozenset({"command.completed", "command.failed"})
_ADVICE: Final = {
    "failed": "Look at the step's error, then run the playbook again (rerun).",
    "retried": "Look at why the first tries failed: each costs time and load.",
    "slow": "Split the step, give it more workers, or let it run beside others.",
    "waiting": "See what it waits for: a worker of its pool, a timer, a call-back.",
    "ignored": "Answers came twice or too late: look for workers that hang.",
}


class AnalyzeBody(Struct, kw_only=True):
    """``POST /api/executions/…/analyze``."""

    max_events: int = 1200
    event_sample_size: int = 120
    include_playbook_content: bool = False


class Finding(Struct, kw_only=True):
    """Something that stands out; ``kind`` is a key of the advice."""

    kind: str
    severity: str
    message: str
    step: str | None = None
    event_id: str | None = None


class StepSummary(Struct, kw_only=True):
    """Tool runs of one step; seconds are their sum."""

    step: str
    commands: int = 0
    failed: int = 0
    seconds: float = 0.0


class Summary(Struct, kw_only=True):
    duration_seconds: float | None
    event_count: int
    events_analyzed: int
    retry_attempts: int
    failed_commands: int
    event_types: dict[str, int]
    steps: list[StepSummary]


class Analysis(Struct, kw_only=True):
    """The answer; ``cloud`` would link to pages of a platform that has some."""

    execution_id: str
    path: str
    status: str
    generated_at: str | None
    summary: Summary
    findings: list[Finding]
    recommendations: list[str]
    playbook: dict[str, str | int | None]
    event_sample: list[EventAnswer]
    ai_prompt: str
    cloud: dict[str, str | None] = field(
        default_factory=lambda: {"logs_url": None, "metrics_url": None}
    )


class Analyst:
    """Analyzes executions."""

    def __init__(self, executions: Executions, why: Why, catalog: Catalog) -> None:
        self._executions = executions
        self._why = why
        self._catalog = catalog

    async def analyze(
        self, execution_id: str, body: AnalyzeBody, now: float
    ) -> Analysis:
        """The analysis.

        Raises InvalidError for a size out of bounds, NotFoundError, UnavailableError.
        """
        _check("max_events", body.max_events, 100, 10_000)
        _check("event_sample_size", body.event_sample_size, 20, 1000)
        first = Page(page_size=PAGE)
        detail = await self._executions.detail(execution_id, first, True)
        events = await self._events(detail, body.max_events)
        summary, findings = summed(detail, events)
        if detail.end_time is None:
            why = await self._why.explain(execution_id)
            waits = Finding(kind="waiting", severity="info", message=why.summary)
            findings.insert(0, waits)
        return Analysis(
            execution_id=detail.execution_id,
            path=detail.path,
            status=detail.status,
            generated_at=moment(datetime.fromtimestamp(now, UTC)),
            summary=summary,
            findings=findings[:FINDINGS_MAX],
            recommendations=[
                _ADVICE[kind] for kind in dict.fromkeys(one.kind for one in findings)
            ],
            playbook=await self._playbook(detail, body.include_playbook_content),
            event_sample=events[: body.event_sample_size],
            ai_prompt=_prompt(detail, summary, findings),
        )

    async def _events(self, detail: DetailAnswer, most: int) -> list[EventAnswer]:
        """The newest events, newest first."""
        events, pagination = list(detail.events), detail.pagination
        number = 1
        while pagination is not None and pagination.has_next and len(events) < most:
            number += 1
            page = Page(page=number, page_size=PAGE)
            found = await self._executions.events(detail.execution_id, page)
            events += found.events
            pagination = found.pagination
        # A page may begin with what the last one ended with when events came between.
        return list({event.event_id: event for event in events}.values())[:most]

    async def _playbook(
        self, detail: DetailAnswer, with_content: bool
    ) -> dict[str, str | int | None]:
        about: dict[str, str | int | None] = {
            "path": detail.path,
            "version": detail.version,
            "catalog_id": detail.catalog_id,
        }
        if with_content:
            try:
                row = await self._catalog.row("", None, detail.catalog_id)
                about["content"] = row.content
            except (NotFoundError, UnavailableError):
                about["content"] = None
        return about


def summed(
    detail: DetailAnswer, events: list[EventAnswer]
) -> tuple[Summary, list[Finding]]:
    """Sums over events, newest first, and what stands out in them."""
    steps: dict[str, StepSummary] = {}
    findings: list[Finding] = []
    begun: dict[str, float] = {}
    retries = late = 0
    for event in reversed(events):
        at = parsed(event.timestamp)
        command, step = event.command_id or "", event.node_name or ""
        if event.event_type == "command.issued":
            retries += not command.endswith(".1")
        if event.status == "IGNORED":
            late += 1
        elif event.event_type == "command.started" and at:
            begun.setdefault(command, at.timestamp())
        elif event.event_type in _ENDS:
            one = steps.setdefault(step, StepSummary(step=step))
            one.commands += 1
            if at and command in begun:
                one.seconds += at.timestamp() - begun.pop(command)
            if event.event_type == "command.failed":
                one.failed += 1
                findings.append(_failed(event, step))
    total = detail.duration_seconds or 0.0
    findings += [
        Finding(
            kind="slow",
            severity="info",
            step=one.step,
            message=f"step '{one.step}' took {one.seconds:.1f} s of {total:.1f} s",
        )
        for one in steps.values()
        if one.seconds > max(SLOW_S, total * SLOW_SHARE)
    ]
    if retries:
        text = f"{retries} commands were tried again"
        findings.append(Finding(kind="retried", severity="warning", message=text))
    if late:
        text = f"{late} answers were ignored: their commands had ended"
        findings.append(Finding(kind="ignored", severity="warning", message=text))
    for one in steps.values():
        one.seconds = round(one.seconds, 3)
    summary = Summary(
        duration_seconds=detail.duration_seconds,
        event_count=detail.event_count,
        events_analyzed=len(events),
        retry_attempts=retries,
        failed_commands=sum(one.failed for one in steps.values()),
        event_types=dict(Counter(event.event_type for event in events).most_common()),
        steps=sorted(steps.values(), key=lambda one: -one.seconds),
    )
    return summary, findings


def _failed(event: EventAnswer, step: str) -> Finding:
    text = f"step '{step}' failed: {event.error or 'without a reason'}"
    return Finding(
        kind="failed",
        severity="error",
        step=step,
        message=text,
        event_id=event.event_id,
    )


def _prompt(detail: DetailAnswer, summary: Summary, findings: list[Finding]) -> str:
    """The analysis as a text that can be put before an assistant."""
    steps = [
        f"- {one.step}: {one.commands} commands, {one.failed} failed, {one.seconds} s"
        for one in summary.steps[:FINDINGS_MAX]
    ]
    lines = [
        f"Execution {detail.execution_id} of playbook '{detail.path}' version "
        f"{detail.version} is {detail.status} after {detail.duration_human}.",
        f"Error: {detail.error}" if detail.error else "It has no error.",
        "Steps:",
        *(steps or ["- none ended"]),
        "Findings:",
        *([f"- {one.message}" for one in findings[:FINDINGS_MAX]] or ["- none"]),
        "Explain what went wrong or could be better, and how to mend the playbook.",
    ]
    return "\n".join(lines)


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidError(f"{name} must be {least} to {most}")
