"""What the drive does at its bounds: passes that are full, states that are damaged."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

sys.path.insert(0, str(Path(__file__).parents[2]))

from stage import Stage

from noetl_worker.rehearsal.world import EXECUTION
from state_builder.arcs import Plan
from state_builder.binding import needs_of
from state_builder.drive import DriveLimits, Turn, decide
from state_builder.drive.decision import Draft, _Layer
from state_builder.drive.names import Lazy, Results
from state_builder.playbook import load
from state_builder.records import ChildRequest, Event, Record, encode_json
from state_builder.state import State, fold

LOOP = "- {step: start, loop: {in: [1, 2], iterator: i}, tool: {kind: noop}}\n"


def begun(case: dict[str, Any]) -> Stage:
    stage = Stage(case)
    stage.world.start()
    stage.world.settle()
    return stage


def look(stage: Stage, **more: Any) -> Any:
    """One decision on the execution as it stands."""
    state = stage.world.state()
    plan = stage.world.plans["1"]
    return decide(Turn(plan=plan, state=state, now=stage.world.now, at="", **more))


def test_nothing_is_decided_of_an_execution_that_has_ended() -> None:
    """RT-DRV-16: whoever asks."""
    stage = Stage({"workflow": "- {step: start, tool: {kind: noop}}\n"})
    stage.run()
    assert stage.world.state().terminal == "COMPLETED"
    assert look(stage) is None


def test_a_loop_issues_nothing_while_the_log_is_nearly_full() -> None:
    """Design §4: owners open no new windows, and go on when there is room again."""
    stage = Stage({"workflow": LOOP})
    stage.world.start()
    for message in stage.world.log:
        stage.world.index.apply(message)
    held = look(stage, hold_loops=True)
    assert [event.type for event in held.events] == ["step.enter"]
    assert held.commands == []
    assert len(look(stage).commands) == 1


def test_an_execution_that_cannot_be_read_ends_with_the_reason() -> None:
    """RT-NATS-46: and what comes after changes nothing but its end."""
    stage = begun({"workflow": LOOP})
    wrong = Event(type="ctx.updated", context=Raw(b"[]"))
    late = Event(type="step.exit", step="start", visit=1, status="COMPLETED")
    stage.world.append([Record(execution_id=EXECUTION, events=[wrong, late])])
    stage.world.settle()
    terminal = stage.world.terminal
    assert terminal is not None and terminal.code == "damaged"
    assert "(ctx.updated) cannot be read" in terminal.error
    assert stage.world.state().terminal == "FAILED"


def test_a_report_that_outlives_its_pass_changes_nothing() -> None:
    """PB-507, RT-EVT-4."""
    state = State(execution_id="1")
    genesis = Raw(encode_json({"catalog_id": "1", "path": "p", "version": 1}))
    told = [
        fold(state, event, number)
        for number, event in enumerate(
            [
                Event(type="playbook_started", context=genesis),
                Event(type="step.enter", step="a", visit=1),
                Event(type="command.issued", step="a", visit=1, command_id="c"),
                Event(type="step.exit", step="a", visit=1, status="COMPLETED"),
                Event(type="command.completed", command_id="c"),
            ],
            1,
        )
    ]
    assert told == ["", "", "", "", "not_open"]
    assert state.commands == {}


PIPELINE = (
    "- {step: go, tool: [{name: a, kind: playbook, path: lib/c}, {kind: noop}]}\n"
)


def test_children_asked_for_together_are_started_over_several_passes() -> None:
    """RT-DRV-6, PB-185; a playbook that is not known is looked up once."""
    stage = begun(
        {
            "workflow": PIPELINE,
            "children": {"lib/c": "- {step: start, tool: {kind: noop}}\n"},
            "executor": {"spec": {"entry_step": "go"}},
            "limits": {"events_max": 3},
        }
    )
    command = f"{EXECUTION}.go.1.1"
    events = [
        Event(
            type="child.requested",
            command_id=command,
            task=f"k{number}",
            context=Raw(encode_json(ChildRequest(path="lib/c"))),
        )
        for number in range(5)
    ]
    stage.world.append([Record(execution_id=EXECUTION, events=events)])
    for message in stage.world.log[stage.world.index.position :]:
        stage.world.index.apply(message)
    assert len(look(stage, limits=DriveLimits()).needs) == 1
    stage.world.settle()
    asked = stage.world.state().asked.values()
    assert len({one.child for one in asked}) == 5


def test_a_child_may_read_all_of_a_large_request() -> None:
    """PB-462, RT-LIM-2: ``payload`` is fetched where a condition reads it."""
    arcs = "{arcs: [{step: end, when: '{{ payload.text | length > 9 }}'}]}"
    stage = Stage(
        {
            "workflow": "- {step: start, tool: {kind: playbook, path: lib/c, "
            "input: {text: '{{ workload.text }}'}}}\n",
            "workload": {"text": "x" * 400_000},
            "children": {
                "lib/c": f"- {{step: start, tool: {{kind: noop}}, next: {arcs}}}\n"
                "- {step: end, tool: {kind: noop, result: seen}}\n"
            },
        }
    )
    stage.run()
    assert stage.result["result"] == "seen"


@pytest.mark.parametrize(
    ("tool", "everything", "workload"),
    [
        ("{kind: python, code: 'result = {{ ctx }}'}", True, frozenset()),
        ("{kind: python, code: 'result = {{ steps[name] }}'}", True, frozenset()),
        ("{kind: shell, cmds: ['{{ workload }}']}", False, None),
        ("{kind: shell, cmds: ['{{ workload.a }}']}", False, frozenset({"a"})),
    ],
)
def test_what_a_text_reads_is_told_by_its_paths(
    tool: str, everything: bool, workload: frozenset[str] | None
) -> None:
    """PB-346."""
    text = Stage({"workflow": f"- {{step: start, tool: {tool}}}\n"}).text
    needs = needs_of(Plan(load(text)).playbook.steps["start"])
    assert (needs.everything, needs.workload) == (everything, workload)


def test_a_drafts_mapping_is_a_mapping() -> None:
    """What a decision changes is seen by it, and by nothing else (PB-502)."""
    chance = random.Random(7)
    for _ in range(200):
        base = {name: chance.random() for name in chance.sample("abcde", 3)}
        before, layer, twin = dict(base), _Layer(base), dict(base)
        for _ in range(12):
            name = chance.choice("abcdef")
            if chance.random() < 0.5:
                layer[name] = twin[name] = chance.random()
            else:
                assert layer.pop(name) == twin.pop(name, None)
            assert layer.get(name) == twin.get(name)
            assert (name in layer) == (name in twin)
            assert (len(layer), set(layer.names())) == (len(twin), set(twin))
            if name not in twin:
                with pytest.raises(KeyError):
                    layer[name]
        assert base == before


def test_a_claim_that_was_lost_is_issued_again() -> None:
    """RT-NATS-44: of a cursor loop, too, with the number of its frame."""
    cursor = "{iterator: r, cursor: {claim: q}, spec: {mode: cursor}}"
    stage = begun(
        {"workflow": f"- {{step: start, loop: {cursor}, tool: {{kind: noop}}}}"}
    )
    lost = Event(
        type="command.failed",
        command_id=f"{EXECUTION}.start.1.f0.1",
        code="lost",
        due=stage.world.now + 9,
    )
    stage.world.append([Record(execution_id=EXECUTION, events=[lost])])
    stage.world.settle()
    assert stage.world.ready() == []
    stage.world.pass_time(10)
    stage.world.settle()
    assert stage.world.ready() == [(EXECUTION, f"{EXECUTION}.start.1.f0.2")]


def test_a_step_that_gave_nothing_has_no_name() -> None:
    """PB-453."""
    stage = begun({"workflow": LOOP})
    draft = Draft(
        Turn(plan=stage.world.plans["1"], state=stage.world.state(), now=0, at="")
    )
    results = Results(draft, {})
    assert "start" not in results and len(results) == 0
    with pytest.raises(KeyError):
        results["start"]


def test_names_are_made_when_they_are_read() -> None:
    lazy = Lazy(lambda: {"a": lambda: 1, "b": lambda: 1 // 0})
    assert (list(lazy), len(lazy), "a" in lazy, lazy["a"]) == (["a", "b"], 2, True, 1)
