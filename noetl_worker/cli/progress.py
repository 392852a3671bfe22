"""What a live stream of events says about an execution, step by step.

A fold like the owner's, but only of what people look at: it holds no truth, repeats and
unknown events change nothing that matters, and nothing here touches a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from state_builder.records import JSON, TERMINAL_STATUS

PIPELINE = "pipeline"

_OF_STEPS = frozenset(
    {"step.enter", "step.exit", "step.skipped", "step_failed", "command.issued"}
    | {"call.done", "call.error", "command.completed", "command.failed"}
)


@dataclass
class StepProgress:
    """One step, all its visits together.

    Attributes:
        visits: how often it was entered.
        tries: runs of its tool, retries and loop items included; a pipeline counts as
            one tool.
        expected: items of a loop, None when it is none.
        done: commands that ended.
        busy_s: time from entering to leaving, summed over visits that have ended.
        last_s: of the visit that ended last.
    """

    name: str
    status: str = "RUNNING"
    kind: str = ""
    visits: int = 0
    tries: int = 0
    expected: int | None = None
    done: int = 0
    busy_s: float = 0.0
    last_s: float = 0.0
    error: str = ""
    entered: list[datetime] = field(default_factory=list)

    def duration_s(self, now: datetime) -> float:
        """Time spent so far."""
        return self.busy_s + sum((now - at).total_seconds() for at in self.entered)


@dataclass
class Progress:
    """An execution as far as the stream has told."""

    steps: dict[str, StepProgress] = field(default_factory=dict)
    status: str = "RUNNING"
    result: JSON = None
    error: str = ""
    path: str = ""
    started: datetime | None = None
    last: datetime | None = None

    @property
    def ended(self) -> bool:
        return self.status != "RUNNING"

    @property
    def duration_s(self) -> float | None:
        """Time between the first and the last event."""
        if self.started is None or self.last is None:
            return None
        return (self.last - self.started).total_seconds()

    def apply(self, event: Mapping[str, JSON]) -> StepProgress | None:
        """Fold one event; the step whose row it changed, if any."""
        at = _time(event.get("created_at") or event.get("timestamp"))
        if at is not None:
            self.started = self.started or at
            self.last = at
        kind = _text(event.get("event_type"))
        if event.get("status") == "IGNORED" or self.ended:
            return None
        if kind in TERMINAL_STATUS:
            self._end(TERMINAL_STATUS[kind], event)
            return None
        if kind == "playbook_started":
            self.path = _text(event.get("node_name"))
            return None
        name = _text(event.get("node_name"))
        if not name or kind not in _OF_STEPS:
            return None
        return self._apply_step(kind, name, event, at)

    def _end(self, status: str, event: Mapping[str, JSON]) -> None:
        self.status = status
        self.error = _text(event.get("error"))
        self.result = result_of(event)
        for step in self.steps.values():
            if step.status == "RUNNING":
                step.status = "CANCELLED" if status == "CANCELLED" else "UNFINISHED"

    def _apply_step(
        self, kind: str, name: str, event: Mapping[str, JSON], at: datetime | None
    ) -> StepProgress:
        if kind == "step.skipped":
            # A step that ran before keeps what it was.
            return self.steps.setdefault(name, StepProgress(name, status="SKIPPED"))
        step = self.steps.setdefault(name, StepProgress(name))
        if kind == "step.enter":
            step.status = "RUNNING"
            step.visits += 1
            step.expected = _count(_inside(event, "context", "iterations_expected"))
            step.done = 0
            if at is not None:
                step.entered.append(at)
        elif kind == "step.exit":
            step.status = _text(event.get("status")) or "COMPLETED"
            if step.entered and at is not None:
                step.last_s = (at - step.entered.pop(0)).total_seconds()
                step.busy_s += step.last_s
        elif kind == "step_failed":
            step.status = "FAILED"
            step.error = _text(event.get("error"))
        else:
            return self._apply_command(kind, step, event)
        return step

    def _apply_command(
        self, kind: str, step: StepProgress, event: Mapping[str, JSON]
    ) -> StepProgress:
        if kind == "command.issued":
            step.tries += 1
            kind = _text(event.get("node_type"))
            step.kind = PIPELINE if kind == "task_sequence" else kind or step.kind
        elif kind in ("call.done", "call.error"):
            runs = _count(_inside(event, "result", "context", "runs"))
            if runs is not None and step.kind != PIPELINE:
                step.tries += runs - 1
        else:
            step.done += 1
            if kind == "command.failed":
                step.error = _text(event.get("error"))
        return step


def result_of(event: Mapping[str, JSON]) -> JSON:
    """The value inside an event's result envelope (RT-ING-3)."""
    data = _inside(event, "result", "context", "data")
    if data is not None:
        return data
    context = _inside(event, "result", "context")
    return context if context is not None else event.get("result")


def _inside(event: Mapping[str, JSON], *keys: str) -> JSON:
    found: JSON = dict(event)
    for key in keys:
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else ""


def _count(value: JSON) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: JSON) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
