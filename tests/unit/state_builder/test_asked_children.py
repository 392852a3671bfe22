"""Children that a running pipeline asks its owner for (PB-185)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.json import decode as decode_json

sys.path.insert(0, str(Path(__file__).parents[2]))

from stage import Stage

from noetl_worker.rehearsal.world import EXECUTION
from state_builder.records import ChildRequest, Event, Record, encode_json

PIPELINE = (
    "- {step: go, tool: [{name: a, kind: playbook, path: lib/c}, {kind: noop}]}\n"
)
COMMAND = f"{EXECUTION}.go.1.1"


def asking(answer: Any = None, **request: Any) -> Stage:
    """A pipeline under way that has asked for a child."""
    stage = Stage(
        {
            "workflow": PIPELINE,
            "children": {"lib/c": "- {step: start, tool: {kind: python, code: x}}\n"},
            "executor": {"spec": {"entry_step": "go"}},
            "answers": {"start": answer},
        }
    )
    stage.world.start()
    stage.world.settle()
    ask(stage, **request)
    return stage


def ask(stage: Stage, task: str = "k1", **request: Any) -> None:
    """What a worker appends."""
    wish = ChildRequest(**{"path": "lib/c", **request})
    event = Event(
        type="child.requested",
        command_id=COMMAND,
        task=task,
        context=Raw(encode_json(wish)),
    )
    stage.world.append([Record(execution_id=EXECUTION, events=[event])])
    stage.world.settle()


def run_child(stage: Stage) -> None:
    """The child's only command ends."""
    (ready,) = [one for one in stage.world.ready() if one[0] != EXECUTION]
    stage.finish(ready)
    stage.world.settle()


def answer_of(stage: Stage) -> Any:
    """The answer that waits for the worker, decoded."""
    (asked,) = stage.world.state().asked.values()
    return decode_json(asked.answer) if asked.answer else None


def test_the_child_starts_once_and_its_end_is_the_answer() -> None:
    """PB-185, PB-606: asked again under the same key, it is the same child."""
    stage = asking({"v": 3}, data=Raw(b'{"x":1}'))
    ask(stage)
    stage.world.crash()
    stage.world.settle()
    assert answer_of(stage) is None
    children = {eid for eid, _ in stage.world.events} - {EXECUTION}
    (child,) = children
    genesis = stage.world.state(child).genesis
    assert genesis is not None
    assert decode_json(genesis.workload) == {"x": 1}
    assert (genesis.depth, genesis.parent_execution_id) == (1, EXECUTION)
    run_child(stage)
    found = answer_of(stage)
    assert found["status"] == "success"
    assert found["context"]["data"] == {
        "v": 3,
        "result": {"v": 3},
        "status": "COMPLETED",
        "path": "lib/c",
        "execution_id": child,
    }
    assert stage.world.terminal is None


def test_a_pipeline_that_ends_forgets_what_it_asked_for() -> None:
    """A late answer changes nothing, and nothing is kept."""
    stage = asking(1)
    stage.world.report(EXECUTION, COMMAND, _outcome())
    stage.world.settle()
    assert stage.trace()[-1] == "completed"
    run_child(stage)
    assert stage.trace()[-1] == "completed"


def _outcome() -> Any:
    from state_builder.records import ToolOutcome

    return ToolOutcome(form="pipeline", data=Raw(b"{}"))


@pytest.mark.parametrize(
    ("request_", "status", "told"),
    [
        ({"path": "no/such"}, "error", "unknown playbook 'no/such'"),
        ({"waits": False}, "success", "started"),
        ({"version": 9}, "error", "unknown playbook"),
    ],
)
def test_what_is_answered_at_once(
    request_: dict[str, Any], status: str, told: str
) -> None:
    """PB-603, PB-604."""
    found = answer_of(asking(1, **request_))
    assert found["status"] == status
    assert told in str(found["context"])


def test_a_request_nobody_can_read_is_answered_with_the_reason() -> None:
    stage = asking(1)
    event = Event(
        type="child.requested",
        command_id=COMMAND,
        task="k2",
        context=Raw(b'{"path":1}'),
    )
    stage.world.append([Record(execution_id=EXECUTION, events=[event])])
    stage.world.settle()
    answer = stage.world.state().asked[f"{COMMAND}#k2"].answer
    assert b"the request cannot be read" in answer


def test_what_a_child_is_given_may_be_too_large_for_its_beginning() -> None:
    """RT-LIM-2: it is stored first, as it is for any other call."""
    text = "x" * 400_000
    stage = asking(1, data=Raw(encode_json({"text": text})))
    (child,) = {eid for eid, _ in stage.world.events} - {EXECUTION}
    genesis = stage.world.state(child).genesis
    assert genesis is not None and genesis.workload_ref
    assert any(text.encode() in value for value in stage.world.values.values())


def test_a_failed_child_is_a_failed_answer_or_a_tolerated_one() -> None:
    """PB-604, PB-605."""
    strict = asking({"fail": "exception"})
    run_child(strict)
    assert answer_of(strict)["context"]["error"]["kind"] == "child_failed"
    tolerant = asking({"fail": "exception"}, tolerant=True, result_step="start")
    run_child(tolerant)
    assert answer_of(tolerant)["context"]["data"]["status"] == "FAILED"


def test_calls_nested_too_deep_are_answered_by_name() -> None:
    """PB-610: as any other call."""
    stage = Stage(
        {
            "workflow": PIPELINE,
            "executor": {"spec": {"entry_step": "go"}},
            "limits": {"depth_max": 0},
            "children": {"lib/c": "- {step: start, tool: {kind: noop}}\n"},
        }
    )
    stage.world.start()
    stage.world.settle()
    ask(stage)
    assert "at most 0 levels are allowed" in str(answer_of(stage))


def test_cancelling_goes_down_to_a_child_that_was_asked_for() -> None:
    """PB-610, PB-646."""
    stage = asking(1)
    (child,) = {eid for eid, _ in stage.world.events} - {EXECUTION}
    request = Event(type="playbook.cancel_requested", status="PENDING")
    stage.world.append([Record(execution_id=EXECUTION, events=[request])])
    stage.world.settle()
    assert stage.trace(child)[-1] == "cancelled"


def test_facts_about_nothing_that_was_asked_for_are_ignored() -> None:
    """RT-EVT-4."""
    stage = asking(1)
    before = stage.world.state().ignored
    for kind, command in (
        ("child.requested", "x"),
        ("child.started", "x"),
        ("child.done", "x"),
    ):
        event = Event(type=kind, command_id=command, task="k")
        stage.world.append([Record(execution_id=EXECUTION, events=[event])])
    stage.world.settle()
    assert stage.world.state().ignored == before + 3


def test_a_failing_execution_still_starts_what_its_pipeline_waits_for() -> None:
    """PB-565: running commands are awaited, so they must be able to end."""
    stage = Stage(
        {
            "workflow": "- {step: start, tool: {kind: noop}, next: [go, bad]}\n"
            + PIPELINE
            + "- {step: bad, tool: {kind: python, code: x}}\n",
            "children": {"lib/c": "- {step: work, tool: {kind: python, code: x}}\n"},
            "child_executor": {"spec": {"entry_step": "work"}},
            "answers": {"bad": {"fail": "exception"}, "work": 5},
        }
    )
    stage.world.start()
    stage.world.settle()
    stage.finish(stage.world.ready()[0])
    stage.world.settle()
    stage.finish(next(one for one in stage.world.ready() if ".bad." in one[1]))
    stage.world.settle()
    ask(stage)
    run_child(stage)
    assert answer_of(stage)["context"]["data"]["result"] == 5
