"""What the stream of events becomes in front of people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from noetl_worker.cli.progress import Progress

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def event(kind: str, step: str = "", at: float = 0.0, **more: Any) -> dict[str, Any]:
    created = (T0 + timedelta(seconds=at)).isoformat().replace("+00:00", "Z")
    return {"event_type": kind, "node_name": step, "created_at": created, **more}


def told(*events: dict[str, Any]) -> Progress:
    progress = Progress()
    for one in events:
        progress.apply(one)
    return progress


def test_a_step_counts_visits_tries_and_time() -> None:
    progress = told(
        event("playbook_started", "demo/path"),
        event("step.enter", "load", 1),
        event("command.issued", "load", 1, node_type="http"),
        event("call.done", "load", 3, result={"context": {"runs": 3}}),
        event("command.completed", "load", 3),
        event("step.exit", "load", 3, status="COMPLETED"),
        event("step.enter", "load", 4),
        event("command.issued", "load", 4),
        event("call.done", "load", 5, result={"context": {}}),
        event("command.completed", "load", 5),
        event("step.exit", "load", 5.5, status="COMPLETED"),
    )
    load = progress.steps["load"]
    assert (load.status, load.kind, load.visits, load.tries) == (
        "COMPLETED", "http", 2, 4,
    )  # fmt: skip
    assert load.duration_s(T0) == pytest.approx(3.5)
    assert progress.path == "demo/path"
    assert progress.duration_s == pytest.approx(5.5)


def test_a_pipeline_counts_as_one_tool() -> None:
    progress = told(
        event("step.enter", "p"),
        event("command.issued", "p", node_type="task_sequence"),
        event("call.done", "p", result={"context": {"runs": 3}}),
    )
    assert (progress.steps["p"].kind, progress.steps["p"].tries) == ("pipeline", 1)


def test_a_running_step_counts_time_until_now() -> None:
    progress = told(event("step.enter", "slow", 0))
    assert progress.steps["slow"].duration_s(T0 + timedelta(seconds=7)) == 7.0


def test_a_loop_shows_done_of_expected() -> None:
    progress = told(
        event("step.enter", "each", context={"iterations_expected": 3}),
        event("command.issued", "each"),
        event("command.issued", "each"),
        event("command.completed", "each"),
    )
    each = progress.steps["each"]
    assert (each.done, each.expected, each.tries) == (1, 3, 2)


def test_a_skipped_step_that_ran_before_keeps_what_it_was() -> None:
    progress = told(
        event("step.enter", "a"),
        event("step.exit", "a", status="COMPLETED"),
        event("step.skipped", "a"),
        event("step.skipped", "b"),
    )
    assert progress.steps["a"].status == "COMPLETED"
    assert progress.steps["b"].status == "SKIPPED"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("playbook.completed", "COMPLETED"),
        ("playbook.failed", "FAILED"),
        ("playbook_cancelled", "CANCELLED"),
    ],
)
def test_the_terminal_event_decides_and_nothing_after_it(
    kind: str, status: str
) -> None:
    """RT-EXN-5, RT-EVT-3."""
    progress = told(
        event("step.enter", "a"),
        event(kind, error="why", result={"context": {"data": {"n": 1}}}),
        event("step.exit", "a", status="COMPLETED"),
    )
    assert (progress.status, progress.error, progress.result) == (
        status, "why", {"n": 1},
    )  # fmt: skip
    assert progress.ended
    left = "CANCELLED" if status == "CANCELLED" else "UNFINISHED"
    assert progress.steps["a"].status == left


def test_ignored_facts_change_nothing() -> None:
    """RT-EVT-4."""
    progress = told(
        event("step.enter", "a"),
        event("call.error", "a", status="IGNORED", result={"context": {"runs": 9}}),
        event("command.failed", "a", status="IGNORED", error="late"),
    )
    assert (progress.steps["a"].tries, progress.steps["a"].error) == (0, "")


@pytest.mark.parametrize("broken", [None, 5, "", "yesterday", [], {}])
def test_odd_values_are_no_crash(broken: Any) -> None:
    progress = told(
        {"event_type": "step.enter", "node_name": "a", "created_at": broken,
         "context": broken, "meta": broken, "result": broken},
        {"event_type": broken, "node_name": broken},
    )  # fmt: skip
    assert list(progress.steps) == ["a"]
