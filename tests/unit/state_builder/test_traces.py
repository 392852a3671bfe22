"""The table of traces: what happens, event by event, as data (PB Appendix C).

A case may tell the whole ``trace``, lines that ``holds`` and that it ``lacks``, the
``result``, the variables at the end (``vars``), the steps ``entered``, the tools that
ran (``runs``), what the first run of a tool ``asked``, and the ``waited`` seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).parents[2]))

from stage import Choose, Stage

from noetl_worker.rehearsal.world import EPOCH_S, World

TRACES = sorted((Path(__file__).parents[2] / "traces").glob("*.yaml"))


def cases() -> list[Any]:
    """Every entry of every trace file."""
    found = []
    for path in TRACES:
        for case in YAML(typ="safe").load(path.read_text()):
            name = f"{path.stem}: {case['name']} ({case['rules']})"
            found.append(pytest.param(case, id=name))
    return found


def chooser(order: Any) -> Choose:
    """Which ready command finishes next: first, last, or iterations by list."""
    if order == "last":
        return lambda ready: ready[-1]
    if isinstance(order, list):
        queue = [str(index) for index in order]

        def pick(ready: list[Any]) -> Any:
            for wanted in list(queue):
                for one in ready:
                    if one[1].split(".")[-2] == wanted:
                        queue.remove(wanted)
                        return one
            return ready[0]

        return pick
    return lambda ready: ready[0]


def assert_trace(found: list[str], wanted: list[str]) -> None:
    """Equal line by line; a wanted line may end in an ellipsis."""
    for one, other in zip(found, wanted, strict=False):
        if other.endswith("…"):
            assert one.startswith(other[:-1]), found
        else:
            assert one == other, f"{found}"
    assert len(found) == len(wanted), found


EXPECTED = {
    *("trace", "holds", "lacks", "result", "vars", "entered", "waited"),
    *("runs", "asked"),
}
KNOWN = EXPECTED | {
    *("name", "rules", "workflow", "workload", "request", "executor", "root"),
    *("children", "child_executor", "child_root", "answers", "limits"),
    *("order", "hold"),
}


@pytest.mark.parametrize("case", cases())
def test_trace(case: dict[str, Any]) -> None:
    """What the drive writes, in order, is what the table says."""
    assert not case.keys() - KNOWN
    assert case.keys() & EXPECTED, "a case that expects nothing"
    stage = Stage(case)
    stage.run(chooser(case.get("order")))
    if "trace" in case:
        assert_trace(stage.trace(), case["trace"])
    for line in case.get("holds", []):
        assert any(one.startswith(line) for one in stage.trace()), stage.trace()
    for line in case.get("lacks", []):
        assert not any(one.startswith(line) for one in stage.trace()), stage.trace()
    if "result" in case:
        assert stage.result == case["result"]
    if "entered" in case:
        assert stage.entered() == case["entered"]
    if "waited" in case:
        assert stage.world.now - EPOCH_S == pytest.approx(case["waited"], abs=0.2)
    if "runs" in case:
        assert [name for name, _ in stage.asked()] == case["runs"]
    for name, wanted in case.get("asked", {}).items():
        found = [config for one, config in stage.asked() if one == name]
        got = [{key: one.get(key) for key in wanted} for one in found[:1]]
        assert got == [wanted], found
    variables = stage.world.state().ctx
    for name, value in case.get("vars", {}).items():
        assert variables.get(name, "(not set)") == value, variables


@pytest.mark.slow
@pytest.mark.parametrize("case", cases())
def test_crash_before_every_decision_changes_nothing(case: dict[str, Any]) -> None:
    """RT-DRV-8, RT-IDX-3, PB-502: an owner that forgets all decides the same."""
    calm, shaken = Stage(case), Stage(case)
    calm.run(chooser(case.get("order")))
    shaken.run(chooser(case.get("order")), between=World.crash, times=2)
    ignore = ("CC", "CF")
    assert [one for one in shaken.trace() if not one.startswith(ignore)] == [
        one for one in calm.trace() if not one.startswith(ignore)
    ]
