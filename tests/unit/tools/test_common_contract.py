"""What holds for every kind, seen through the runner: times, data, errors, counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from calls import command_of

from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.lifecycle import SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.values import Values
from noetl_worker.wallet.memory import MemoryWallet
from state_builder.records import ToolOutcome, encode_json
from tools import registry as registry_module
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.pipeline import Runner
from tools.registry import Registry

pytestmark = pytest.mark.anyio


class Bench:
    """A runner, and the words of its metrics."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.limits = ToolLimits(
            data_dir=str(folder), container_driver="process", timeout_s=5.0, **limits
        )
        self.observer = PrometheusObserver()

    async def __call__(
        self, tool: dict[str, Any], step_timeout: float = 0.0, **workload: Any
    ) -> ToolOutcome:
        wallet = MemoryWallet({})
        registry = Registry(self.limits)
        clock = SystemClock()
        values = Values(MemoryResults(), clock, self.observer)
        runner = Runner(registry, self.limits, clock, self.observer, wallet, values)
        command = command_of(
            tool, render_context={"workload": workload}, timeout_s=step_timeout
        )
        try:
            return await runner.run(command)
        finally:
            await runner.close()

    async def data(self, tool: dict[str, Any], **workload: Any) -> Any:
        outcome = await self(tool, **workload)
        assert not outcome.failed, outcome.error
        return json.loads(bytes(outcome.data))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_noop_gives_what_it_is_told(bench: Bench) -> None:
    """TL-NO-01, TL-RES-01."""
    assert await bench.data({"kind": "noop"}) == {"status": "ok", "message": ""}
    told = {"kind": "noop", "message": "hi"}
    assert await bench.data(told) == {"status": "ok", "message": "hi"}
    own = {"kind": "noop", "result": {"n": "{{ workload.n }}"}}
    assert await bench.data(own, n=[1]) == {"n": [1]}


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ({"a": [{"isError": True}]}, True),
        ({"isError": True}, True),
        ({"isError": "true"}, False),
        ({"text": '"isError":true'}, False),
        ({"deep": json.loads('{"d":' * 12 + '{"isError":true}' + "}" * 12)}, False),
    ],
)
@pytest.mark.parametrize("terminates", [True, False])
async def test_a_result_that_says_error_is_counted_and_may_fail_its_step(
    tmp_path: Path, result: Any, says: bool, terminates: bool
) -> None:
    """TL-RES-07: by the value, not by its text; at depth 12 at most."""
    bench = Bench(tmp_path, provider_error_terminates=terminates)
    outcome = await bench({"kind": "noop", "result": result})
    assert outcome.failed is (says and terminates)
    if outcome.failed:
        assert outcome.error is not None
        assert (outcome.error.kind, outcome.error.retryable) == ("server_error", False)
    assert json.loads(bytes(outcome.data)) == result, "the data stays (TL-RES-04)"
    counted = b'noetl_worker_tool_result_error_total{tool_kind="noop"} 1.0'
    assert (counted in bench.observer.page()) is says


async def test_values_are_never_rendered_again(bench: Bench) -> None:
    """TL-SEC-02: an expression in data is text."""
    tool = {
        "kind": "python",
        "code": "result = [x, '{{ workload.evil }}']",
        "input": {"x": "{{ workload.evil }}"},
    }
    evil = "{{ 7 * 7 }}"
    assert await bench.data(tool, evil=evil) == [evil, evil]


async def test_code_is_rendered_once_and_its_blocks_are_text(bench: Bench) -> None:
    """TL-PY-16."""
    code = "a = {{ workload.n }}\nb = '{% if %}'\nresult = [a, b]"
    assert await bench.data({"kind": "python", "code": code}, n=3) == [3, "{% if %}"]


async def test_a_containers_arguments_are_its_own(bench: Bench) -> None:
    """TL-SPC-08, TL-SPC-09: never filled from the step's input."""
    tool = {
        "kind": "container",
        "image": "i",
        "command": ["/bin/echo", "a"],
        "input": {"b": 1},
    }
    assert (await bench.data(tool))["stdout"] == "a\n"
    tool["args"] = "{{ ['x y', 'z'] }}"
    assert (await bench.data(tool))["stdout"] == "a x y z\n"


SLOW = {"kind": "python", "code": "import time\ntime.sleep(30)"}


@pytest.mark.parametrize(
    ("own", "step", "seconds"), [(0.2, 9.0, "0.2"), (None, 0.3, "0.3")]
)
async def test_the_nearest_time_counts(
    bench: Bench, own: float | None, step: float, seconds: str
) -> None:
    """TL-LIM-01, TL-RES-05: tool, then step."""
    tool = {**SLOW, **({"timeout": own} if own else {})}
    outcome = await bench(tool, step)
    assert outcome.failed and outcome.error is not None
    assert outcome.error.message == f"Execution timed out after {seconds} seconds"
    assert (outcome.error.kind, outcome.error.retryable) == ("timeout", True)


async def test_the_workers_time_holds_where_nobody_names_one(tmp_path: Path) -> None:
    """TL-LIM-01: and it clamps http, whatever the step says."""
    bench = Bench(tmp_path)
    bench.limits = ToolLimits(data_dir=str(tmp_path), timeout_s=0.2)
    outcome = await bench(SLOW)
    assert outcome.error is not None
    assert outcome.error.message == "Execution timed out after 0.2 seconds"
    # No host answers there, so the connection is never made.
    outcome = await bench({"kind": "http", "url": "http://192.0.2.1/", "timeout": 30})
    assert outcome.error is not None
    assert outcome.error.kind in ("timeout", "connection")
    assert json.loads(bytes(outcome.helpers))["http"]["status"] == 0


@pytest.mark.parametrize("wrong", [0, -1, "soon", True])
async def test_a_time_that_is_none_is_refused(bench: Bench, wrong: Any) -> None:
    """TL-LIM-01."""
    outcome = await bench({**SLOW, "timeout": wrong})
    assert outcome.error is not None and outcome.error.kind == "configuration"
    assert "timeout must be a positive number of seconds" in outcome.error.message


async def test_a_failed_call_keeps_its_data(bench: Bench) -> None:
    """TL-RES-04, TL-OUT-02."""
    outcome = await bench({"kind": "shell", "cmd": "echo out; exit 3"})
    assert outcome.failed and outcome.error is not None
    assert (outcome.error.kind, outcome.error.code) == ("process", "EXIT_3")
    data = json.loads(bytes(outcome.data))
    assert (data["exit_code"], data["stdout"]) == (3, "out\n")


PG_SLOW = {"kind": "postgres", "host": "192.0.2.1", "query": "SELECT 1", "timeout": 0.2}


@pytest.mark.parametrize(
    ("tool", "name", "wanted"),
    [
        ({"kind": "postgres"}, "pg", {"code": None, "sqlstate": None}),
        (PG_SLOW, "pg", {"code": "57014", "sqlstate": "57014"}),
        ({"kind": "python"}, "py", {"exception": None, "traceback": None}),
        ({"kind": "http"}, "http", {"status": 0, "headers": {}}),
    ],
)
async def test_rules_find_a_kinds_helpers_however_it_failed(
    bench: Bench, tool: dict[str, Any], name: str, wanted: dict[str, Any]
) -> None:
    """TL-OUT-03, TL-OUT-04."""
    outcome = await bench(tool)
    assert outcome.failed
    assert json.loads(bytes(outcome.helpers))[name] == wanted


async def test_what_looks_like_a_secret_does_not_leave(bench: Bench) -> None:
    """TL-SCR-07: also in what was printed."""
    token = "ghp_" + "a1" * 18
    outcome = await bench({"kind": "shell", "cmd": f"echo {token}"})
    assert token not in encode_json(outcome).decode()


async def test_calls_are_counted_by_kind(bench: Bench) -> None:
    """TL-MET-01."""
    await bench({"kind": "noop"})
    await bench({"kind": "shell", "cmd": "exit 1"})
    page = bench.observer.page().decode()
    for line in (
        'noetl_worker_dispatch_duration_seconds_count{status="success",tool_kind="noop"} 1.0',
        'noetl_worker_dispatch_duration_seconds_count{status="error",tool_kind="shell"} 1.0',
        'noetl_worker_dispatch_errors_total{tool_kind="shell"} 1.0',
    ):
        assert line in page


class Extra(Tool):
    """A kind of another package."""

    kind: ClassVar[str] = "extra"

    def validate(self, config: dict[str, Any]) -> dict[str, Any]:
        return config

    async def run(self, config: dict[str, Any], call: CallContext) -> ToolResult:
        where = [call.execution_id, call.step, call.command_id, call.attempt, call.path]
        return ToolResult(data={"text": config["text"], "where": where})


class Point:
    """An entry point."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self) -> Any:
        return Extra


async def test_other_packages_add_kinds_and_replace_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TL-INT-01, TL-INT-02, TL-INT-03."""
    points = [Point("extra"), Point("noop")]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points)
    found = await bench.data({"kind": "extra", "text": "{{ workload.n }}"}, n=1)
    assert found == {"text": 1, "where": ["7", "s", "7.s.1.1", 1, "p"]}
    assert await bench.data({"kind": "noop"}) == {"status": "ok", "message": ""}
