"""A folded state for people: the same facts as JSON, whatever shows them."""

from __future__ import annotations

from msgspec.json import decode as decode_json

from noetl_worker.rehearsal.replay import Checked, Folded
from noetl_worker.rehearsal.trace import exited_of, trace_line
from state_builder.arcs import Plan
from state_builder.drive import Bulk, view
from state_builder.records import JSON, Event, decode_reference, timestamp
from state_builder.state import Outcome, State
from state_builder.template import plain, stub_of
from state_builder.waiting import last_decision, waits


def _value(outcome: Outcome) -> JSON:
    """A result, or what stands for one that is stored elsewhere."""
    if outcome.reference:
        return stub_of(decode_reference(outcome.reference))
    return plain(view(outcome, Bulk()))


def state_view(state: State, plan: Plan | None, now: float) -> dict[str, JSON]:
    """Where an execution stands: steps, tokens, variables, what is open and due."""
    steps: dict[str, JSON] = {}
    tokens: list[JSON] = []
    for name, step in state.steps.items():
        steps[name] = {
            "status": step.status,
            "visits": step.visit,
            "result": None if step.result is None else _value(step.result),
        }
        for token in step.tokens:
            tokens.append(
                {"at": name, "from": token.origin, "args": token.args, "set": token.set}
            )
    commands: dict[str, JSON] = {
        command_id: {
            "step": command.step,
            "iteration": command.iteration or None,
            "kind": command.kind,
            "parked": command.parked,
            "child": command.child or None,
            "starts": command.starts,
        }
        for command_id, command in state.commands.items()
    }
    timers: dict[str, JSON] = {
        name: timestamp(due) for name, due in state.timers.items()
    }
    decision = last_decision(state)
    return {
        "execution_id": state.execution_id,
        "status": state.terminal or "RUNNING",
        "error": state.error or None,
        "events": state.head.count,
        "last_event_id": str(state.head.event_id),
        "steps": steps,
        "live": list(state.live),
        "failing": list(state.failing),
        "tokens": tokens,
        "variables": dict(state.ctx),
        "commands": commands,
        "timers": timers,
        "waiting": [wait.text for wait in waits(state, plan, now)],
        "last_decision": None if decision is None else decision.text,
    }


def pass_view(checked: Checked) -> dict[str, JSON]:
    """One decision and whether it is what this build decides."""
    shown: dict[str, JSON] = {
        "execution_id": checked.execution_id,
        "first_event_id": str(checked.first),
        "last_event_id": str(checked.last),
        "at": checked.at,
        "decided_after_event_id": str(checked.after),
        "verdict": checked.verdict,
        "events": [trace_line(one) or one.type for one in checked.events],
    }
    if checked.lacks:
        shown["lacks"] = checked.lacks
    if not checked.sound:
        shown["expected"] = decode_json(checked.expected) if checked.expected else None
        shown["recorded"] = decode_json(checked.recorded) if checked.recorded else None
    return shown


def arcs_view(event: Event, plan: Plan) -> list[dict[str, JSON]]:
    """The arcs of a step that was left: its conditions, and which ones were taken."""
    step = plan.playbook.steps.get(event.step)
    if event.type != "step.exit" or step is None:
        return []
    taken = {arc.step for arc in exited_of(event).arcs}
    return [
        {
            "step": arc.target,
            "when": None if arc.when is None else str(arc.when),
            "taken": arc.target in taken,
        }
        for arc in step.next.arcs
    ]


def event_view(folded: Folded) -> dict[str, JSON]:
    """One event of the log on a line of its own."""
    event = folded.event
    return {
        "number": folded.number,
        "event_id": str(folded.event_id),
        "at": event.at,
        "type": event.type,
        "step": event.step or None,
        "line": trace_line(event) or None,
        "ignored": folded.ignored or None,
    }
