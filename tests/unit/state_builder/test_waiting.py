"""Every open execution waits for something that can be named (RT-DRV-15)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from world import EXECUTION, World

from state_builder.records import Event, Record, ToolOutcome
from state_builder.report import started_event
from state_builder.wait import span
from state_builder.waiting import COMMANDS_NAMED_MAX, last_decision, waits

HEAD = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: w, path: tests/w}
workflow:
"""
FAN = """\
  - step: start
    tool: {kind: noop}
    next:
      spec: {mode: inclusive}
      arcs: [{step: left}, {step: right}]
  - {step: left, tool: {kind: noop}, next: [{step: join}]}
  - {step: right, spec: {pool: gpu}, tool: {kind: noop}, next: [{step: join}]}
  - {step: join, tool: {kind: noop}}
"""
LOOP = """\
  - step: start
    loop: {in: "{{ range(200) | list }}", iterator: i, spec: {mode: parallel}}
    tool: {kind: noop}
"""
CHILD = """\
  - {step: start, tool: {kind: playbook, path: tests/c}}
"""
ONE = """\
  - {step: start, tool: {kind: noop}}
"""


def begun(steps: str, **more: Any) -> World:
    world = World(HEAD + steps, **more)
    world.start()
    world.settle()
    return world


def told(world: World, later_s: float = 0.0) -> list[Any]:
    return waits(world.state(), world.plans["1"], world.now + later_s)


def test_a_join_names_who_arrived_and_who_is_missing() -> None:
    world = begun(FAN)
    world.finish(*world.ready()[0])
    world.settle()
    world.finish(*next(one for one in world.ready() if ".left." in one[1]))
    world.settle()
    [command, join] = told(world)
    assert (command.kind, command.pool) == ("command", "gpu")
    assert join.kind == "join"
    assert join.arrived_from == ("left",)
    assert join.blocked_by == ("right",)
    decision = last_decision(world.state())
    assert decision is not None
    assert decision.step == "left"
    assert decision.cause, "it names the event it answered"


@pytest.mark.parametrize(
    ("later_s", "starts", "says"),
    [
        (0.5, 0, "was issued"),
        (60.0, 0, "no worker of pool shared has said that it runs"),
        (60.0, 1, "is running on worker w1"),
        (60.0, 3, "started 3 times, so workers were lost"),
    ],
)
def test_a_command_says_where_it_is(later_s: float, starts: int, says: str) -> None:
    world = begun(ONE)
    [(_, command_id)] = world.ready()
    for number in range(starts):
        started = started_event(world.issued[command_id], "", "w1", number)
        world.append([Record(execution_id=EXECUTION, events=[started])])
    world.settle()
    [wait] = told(world, later_s)
    assert (wait.command_id, wait.starts) == (command_id, starts)
    assert says in wait.text


def test_a_wide_loop_is_a_summary_and_some_of_its_commands() -> None:
    world = begun(LOOP)
    found = told(world)
    assert found[0].kind == "loop"
    assert "0 of 200 iterations done" in found[0].text
    assert len(found) == COMMANDS_NAMED_MAX + 2
    assert found[-1].text == "150 further open commands"


def test_a_call_waits_for_its_child_and_the_child_for_a_worker() -> None:
    world = begun(CHILD, children={"tests/c": HEAD + ONE})
    [child] = [wait for wait in told(world) if wait.kind == "child"]
    assert world.state(child.child).execution_id == child.child
    assert "waits for its child execution" in child.text


def test_a_parked_step_and_its_timer_are_told() -> None:
    world = begun(ONE)
    [(_, command_id)] = world.ready()
    issued = world.issued[command_id]
    parked = Event(
        type="command.completed",
        at=issued.at,
        step="start",
        status="PENDING",
        command_id=command_id,
        pending=True,
    )
    timer = Event(type="timer.set", at=issued.at, timer="duration", due=world.now + 90)
    world.append([Record(execution_id=EXECUTION, events=[parked, timer])])
    world.settle()
    assert [wait.kind for wait in told(world)] == ["callback", "timer"]
    assert "(in 90.0 s)" in told(world)[1].text or "(in 89." in told(world)[1].text


def test_what_ended_waits_for_nothing() -> None:
    world = begun(ONE)
    world.report(*world.ready()[0], ToolOutcome(data=Raw(b"1")))
    world.settle()
    assert told(world) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1.0, "0 ms"),
        (0.25, "250 ms"),
        (119.94, "119.9 s"),
        (150.0, "2 min"),
        (7260.0, "2 h 01 min"),
        (400_000.0, "4 days"),
    ],
)
def test_spans_are_told_in_words(seconds: float, words: str) -> None:
    assert span(seconds) == words
