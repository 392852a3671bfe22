"""Replays: the same decisions from the same log, whatever order, crash or event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.json import decode
from world import EXECUTION, Ask, ToolFailed, World

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.main import run
from noetl_worker.rehearsal import Replay, transcribe
from state_builder.drive import DriveLimits
from state_builder.errors import InvalidError
from state_builder.records import Reference, ToolOutcome, encode_json
from state_builder.summary import summarize
from state_builder.transcript import TranscriptError, read_transcript

CHILD = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: child, path: tests/child}
workload: {n: 1}
workflow:
  - {step: start, tool: {kind: noop}}
"""
PLAYBOOK = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: mixed, path: tests/mixed}
workload: {items: [4, 5, 6]}
workflow:
  - step: start
    tool: {kind: noop}
    set: {ctx.many: "{{ workload.items | length > 2 }}"}
    next:
      spec: {mode: inclusive}
      arcs: [{step: each}, {step: call}]
  - step: each
    loop: {in: "{{ workload.items }}", iterator: i, spec: {mode: parallel}}
    tool: {kind: noop}
    next: [{step: risky}]
  - {step: call, tool: {kind: playbook, path: tests/child}, next: [{step: join}]}
  - step: risky
    tool: {kind: noop}
    next:
      spec: {mode: exclusive}
      arcs:
        - {step: rescue, when: "{{ event.name == 'call.error' }}"}
        - {step: join}
  - {step: rescue, tool: {kind: noop}, next: [{step: join}]}
  - {step: join, tool: {kind: noop}}
"""


def risky(ask: Ask) -> Any:
    raise ToolFailed("timeout", "too slow")


def world() -> World:
    return World(
        PLAYBOOK,
        children={"tests/child": CHILD},
        answers={"each": lambda ask: int(ask.iteration or 0) * 2, "risky": risky},
    )


def ran() -> World:
    done = world()
    done.run()
    return done


def replayed(done: World, execution_id: str = EXECUTION) -> Replay:
    replay = Replay(read_transcript(transcribe(done)), execution_id)
    replay.run()
    return replay


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=12))
def test_every_decision_is_decided_again(turns: list[tuple[int, int]]) -> None:
    """RT-DRV-4: results in any order, twice, and owners that die between messages."""
    done = world()
    done.start()
    choices = iter(turns)
    while done.terminal is None:
        choice, crash = next(choices, (0, 0))
        done.settle(stop_after=crash - 1 if crash else None)
        if crash:
            done.crash()
        ready = done.ready()
        if ready:
            done.finish(*ready[choice % len(ready)], twice=choice % 3 == 0)
    done.settle()
    for execution_id in read_transcript(transcribe(done)).executions():
        replay = replayed(done, execution_id)
        assert replay.state.terminal == "COMPLETED"
        told = [one.verdict for one in replay.passes]
        assert set(told) <= {"equal", "cut"}, told
        assert len(replay.folded) == len(list(done.of(execution_id)))


def test_a_decision_that_was_changed_is_named() -> None:
    done = ran()
    lines = [
        line.replace(b'"step":"rescue"', b'"step":"join"') for line in transcribe(done)
    ]
    replay = Replay(read_transcript(lines), EXECUTION)
    replay.run()
    wrong = [one for one in replay.passes if not one.sound]
    assert wrong
    assert b'"step":"rescue"' in wrong[0].expected
    assert b'"step":"rescue"' not in wrong[0].recorded


def test_the_state_at_an_event_is_what_the_drive_knew() -> None:
    whole = replayed(ran())
    left = next(one for one in whole.folded if one.event.type == "step.exit")
    replay = Replay(read_transcript(transcribe(ran())), EXECUTION)
    replay.run(replay.event_number(str(left.event_id)) - 1)
    assert replay.state.ctx == {}
    assert replay.state.steps["start"].active is not None
    again = Replay(read_transcript(transcribe(ran())), EXECUTION)
    again.run(again.event_number("7"))
    assert again.folded[-1].number == 7
    for unknown in ("0", "x", str(10**9)):
        with pytest.raises(InvalidError, match="no event"):
            again.event_number(unknown)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [], "it is empty"),
        (lambda lines: lines[1:], "begins with its head"),
        (lambda lines: lines[:-1], "it is torn"),
        (lambda lines: lines[:3] + lines[4:], "it is torn"),
        (lambda lines: [*lines, lines[0]], "nothing may follow the end"),
        (lambda lines: [lines[0], *lines], "a second head"),
        (lambda lines: [b"{}\n"], "no line of a transcript"),
        (lambda lines: [lines[0].replace(b'"v":1', b'"v":9')], "version 9"),
    ],
)
def test_a_damaged_file_is_refused_by_line(change: Any, says: str) -> None:
    with pytest.raises(TranscriptError, match=says):
        read_transcript(change(list(transcribe(ran()))))


def test_a_replay_needs_no_server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.jsonl"
    file.write_bytes(b"".join(transcribe(ran())))
    assert run(["replay", str(file)]) == ExitCode.OK
    told = capfd.readouterr().out
    assert "→ rescue  when {{ event.name == 'call.error' }}" in told
    assert "✗ join" in told, "arcs that were not taken are shown, too"
    assert "decisions are what this build decides" in told
    assert run(["replay", str(file), "--to", "4", "--json"]) == ExitCode.OK
    shown = json.loads(capfd.readouterr().out)
    assert (shown["sound"], len(shown["events"])) == (True, 4)
    assert shown["state"]["status"] == "RUNNING"
    assert shown["state"]["waiting"]
    file.write_bytes(file.read_bytes().replace(b'"step":"rescue"', b'"step":"join"'))
    assert run(["replay", str(file)]) == ExitCode.FAILED
    assert "DIFFERS" in capfd.readouterr().out
    assert run(["replay", str(file), "--to", "none"]) == ExitCode.INVALID
    assert run(["replay", str(tmp_path / "gone")]) == ExitCode.USAGE


STORED = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: stored, path: tests/stored}
workflow:
  - step: start
    tool: {kind: noop}
    next: {arcs: [{step: each, when: "{{ start.rows[99].id == 99 }}"}]}
  - step: each
    loop: {in: "{{ start.rows }}", iterator: row, spec: {mode: parallel}}
    tool: {kind: noop}
    next: [{step: last}]
  - {step: last, tool: {kind: noop}}
"""


def by_reference(found: World, value: Any) -> ToolOutcome:
    """A step's large result, as its worker stores it."""
    data = encode_json(value)
    reference = found.keep("noetl://default/default/results/7/a/1/0/1@v", data)
    reference.extracted = decode(summarize(data).extracted)
    stub = Raw(encode_json({"_ref": reference.ref}))
    return ToolOutcome(data=stub, reference=Raw(encode_json(reference)))


@pytest.mark.parametrize("at_hand", [True, False])
def test_stored_values_are_fetched_or_said_to_be_needed(at_hand: bool) -> None:
    """RT-DRV-4, RT-EVT-17: what cannot be decided again is not said to differ."""
    rows = [{"id": number, "pad": "x" * 2000} for number in range(100)]
    done = World(STORED, limits=DriveLimits(inline_bytes_max=10_000))
    done.answers["start"] = lambda ask: by_reference(done, {"rows": rows})
    done.answers["each"] = lambda ask: "y" * 200
    done.run()
    assert done.terminal is not None and done.fetched

    def fetch(reference: Reference) -> bytes | None:
        return done.values[reference.ref] if at_hand else None

    replay = Replay(read_transcript(transcribe(done)), EXECUTION, fetch)
    replay.run()
    told = {one.verdict for one in replay.passes}
    assert told == ({"equal"} if at_hand else {"equal", "unread"})
    assert all(one.sound for one in replay.passes)
    lacking = {one.lacks for one in replay.passes if one.lacks}
    assert lacking == (set() if at_hand else set(done.fetched))
