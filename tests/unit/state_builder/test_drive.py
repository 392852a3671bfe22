"""What the drive answers to requests, limits and reports, beyond the trace tables."""

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
from state_builder.arcs import Plan, next_to_enter
from state_builder.drive import Turn, decide
from state_builder.playbook import load
from state_builder.records import Event, Record, encode_json
from state_builder.state import Delivered, Exited, State, apply, fold

CHILD = {"children": {"lib/c": "- {step: start, tool: {kind: python, code: x}}\n"}}
CALL = "- {step: go, tool: {kind: playbook, path: lib/c}}\n"
ENTRY = {"executor": {"spec": {"entry_step": "go"}}}


def stage_of(workflow: str, **case: Any) -> Stage:
    """A case that has begun: its first pass is made."""
    stage = Stage({"workflow": workflow, **case})
    stage.world.start()
    stage.world.settle()
    return stage


def say(stage: Stage, event: Event, execution_id: str = EXECUTION) -> None:
    """Append a fact and let the owner look."""
    stage.world.append([Record(execution_id=execution_id, events=[event])])
    stage.world.settle()


def only_command(stage: Stage) -> Event:
    """The one command that is open."""
    (ready,) = stage.world.ready()
    return stage.world.issued[ready[1]]


def context(event: Event) -> Any:
    """Its context, decoded."""
    return decode_json(event.context)


CANCEL = Event(type="playbook.cancel_requested", status="PENDING", error="enough")


def test_a_cancelled_execution_ends_at_once_and_late_reports_change_nothing() -> None:
    """PB-646, RT-DRV-17: no set, no arcs, nothing issued after playbook_cancelled."""
    stage = stage_of(
        "- {step: start, tool: {kind: noop}, set: {a: 1}, next: b}\n"
        "- {step: b, tool: {kind: noop}}\n"
    )
    command = stage.world.ready()[0]
    say(stage, CANCEL)
    terminal = stage.world.terminal
    assert terminal is not None
    assert (terminal.type, terminal.status) == ("playbook_cancelled", "CANCELLED")
    assert decode_json(terminal.meta) == {"reason": "enough"}
    stage.finish(command)
    stage.world.settle()
    assert stage.trace() == ["enter start", "CI start", "cancelled", "CC start"]
    assert stage.variables == {}


def test_a_second_request_is_ignored() -> None:
    """RT-DRV-17: one request, one terminal."""
    stage = stage_of("- {step: start, tool: {kind: noop}}\n")
    record = Record(execution_id=EXECUTION, events=[CANCEL, CANCEL])
    stage.world.append([record])
    stage.world.settle()
    assert stage.trace().count("cancelled") == 1


@pytest.mark.parametrize(
    ("status", "reason", "error", "meta"),
    [
        ("COMPLETED", "", "", {"operator": True}),
        ("COMPLETED", "ok", "", {"reason": "ok", "operator": True}),
        ("FAILED", "", "finalized by an operator", {"operator": True}),
        ("FAILED", "no", "no", {"reason": "no", "operator": True}),
    ],
)
def test_an_operator_may_finalize(
    status: str, reason: str, error: str, meta: Any
) -> None:
    """RT-DRV-17, RT-EXN-7: the operator's word is the terminal."""
    stage = stage_of("- {step: start, tool: {kind: noop}}\n")
    kind = "playbook.finalize_requested"
    say(stage, Event(type=kind, status=status, error=reason))
    terminal = stage.world.terminal
    assert terminal is not None
    assert (terminal.status, terminal.error) == (status, error)
    assert decode_json(terminal.meta) == meta


def test_cancelling_goes_down_to_the_children_that_are_waited_for() -> None:
    """PB-610, TL-PB-07: and the child's end changes nothing in the parent."""
    stage = stage_of(CALL, **CHILD, **ENTRY)
    (child,) = [eid for eid, _ in stage.world.events if eid != EXECUTION][:1]
    say(stage, CANCEL)
    stage.world.settle()
    assert stage.trace(child)[-1] == "cancelled"
    assert stage.trace()[-1] == "cancelled"


def test_a_childs_end_never_cancels_its_parent() -> None:
    """PB-610, PB-604: a cancelled child is a failed call."""
    stage = stage_of(CALL, **CHILD, **ENTRY)
    (child,) = {eid for eid, _ in stage.world.events} - {EXECUTION}
    say(stage, CANCEL, child)
    assert stage.trace()[-1].startswith(
        f"failed Failed steps: go: child playbook lib/c ({child}): CANCELLED"
    )


def test_losing_a_worker_is_no_failure_until_the_owner_says_poison() -> None:
    """PB-569, RT-NATS-44: then it is a step failure like any other."""
    stage = stage_of(
        "- {step: start, tool: {kind: noop}, next: {arcs: "
        "[{step: mend, when: \"{{ error.kind == 'poison' }}\"}]}}\n"
        "- {step: mend, tool: {kind: noop}}\n"
    )
    issued = only_command(stage)
    about = {"step": "start", "command_id": issued.command_id}
    for number in range(3):
        say(stage, Event(type="command.started", worker_id=f"w{number}", **about))
    command = stage.world.state().commands[issued.command_id]
    assert (command.starts, command.worker) == (3, "w2")
    say(stage, Event(type="command.failed", code="poison", error="5 times", **about))
    assert stage.entered() == ["start", "mend"]


def test_a_second_report_and_a_report_of_an_earlier_visit_change_nothing() -> None:
    """PB-507, RT-EVT-4: they are counted as ignored."""
    stage = stage_of("- {step: start, tool: {kind: noop}, next: start}\n")
    first = stage.world.ready()[0]
    stage.finish(first, times=2)
    stage.world.settle()
    before = stage.world.state().ignored
    stage.finish(first)
    stage.world.settle()
    assert stage.entered() == ["start", "start"]
    assert stage.world.state().ignored == before + 3


def test_a_parked_command_is_ended_from_outside() -> None:
    """PB-560, RT-DRV-19: a call-back, also one that overtakes the parking report."""
    for early in (False, True):
        stage = stage_of(
            "- {step: start, tool: {kind: noop}, set: {v: '{{ start.v }}'}}\n"
        )
        about = {
            "step": "start",
            "command_id": only_command(stage).command_id,
        }
        envelope = {"status": "success", "context": {"data": {"v": 4}}}
        back = Event(type="call.done", result=Raw(encode_json(envelope)), **about)
        park = Event(type="command.completed", status="pending", pending=True, **about)
        for event in (back, park) if early else (park, park, back):
            assert stage.world.terminal is None
            say(stage, event)
        assert stage.variables == {"v": 4}


def test_a_call_back_that_reports_failure_fails_the_step() -> None:
    """PB-560: with or without an error object."""
    stage = stage_of("- {step: start, tool: {kind: noop}}\n")
    about = {"step": "start", "command_id": only_command(stage).command_id}
    say(stage, Event(type="command.completed", pending=True, **about))
    say(stage, Event(type="call.done", status="FAILED", error="no", **about))
    assert stage.trace()[-1] == "failed Failed steps: start: no"


def test_a_completion_whose_status_says_failed_is_a_failure() -> None:
    """RT-EVT-6: older workers report so."""
    stage = stage_of("- {step: start, tool: {kind: noop}}\n")
    about = {"step": "start", "command_id": only_command(stage).command_id}
    say(stage, Event(type="command.completed", status="failed", code="io", **about))
    assert stage.trace()[-1] == "failed Failed steps: start: the command failed"


def test_a_command_carries_only_the_values_its_texts_name() -> None:
    """PB-346: for a.b the value a, for ctx.x the variable x, nothing else."""
    stage = stage_of(
        """
- {step: start, tool: {kind: noop, result: {v: 1}}, set: {x: 1, unread: 2}, next: b}
- step: b
  input: {i: "{{ start.v }}"}
  tool: {kind: noop, result: "{{ ctx.x }}{{ workload.w }}{{ k }}{{ ctx.fromload }}
    {{ ctx.start.v }}{{ iter.q }}{{ output.a }}{{ event.name }}{{ path }}{{ nobody }}"}
""",
        workload={"w": 1, "k": 2, "other": 3, "fromload": 4},
    )
    stage.finish(stage.world.ready()[0])
    stage.world.settle()
    names = context(only_command(stage))["render_context"]
    assert names == {
        "ctx": {"x": 1},
        "steps": {"start": {"form": "plain", "value": {"v": 1}}},
        "workload": {"w": 1, "k": 2, "fromload": 4},
        "event": {"name": "call.done", "type": "call.done"},
        "weak": {"path": "main"},
    }


@pytest.mark.parametrize(
    "tool",
    [
        "{kind: noop, result: '{{ ctx }}'}",
        "{kind: noop, result: '{{ steps[workload.w] }}'}",
        "{kind: noop, result: '{{ broken ( }}'}",
        "{kind: python, code: 'result = context'}",
        "{kind: python, code: 'result = variables'}",
    ],
)
def test_a_command_whose_names_cannot_be_told_carries_them_all(tool: str) -> None:
    """PB-346: full context."""
    stage = stage_of(
        "- {step: start, tool: {kind: noop, result: 3}, set: {x: 1}, next: b}\n"
        f"- {{step: b, tool: {tool}}}\n",
        workload={"w": 1},
    )
    stage.finish(stage.world.ready()[0])
    stage.world.settle()
    names = context(only_command(stage))["render_context"]
    assert names["ctx"] == {"x": 1}
    assert names["steps"]["start"]["value"] == 3
    assert names["workload"] == {"w": 1}
    assert names["weak"]["job"]["id"] == EXECUTION


def test_python_code_that_reads_the_workload_gets_all_of_it() -> None:
    """PB-346, TL-PY-04."""
    stage = stage_of(
        "- {step: start, tool: {kind: python, code: 'result = workload'}}\n",
        workload={"w": 1, "v": 2},
    )
    names = context(only_command(stage))["render_context"]
    assert names["workload"] == {"w": 1, "v": 2}


def test_a_step_without_a_match_says_so_unless_it_is_quiet() -> None:
    """PB-320: the log tells it; neither word changes the run."""
    for word, unmatched in (("complete", True), ("quiet", False)):
        stage = stage_of(
            "- {step: start, tool: {kind: noop}, next: {spec: {on_no_match: "
            f"{word}}}, arcs: [{{step: start, when: false}}]}}}}\n"
        )
        stage.finish(stage.world.ready()[0])
        stage.world.settle()
        (left,) = [e for _, e in stage.world.events if e.type == "step.exit"]
        assert context(left).get("unmatched", False) is unmatched
        assert stage.trace()[-1] == "completed"


def test_an_event_of_a_pass_never_names_an_id_that_is_not_in_the_log() -> None:
    """PB-205, RT-EVT-20: an empty loop's exit is caused by what led to its entry."""
    stage = stage_of(
        "- {step: start, loop: {in: [], iterator: x}, tool: {kind: noop}, "
        "set: {a: 1}}\n"
    )
    caused = [int(e.cause) for _, e in stage.world.events if e.cause]
    assert caused
    assert all(cause < 1 << 53 for cause in caused)


def test_meta_of_a_command_tells_path_catalog_id_and_trace() -> None:
    """RT-NATS-50."""
    stage = stage_of("- {step: start, tool: {kind: noop}}\n")
    meta = decode_json(only_command(stage).meta)
    assert meta == {"path": "main", "catalog_id": "1"}


def test_nothing_is_decided_before_the_genesis_or_after_the_terminal() -> None:
    """RT-DRV-16."""
    plan = Plan(load(Stage({"workflow": "- {step: start, tool: {kind: noop}}"}).text))
    state = State(execution_id="1")
    assert decide(Turn(plan=plan, state=state, now=0, at="")) is None


def test_when_all_tokens_are_blocked_the_oldest_enters() -> None:
    """PB-525: a safety net no playbook reaches, so this graph is doctored."""
    text = Stage(
        {
            "workflow": "- {step: start, tool: {kind: noop}, next: [a, b]}\n"
            "- {step: a, tool: {kind: noop}, next: b}\n"
            "- {step: b, tool: {kind: noop}, next: a}\n"
        }
    ).text
    plan, state = Plan(load(text)), State(execution_id="1")
    plan.reach = {**plan.reach, "a": plan.bits["b"] | plan.bits["start"]}
    plan.reach["start"] = plan.bits["a"]
    exited = Exited(arcs=[Delivered(step="b"), Delivered(step="a")])
    state.step("start")
    skip = Event(type="step.skipped", step="start", context=Raw(encode_json(exited)))
    apply(state, skip, 7)
    assert next_to_enter(plan, state) == "a"


def test_events_out_of_turn_change_nothing() -> None:
    """RT-EVT-3, RT-EVT-4: repeated, orphaned, about no open step or command."""
    state = State(execution_id="1")
    assert fold(state, Event(type="step.exit", step="a", visit=1), 5) == "orphan"
    genesis = Raw(encode_json({"catalog_id": "1", "path": "p", "version": 1}))
    assert fold(state, Event(type="playbook_started", context=genesis), 6) == ""
    assert fold(state, Event(type="playbook_started", context=genesis), 6) == "repeated"
    for event in (
        Event(type="step.exit", step="a", visit=1),
        Event(type="command.issued", step="a", visit=1, command_id="c"),
        Event(type="command.started", command_id="c"),
        Event(type="call.done", command_id="c"),
        Event(type="command.completed", command_id="c"),
        Event(type="command.failed", command_id="c"),
        Event(type="timer.fired", timer="t"),
    ):
        number = state.head.event_id + 1
        assert fold(state, event, number) == "not_open"
    assert fold(state, Event(type="something.else"), 99) == ""
    assert state.ignored == 8


def test_two_steps_of_one_cycle_with_tokens_of_one_event_go_in_document_order() -> None:
    """PB-522, PB-503: they do not wait for a third branch that has nothing to do."""
    stage = stage_of(
        "- {step: start, tool: {kind: noop}, next: [b, a, alone]}\n"
        "- {step: a, tool: {kind: noop}, next: {arcs: [{step: b, when: '{{ n < 2 }}'}]},"
        " set: {n: '{{ (n | default(0)) + 1 }}'}}\n"
        "- {step: b, tool: {kind: noop}, next: a}\n"
        "- {step: alone, tool: {kind: noop}}\n"
    )
    stage.finish(stage.world.ready()[0])
    stage.world.settle()
    assert stage.entered() == ["start", "a", "alone"]
