"""Why an execution is not finished, said in words (RT-DRV-15)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from stage import Stage

from noetl_worker.rehearsal.world import EPOCH_S
from state_builder.arcs import Plan
from state_builder.records import Event, Record
from state_builder.state import State
from state_builder.waiting import COMMANDS_NAMED_MAX, Wait, last_decision, waits


def begun(workflow: str, **case: Any) -> Stage:
    """A case whose first pass is made."""
    stage = Stage({"workflow": workflow, **case})
    stage.world.start()
    stage.world.settle()
    return stage


def told(stage: Stage, after_s: float = 0.0, *, plan: bool = True) -> list[Wait]:
    """What it waits for."""
    known: Plan | None = stage.world.plans["1"] if plan else None
    return waits(stage.world.state(), known, EPOCH_S + after_s)


def say(stage: Stage, **event: Any) -> None:
    """A fact about the one open command."""
    eid, command_id = stage.world.ready()[0]
    step = stage.world.issued[command_id].step
    fact = Event(command_id=command_id, step=step, **event)
    stage.world.append([Record(execution_id=eid, events=[fact])])
    stage.world.settle()


NOOP = "- {step: start, tool: {kind: noop}}\n"
LOOP = "- {step: start, loop: {in: 60, iterator: x, spec: {mode: parallel}}, "
CURSOR = (
    "- {step: start, loop: {iterator: r, cursor: {claim: x}, spec: {mode: cursor}}, "
    "tool: {kind: noop}}\n"
)
FORK = (
    "- {step: start, tool: {kind: noop}, next: [a, b, c]}\n"
    "- {step: a, tool: {kind: noop}, next: z}\n"
    "- {step: b, tool: {kind: noop}, next: z}\n"
    "- {step: c, tool: {kind: noop}, next: z}\n"
    "- {step: z, tool: {kind: noop}}\n"
)


def test_a_command_nobody_runs_yet() -> None:
    (wait,) = told(begun(NOOP))
    assert wait.kind == "command"
    assert (
        wait.text
        == "step 'start': command 7421.start.1.1 was issued 0 ms ago to pool shared"
    )
    (wait,) = told(begun(NOOP), 90)
    assert "was issued 90.0 s ago and no worker of pool shared has said" in wait.text


def test_a_command_that_runs_and_one_that_was_lost() -> None:
    stage = begun(NOOP)
    say(stage, type="command.started", worker_id="w1", at="2026-01-01T00:00:01Z")
    (wait,) = told(stage, 7)
    assert "is running on worker w1 for 6.0 s (pool shared)" in wait.text
    say(stage, type="command.started", worker_id="w2", at="no time at all")
    (wait,) = told(stage, 7)
    assert (wait.worker, wait.starts) == ("w2", 2)
    assert "it was started 2 times, so workers were lost with it" in wait.text


def test_a_parked_command() -> None:
    stage = begun(NOOP)
    say(stage, type="command.completed", pending=True)
    (wait,) = told(stage)
    assert wait.kind == "callback"
    assert "a call-back from outside must end it" in wait.text


def test_a_child_its_timer_and_the_next_attempt() -> None:
    case = {
        "children": {"lib/c": "- {step: work, tool: {kind: python, code: x}}\n"},
        "child_executor": {"spec": {"entry_step": "work"}},
        "executor": {"spec": {"policy": {"limits": {"max_duration_s": 7200}}}},
        "answers": {"work": {"fail": "exception"}},
    }
    stage = begun(
        "- {step: start, tool: {kind: playbook, path: lib/c, timeout: 30, "
        "retry: {max_attempts: 2, retry_on: [child_failed], backoff: 60}}}\n",
        **case,
    )
    child, duration, timeout = told(stage, 10)
    assert child.kind == "child"
    assert child.text.startswith(
        f"step 'start' waits for its child execution {child.child}"
    )
    assert duration.text.startswith(
        "the execution: its time limit fires at 2026-01-01T02"
    )
    assert timeout.text.startswith("step 'start': the time its child has fires at")
    assert told(stage, 9999)[1].text.endswith("about to fire)")
    stage.finish(stage.world.ready()[0])
    stage.world.settle()
    _, repeat = told(stage)
    assert (repeat.kind, repeat.step) == ("timer", "start")
    assert "the next attempt fires at" in repeat.text


def test_a_loop_and_only_so_many_of_its_commands() -> None:
    stage = begun(LOOP + "tool: {kind: noop}}\n")
    loop, *commands, more = told(stage)
    assert loop.text == "loop 'start': 0 of 60 iterations done, 60 open"
    assert len(commands) == COMMANDS_NAMED_MAX
    assert "iteration 0" in commands[0].text
    assert more.text == "10 further open commands"


def test_a_loop_with_failures_and_a_cursor() -> None:
    stage = begun(
        LOOP + "spec: {on_error: continue}, tool: {kind: python, code: x}}\n",
        answers={"start": {"fail": "exception"}},
    )
    stage.finish(stage.world.ready()[0])
    stage.world.settle()
    assert "1 of 60 iterations done, 1 failed, 59 open" in told(stage)[0].text
    assert told(begun(CURSOR))[0].text == (
        "loop 'start': 0 rows in 0 frames claimed so far, 0 bodies done, "
        "1 claims and 0 frames open"
    )


def test_a_join_says_whom_it_waits_for() -> None:
    """PB-527: no event is written for waiting, so this is the only place to ask."""
    stage = begun(FORK)
    for _ in range(2):
        stage.finish(stage.world.ready()[0])
        stage.world.settle()
    join = told(stage)[-1]
    assert join.kind == "join"
    assert (join.arrived_from, join.blocked_by) == (("a",), ("b", "c"))
    assert join.text.endswith("'b', 'c' are under way and can still reach it")
    assert told(stage, plan=False)[-1].text.endswith(
        "other branches can still reach it"
    )
    stage.finish(stage.world.ready()[0])
    stage.world.settle()
    assert told(stage)[-1].text.endswith("'c' is under way and can still reach it")


def test_a_join_behind_a_failure_and_one_behind_itself() -> None:
    stage = begun(
        FORK.replace("b, tool: {kind: noop}", "b, tool: {kind: python, code: x}"),
        answers={"b": {"fail": "exception"}},
    )
    for _ in range(3):
        stage.finish(stage.world.ready()[0])
        stage.world.settle()
    assert told(stage)[-1].text.endswith("it will not be entered, 'b' failed")
    stage = begun(
        "- {step: start, tool: {kind: noop}, next: [a, b]}\n"
        "- {step: a, tool: {kind: noop}, next: [a, b]}\n"
        "- {step: b, tool: {kind: noop}}\n"
    )
    state = stage.world.state()
    state.step("start").tokens = list(state.step("start").tokens)
    stage.finish(stage.world.ready()[0])
    for message in stage.world.log[stage.world.index.position :]:
        stage.world.index.apply(message)
    (wait,) = told(stage)
    assert wait.text == "a result came in, a decision is about to follow"


def test_an_execution_that_has_not_begun_or_has_ended_or_is_asked_to() -> None:
    stage = Stage({"workflow": NOOP})
    stage.world.start()
    stage.world.index.apply(stage.world.log[0])
    assert told(stage)[0].text == "its first decision is about to be made"
    request = Event(type="playbook.cancel_requested")
    stage.world.append([Record(execution_id="7421", events=[request])])
    stage.world.index.apply(stage.world.log[1])
    assert told(stage)[0].text == "a cancel request is answered now"
    stage.world.settle()
    assert told(stage) == []


def test_a_state_that_waits_for_nothing_is_a_fault_and_says_so() -> None:
    state = State(execution_id="1")
    state.step("start").status = "completed"
    (wait,) = waits(state, None, 0)
    assert wait.kind == "nothing"


def test_a_token_for_a_step_that_runs_waits_for_its_pass() -> None:
    """PB-526."""
    stage = begun(
        "- {step: start, tool: {kind: noop}, next: [a, start]}\n"
        "- {step: a, tool: {kind: noop}}\n"
    )
    for _ in range(2):
        stage.finish(stage.world.ready()[-1 if "a" in stage.entered() else 0])
        stage.world.settle()
    assert told(stage)[-1].text.endswith("from 'start'; its own pass must end first")


def test_the_last_decision_is_told_with_what_led_to_it() -> None:
    """RT-OBS-1."""
    assert last_decision(State(execution_id="1")) is None
    stage = begun(FORK)
    issued = last_decision(stage.world.state())
    assert issued is not None
    assert issued.text == "command 7421.start.1.1 of step 'start' was issued"
    stage.finish(stage.world.ready()[0])
    stage.world.settle()
    newest = last_decision(stage.world.state())
    assert newest is not None
    assert newest.text == "command 7421.c.1.1 of step 'c' was issued"
    assert newest.cause
    state = stage.world.state()
    state.commands.clear()
    entered = last_decision(state)
    assert entered is not None
    assert entered.text == "step 'c' was entered (visit 1), coming from 'start'"
    for name in ("a", "b", "c"):
        state.step(name).active = None
    left = last_decision(state)
    assert left is not None
    assert left.text == "step 'start' completed (visit 1)"
    looped = begun(LOOP + "tool: {kind: noop}}\n")
    looped.finish(looped.world.ready()[0])
    looped.world.settle()
    decision = last_decision(looped.world.state())
    assert decision is not None
    assert decision.cause
