"""The drive and values outside the log: needs, not surprises."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.json import decode

sys.path.insert(0, str(Path(__file__).parents[2]))

from world import EXECUTION, Ask, World

from state_builder.drive import Bulk, DriveLimits, view
from state_builder.records import (
    Event,
    Reference,
    ReferenceMeta,
    ToolOutcome,
    encode_json,
)
from state_builder.summary import summarize

HEAD = "apiVersion: noetl.io/v2\nkind: Playbook\nmetadata: {name: t, path: t}\n"
LIMITS = DriveLimits(
    inline_bytes_max=1000, context_bytes_max=4000, loop_inline_bytes_max=1000
)
BIG = {"n": 7, "rows": [{"id": i, "pad": "x" * 50} for i in range(100)]}


def world(steps: str, answers: dict[str, Any], **more: Any) -> World:
    """A world with small limits."""
    return World(HEAD + "workflow:\n" + steps, answers=answers, limits=LIMITS, **more)


def stored(found: World, data: Any, name: str = "a") -> ToolOutcome:
    """An outcome as a worker reports it that has stored its data."""
    raw, ref = encode_json(data), f"noetl://default/default/results/1/{name}/1/0/1@v"
    found.values[ref] = raw
    summary = summarize(raw)
    reference = Reference(
        ref=ref,
        uri=ref,
        meta=ReferenceMeta(bytes=len(raw)),
        extracted=decode(summary.extracted),
    )
    return ToolOutcome(
        data=Raw(encode_json({"_ref": ref})), reference=Raw(encode_json(reference))
    )


def events(found: World, kind: str) -> list[Event]:
    return [event for _, event in found.of(EXECUTION) if event.type == kind]


def sizes(found: World) -> int:
    """Bytes of the largest message of the log."""
    return max(len(message.data) for message in found.log)


@pytest.mark.parametrize(
    ("condition", "fetched"),
    [
        ("{{ start.n == 7 }}", 0),
        ("{{ start._ref is defined }}", 0),
        ("{{ start.rows[0].id == 0 }}", 0),
        ("{{ start.missing is defined }}", 0),
        ("{{ start.rows | length == 100 }}", 1),
        ("{{ start.rows[99].id == 99 }}", 1),
    ],
)
def test_a_condition_fetches_only_what_it_needs_and_once(
    condition: str, fetched: int
) -> None:
    """RT-EVT-17, TL-RR-45, PB-344: the summary first, else that one value once."""
    holds = "missing" not in condition
    found = world(
        f"""
  - step: start
    tool: {{kind: python, code: x}}
    next:
      spec: {{mode: exclusive}}
      arcs: [{{step: good, when: "{condition}"}}, {{step: bad}}]
  - {{step: good, tool: {{kind: noop}}}}
  - {{step: bad, tool: {{kind: noop}}}}
""",
        {},
    )
    found.answers["start"] = lambda ask: stored(found, BIG)
    found.run()
    entered = {event.step for event in events(found, "step.enter")}
    assert ("good" in entered) is holds and len(found.fetched) == fetched


def test_a_steps_set_reads_the_envelope_of_a_stored_result() -> None:
    """PB-203, PB-344: without fetching it."""
    found = world(
        """
  - step: start
    tool: {kind: python, code: x}
    set: {ended: "{{ output.status }}", n: "{{ output.n }}"}
""",
        {},
    )
    found.answers["start"] = lambda ask: stored(found, BIG)
    found.run()
    assert found.state().ctx == {"ended": "success", "n": 7}
    assert found.fetched == []


def test_a_step_that_is_gone_ends_the_execution_with_the_reason() -> None:
    """TL-RR-45: a condition never silently sees an undefined."""
    found = world(
        """
  - step: start
    tool: {kind: python, code: x}
    next: {arcs: [{step: b, when: "{{ start.rows | length > 1 }}"}]}
  - {step: b, tool: {kind: noop}}
""",
        {},
    )

    def answer(ask: Ask) -> ToolOutcome:
        outcome = stored(found, BIG)
        found.values.clear()
        return outcome

    found.answers["start"] = answer
    found.run()
    assert found.terminal is not None and found.terminal.type == "playbook.failed"
    assert "gone" in found.terminal.error


def test_a_command_carries_the_reference_and_not_the_value() -> None:
    """TL-RR-01, PB-346, RT-EVT-17: refs in state; the worker fetches what it binds."""
    found = world(
        """
  - {step: start, tool: {kind: python, code: x}, next: b}
  - {step: b, tool: {kind: python, input: {r: "{{ start.rows }}"}, code: x}}
""",
        {},
    )
    found.answers["start"] = lambda ask: stored(found, BIG)
    found.run()
    context = decode(events(found, "command.issued")[1].context)
    step = context["render_context"]["steps"]["start"]
    assert "value" not in step and step["reference"]["kind"] == "result_ref"
    assert found.fetched == []


def test_a_context_over_its_limit_is_stored_before_its_command() -> None:
    """RT-LIM-2, RT-NATS-50, RT-NATS-26, RT-DRV-6: and the message says where."""
    found = world(
        """
  - {step: start, tool: {kind: python, code: x}, next: {arcs: [{step: b, set: {big: "{{ start.rows }}"}}]}}
  - {step: b, tool: {kind: python, input: {r: "{{ big }}"}, code: x}}
""",
        {},
    )
    found.answers["start"] = lambda ask: stored(found, BIG)
    found.run()
    context = decode(events(found, "command.issued")[1].context)
    assert set(context) == {"__context_ref__", "__context_bytes__", "reference"}
    kept = decode(found.values[context["__context_ref__"]])
    assert kept["tool_config"]["kind"] == "python"
    assert context["__context_bytes__"] > LIMITS.context_bytes_max


def test_a_large_collection_is_kept_once_and_each_command_carries_its_item() -> None:
    """RT-LIM-4: ``step.enter`` holds a reference, issued commands their element."""
    found = world(
        """
  - {step: start, tool: {kind: python, code: x}, next: each}
  - step: each
    loop: {in: "{{ start.rows }}", iterator: it, spec: {mode: parallel, max_in_flight: 3}}
    tool: {kind: python, input: {i: "{{ it.id }}"}, code: x}
""",
        {"each": lambda ask: {"id": ask.names["iteration"]["value"]["id"]}},
    )
    found.answers["start"] = lambda ask: stored(found, BIG)
    found.run()
    entered = decode(events(found, "step.enter")[1].context)
    assert entered["iterations_expected"] == 100 and "items" not in entered
    outcome = found.state().steps["each"].result
    assert outcome is not None
    each: Any = view(outcome, Bulk(values=found.values)).value
    assert [one["id"] for one in each["results"]] == list(range(100))
    assert sizes(found) < 8000


def test_the_same_owner_or_the_next_decides_the_same() -> None:
    """RT-DRV-4: a decision that needs values is the same on any replica."""
    steps = """
  - {step: start, tool: {kind: python, code: x}, next: each}
  - step: each
    loop: {in: "{{ start.rows }}", iterator: it, spec: {mode: parallel, max_in_flight: 7}}
    tool: {kind: python, code: x}
"""
    logs = []
    for crashes in (False, True):
        found = world(steps, {"each": lambda ask: ask.iteration})
        outcome = stored(found, BIG)
        found.answers["start"] = outcome
        found.start()
        found.settle()
        while ready := found.ready():
            found.finish(*ready[0])
            if crashes:
                found.crash()
            found.settle()
        logs.append([message.data for message in found.log])
    assert logs[0] == logs[1]


def test_a_large_aggregate_stands_in_state_as_a_reference() -> None:
    """TL-OS-06, PB-341: and reads like one that is inline."""
    found = world(
        """
  - step: start
    loop: {in: [0, 1, 2, 3], iterator: it}
    tool: {kind: python, code: x}
    next: {arcs: [{step: b, when: "{{ start.stats.completed == 4 and start._ref is defined }}"}]}
  - {step: b, tool: {kind: noop}, set: {last: "{{ start.results[3].pad }}"}}
""",
        {"start": lambda ask: {"pad": ask.iteration * 500}},
    )
    found.run()
    assert found.state().ctx["last"] == "3" * 500
    exited = decode(events(found, "step.exit")[0].context)
    assert exited["result"]["form"] == "loop" and sizes(found) < 4000
    result = found.state().steps["start"].result
    assert result is not None and result.reference and result.data == b"null"


def test_elements_stored_one_by_one_make_a_manifest() -> None:
    """TL-OS-06: parts in iteration order, inline ones among them."""
    found = world(
        """
  - step: start
    loop: {in: [0, 1, 2], iterator: it}
    tool: {kind: python, code: x}
""",
        {},
    )
    found.answers["start"] = lambda ask: (
        {"i": 1} if ask.iteration == "1" else stored(found, BIG, ask.iteration)
    )
    found.run()
    result = found.state().steps["start"].result
    assert result is not None
    reference = decode(result.reference)
    assert reference["kind"] == "manifest"
    assert reference["extracted"]["results"] == {"_count": 3}
    manifest = decode(found.values[reference["ref"]])
    kinds = ["reference" if "reference" in part else "value"
             for part in manifest["parts"]]  # fmt: skip
    assert kinds == ["reference", "value", "reference"]
    assert manifest["strategy"] == "append" and manifest["total_parts"] == 3
    assert manifest["rest"]["stats"]["completed"] == 3


def test_iterations_share_what_a_loop_may_keep_inline() -> None:
    """RT-LIM-4: ten thousand inline results must fit the owner's memory."""
    steps = """
  - step: start
    loop: {{in: "{{{{ range({0}) }}}}", iterator: it, spec: {{mode: parallel, max_in_flight: 1}}}}
    tool: {{kind: noop}}
"""
    budgets = []
    for count in (1, 1000):
        found = World(HEAD + "workflow:\n" + steps.format(count))
        found.start()
        found.settle()
        context = decode(events(found, "command.issued")[0].context)
        budgets.append(context["inline_bytes_max"])
    assert budgets == [102_400, (16 << 20) // 1000]


def test_reference_first_stores_what_selects_its_output() -> None:
    """PB-007, PB-342: whatever its size."""
    text = HEAD + (
        "executor: {spec: {policy: {results: {reference_first: true}}}}\nworkflow:\n"
        "  - {step: start, tool: {kind: python, code: x}, output: {output_select: [n]}}\n"
    )
    found = World(text)
    found.start()
    found.settle()
    context = decode(events(found, "command.issued")[0].context)
    assert context["inline_bytes_max"] == 1
    assert context["output"]["output_select"] == ["n"]


def test_a_large_end_is_told_by_reference() -> None:
    """RT-EVT-16: the terminal has the summary for people and the reference."""
    found = world("  - {step: start, tool: {kind: python, code: x}}\n", {})
    found.answers["start"] = lambda ask: stored(found, BIG)
    found.run()
    assert found.terminal is not None
    envelope = decode(found.terminal.result)
    assert envelope["reference"]["kind"] == "result_ref"
    assert envelope["context"]["data"]["n"] == 7
    assert envelope["context"]["data"]["_ref"] == envelope["reference"]["ref"]


CHILD = "  - step: start\n    tool: {kind: python, code: x}\n"


def test_a_childs_large_result_reaches_its_parent_by_reference() -> None:
    """RT-LIM-1, PB-606: however often it is copied into the answer."""
    found = world(
        """
  - {step: start, tool: {kind: playbook, path: c}, next: b}
  - {step: b, tool: {kind: noop}, set: {last: "{{ start.rows[99].id }}", n: "{{ start.n }}"}}
""",
        {},
        children={"c": HEAD.replace("path: t", "path: c") + "workflow:\n" + CHILD},
    )
    found.answers["start"] = lambda ask: stored(found, BIG)
    found.run()
    assert found.state().ctx == {"last": 99, "n": 7}
    assert sizes(found) < 8000


def test_a_childs_large_workload_is_stored_before_its_start() -> None:
    """RT-LIM-2."""
    found = world(
        """
  - {step: start, tool: {kind: python, code: x}, next: call}
  - {step: call, tool: {kind: playbook, path: c, input: {rows: "{{ start.rows }}"}}}
""",
        {},
        children={
            "c": HEAD.replace("path: t", "path: c")
            + "workflow:\n  - {step: start, tool: {kind: noop}, "
            + 'set: {n: "{{ workload.rows | length }}"}}\n'
        },
    )
    found.answers["start"] = lambda ask: stored(found, BIG)
    found.run()
    child = next(eid for eid, _ in found.events if eid != EXECUTION)
    assert found.state(child).ctx == {"n": 100}
    assert sizes(found) < 8000
