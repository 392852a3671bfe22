"""A stored value that a task needs and cannot have is an error its rules see."""

from __future__ import annotations

import json
from typing import Any

import pytest
from doubles import ManualClock

from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.values import Values
from noetl_worker.wallet.memory import MemoryWallet
from state_builder.ports import Command
from state_builder.records import ToolOutcome, encode_json
from tools.contract import ToolLimits
from tools.pipeline import Runner
from tools.registry import Registry

pytestmark = pytest.mark.anyio

GONE = {
    "ref": "noetl://default/default/results/7/start/1/0/1@v",
    "extracted": {"n": 7, "rows": {"_count": 50}},
}
NEEDS_IT = {"kind": "noop", "result": "{{ start.rows[1] }}"}


async def run(tool: dict[str, Any]) -> ToolOutcome:
    """The outcome of a step after ``start``, whose stored result is gone."""
    observer = PrometheusObserver()
    limits = ToolLimits()
    runner = Runner(
        Registry(limits),
        limits,
        ManualClock(),
        observer,
        MemoryWallet({}),
        Values(MemoryResults(), ManualClock(), observer),
    )
    names = {"steps": {"start": {"form": "plain", "reference": GONE}}}
    context = encode_json({"tool_config": tool, "render_context": names})
    command = Command("7", "7.a.1.1", "a", "noop", 1, "", 1, context, "p", "w", {})
    try:
        return await runner.run(command)
    finally:
        await runner.close()


async def test_a_value_that_is_gone_fails_whoever_needs_it() -> None:
    """TL-RR-43: retryable, by its kind; never the summary in its place."""
    outcome = await run(NEEDS_IT)
    assert outcome.failed and outcome.error is not None
    assert (outcome.error.kind, outcome.error.retryable) == ("missing_reference", True)
    assert str(GONE["ref"]) in outcome.error.message


async def test_what_the_summary_shows_needs_no_value() -> None:
    """TL-RR-40, TL-RR-41."""
    outcome = await run({"kind": "noop", "result": "{{ start.n }} {{ start._ref }}"})
    assert json.loads(bytes(outcome.data)) == f"7 {GONE['ref']}"


async def test_a_rule_sees_what_is_missing() -> None:
    """TL-RR-43, PB-423: the task's policy may go on without it."""
    rule = {
        "when": "{{ output.error.kind == 'missing_reference' and output.error.retryable }}",
        "do": "continue",
        "set": {"ctx.lost": "{{ output.error.code }}"},
    }
    task = {**NEEDS_IT, "label": "t", "policy": [rule, {"do": "fail"}]}
    outcome = await run({"kind": "task_sequence", "tasks": [task]})
    assert not outcome.failed, outcome.error
    assert json.loads(bytes(outcome.updates)) == {"lost": "missing_reference"}
