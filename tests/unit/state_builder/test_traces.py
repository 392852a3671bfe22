"""The table of traces: what the drive does, event by event, as data (PB Appendix C)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).parents[2]))

from world import Ask, ToolFailed, World

TRACES = sorted((Path(__file__).parents[2] / "traces").glob("*.yaml"))


def cases() -> list[Any]:
    """Every entry of every trace file."""
    found = []
    for path in TRACES:
        for case in YAML(typ="safe").load(path.read_text()):
            name = f"{path.stem}: {case['name']} ({case['rules']})"
            found.append(pytest.param(case, id=name))
    return found


def document(
    workflow: str, path: str, executor: Any = None, workload: Any = None
) -> str:
    """A playbook around a workflow."""
    head = {
        "apiVersion": "noetl.io/v2",
        "kind": "Playbook",
        "metadata": {"name": path, "path": path},
        "workload": workload or {},
        "executor": executor or {},
    }
    indented = "\n".join("  " + line for line in workflow.splitlines())
    body = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    return f"{body}\nworkflow:\n{indented}\n"


def answer(spec: Any) -> Any:
    """A scripted tool from its YAML."""

    def give(ask: Ask) -> Any:
        chosen = spec
        if chosen == "iteration":
            return ask.iteration
        if isinstance(chosen, dict) and "claims" in chosen:
            return claim(chosen["claims"], ask)
        if isinstance(chosen, dict) and "runs" in chosen:
            runs = chosen["runs"]
            chosen = runs[min(ask.run, len(runs)) - 1]
        if isinstance(chosen, dict) and "fail" in chosen:
            message = chosen.get("message", "boom")
            raise ToolFailed(chosen["fail"], message, chosen.get("data"))
        return chosen

    return give


def claim(claims: list[Any], ask: Ask) -> Any:
    """Rows of the n-th claim; bodies give nothing."""
    if "r" in ask.iteration:
        return {"status": "ok"}
    number = int(ask.iteration[1:])
    return {"rows": claims[number] if number < len(claims) else []}


def chooser(order: Any) -> Any:
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


def world_of(case: dict[str, Any]) -> World:
    """The world of one entry."""
    return World(
        document(case["workflow"], "main", case.get("executor"), case.get("workload")),
        answers={step: answer(spec) for step, spec in case.get("answers", {}).items()},
        children={
            path: document(text, path, case.get("child_executor"))
            for path, text in case.get("children", {}).items()
        },
    )


def assert_trace(found: list[str], wanted: list[str]) -> None:
    """Equal line by line; a wanted line may end in an ellipsis."""
    for one, other in zip(found, wanted, strict=False):
        if other.endswith("…"):
            assert one.startswith(other[:-1])
        else:
            assert one == other, f"{found}"
    assert len(found) == len(wanted), found


@pytest.mark.parametrize("case", cases())
def test_trace(case: dict[str, Any]) -> None:
    """What the drive writes, in order, is what the table says."""
    world = world_of(case)
    world.run(chooser(case.get("order")))
    assert_trace(world.trace(), case["trace"])
    if "result" in case:
        assert world.result == case["result"]


@pytest.mark.parametrize("case", cases())
def test_crash_before_every_decision_changes_nothing(case: dict[str, Any]) -> None:
    """RT-DRV-8, RT-IDX-3: an owner that forgets all before each pass decides the same."""
    calm = world_of(case)
    calm.run(chooser(case.get("order")))
    shaken = world_of(case)
    choose = chooser(case.get("order"))
    shaken.start()
    shaken.settle()
    while ready := shaken.open_commands():
        shaken.finish(*choose(ready), twice=True)
        shaken.crash()
        shaken.settle()
    ignore = ("CC", "CF")
    assert [one for one in shaken.trace() if not one.startswith(ignore)] == [
        one for one in calm.trace() if not one.startswith(ignore)
    ]
