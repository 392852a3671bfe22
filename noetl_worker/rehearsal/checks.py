"""What came of a case, held against what was expected: every difference, by name."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET, Struct, UnsetType

from noetl_worker.rehearsal.answers import Answers
from noetl_worker.rehearsal.cases import Expected, ExpectedStep
from noetl_worker.rehearsal.trace import arcs_of
from noetl_worker.rehearsal.world import EXECUTION, World
from state_builder.drive import Bulk, view
from state_builder.records import (
    JSON,
    TERMINAL_STATUS,
    Event,
    ToolOutcome,
    outcome_envelope_decoder,
)
from state_builder.state import Outcome, StepState
from state_builder.template import plain

_MISSING = "(nothing)"


class Difference(Struct, frozen=True):
    """One thing that is not as expected; ``what`` names it by path."""

    what: str
    expected: JSON
    got: JSON


def differences(expected: Expected, world: World, answers: Answers) -> list[Difference]:
    """All of them; empty when the ended execution is as expected."""
    terminal = world.terminal
    assert terminal is not None
    state = world.state()
    found: list[Difference] = []
    bulk = Bulk(values=world.values)
    status = TERMINAL_STATUS[terminal.type]
    if status != expected.status:
        found.append(Difference("status", expected.status, status))
        if terminal.error and not expected.error:
            found.append(Difference("error", None, terminal.error))
    if expected.error and expected.error not in terminal.error:
        found.append(Difference("error", f"… {expected.error} …", terminal.error))
    if not isinstance(expected.result, UnsetType):
        found += compared("result", expected.result, result_of(terminal, bulk))
    for name, step in expected.steps.items():
        found += _of_step(name, step, state.steps.get(name) or StepState(), bulk)
    for name, value in expected.variables.items():
        if name in state.ctx:
            found += compared(f"variables.{name}", value, state.ctx[name])
        else:
            found.append(Difference(f"variables.{name}", value, _MISSING))
    taken = arcs_of(event for _, event in world.of(EXECUTION))
    for arc in expected.arcs:
        if arc.taken is not (arc.arc in taken):
            words = ("never taken", "taken")
            found.append(
                Difference(f"arc {arc.arc}", words[arc.taken], words[not arc.taken])
            )
    for name, calls in expected.calls.items():
        found += _of_calls(f"calls.{name}", calls, _made(name, world, answers))
    return found


def _made(name: str, world: World, answers: Answers) -> list[dict[str, JSON]]:
    """The calls of a step, or of one task of it, in the order they were made."""
    step, _, label = name.partition(".")
    path = world.entries["1"].path
    return [
        config
        for call, config in answers.asked
        if (call.path, call.step) == (path, step) and label in ("", call.label)
    ]


def _of_calls(
    what: str, expected: list[dict[str, JSON]], got: list[dict[str, JSON]]
) -> Iterator[Difference]:
    if len(expected) != len(got):
        yield Difference(what, f"{len(expected)} calls", f"{len(got)} calls")
    for index, (one, other) in enumerate(zip(expected, got, strict=False)):
        place = what if len(expected) == 1 else f"{what}[{index}]"
        yield from compared(place, one, _part(one, other))


def _part(expected: JSON, got: JSON) -> JSON:
    """What of a value is asked for: of maps, only the keys that are expected."""
    if not isinstance(expected, dict) or not isinstance(got, dict):
        return got
    return {
        key: _part(value, got[key]) for key, value in expected.items() if key in got
    }


def _of_step(
    name: str, expected: ExpectedStep, seen: StepState, bulk: Bulk
) -> list[Difference]:
    found: list[Difference] = []
    status = "none" if seen.status == "pending" else seen.status
    if expected.status and expected.status != status:
        found.append(Difference(f"steps.{name}.status", expected.status, status))
    if expected.visits is not None and expected.visits != seen.visit:
        found.append(Difference(f"steps.{name}.visits", expected.visits, seen.visit))
    if expected.result is not UNSET and not isinstance(expected.result, UnsetType):
        got: JSON = _MISSING
        if seen.result is not None:
            got = plain(view(seen.result, bulk))
        found += compared(f"steps.{name}.result", expected.result, got)
    return found


def result_of(terminal: Event, bulk: Bulk) -> JSON:
    """The execution's result; null where there is none."""
    if not terminal.result:
        return None
    envelope = outcome_envelope_decoder.decode(terminal.result)
    found = envelope.context or ToolOutcome()
    outcome = Outcome(form=found.form, data=bytes(found.data) or b"null")
    outcome.reference = bytes(envelope.reference)
    return plain(view(outcome, bulk))


def compared(what: str, expected: JSON, got: JSON) -> Iterator[Difference]:
    """Where two values differ, as deep as both have the same shape."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in dict.fromkeys((*expected, *got)):
            inner = f"{what}.{key}"
            if key not in got:
                yield Difference(inner, expected[key], _MISSING)
            elif key not in expected:
                yield Difference(inner, _MISSING, got[key])
            else:
                yield from compared(inner, expected[key], got[key])
    elif isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            lengths = (f"{len(expected)} elements", f"{len(got)} elements")
            yield Difference(what, *lengths)
        for index, (one, other) in enumerate(zip(expected, got, strict=False)):
            yield from compared(f"{what}[{index}]", one, other)
    elif isinstance(expected, bool) is not isinstance(got, bool) or expected != got:
        yield Difference(what, expected, got)
