"""Laws of the drive, on playbooks and interleavings nobody thought of (issue of PB §14).

Random graphs with cycles, joins, loops and failures; random order of results, results
delivered twice, owners that die between any two messages of a pass.
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))

from world import EXECUTION, Ask, ToolFailed, World

from state_builder.chain import ChainHead, link
from state_builder.drive import DriveLimits
from state_builder.index import ShardIndex
from state_builder.records import TERMINAL_STATUS, encode_json
from state_builder.waiting import waits

VISITS_MAX = 4
STEPS_MAX = 30
LAWS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@st.composite
def workflows(draw: st.DrawFn) -> dict[str, Any]:
    """A document: up to six steps, arcs anywhere, guards, loops, failures."""
    count = draw(st.integers(1, 6))
    names = ["start", "b", "c", "d", "e", "end"][:count]
    steps = [draw(step(name, names)) for name in names]
    return {
        "apiVersion": "noetl.io/v2",
        "kind": "Playbook",
        "metadata": {"name": "law", "path": "law"},
        "executor": {"spec": {"policy": {"limits": {"max_steps": STEPS_MAX}}}},
        "workflow": steps,
    }


CONDITIONS = [
    None,
    "{{ (n | default(0)) < 3 }}",
    "{{ event.name == 'call.error' }}",
    "{{ event.name == 'loop.done' }}",
    "{{ false }}",
]


def arc(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """One arc with or without a condition."""
    return st.fixed_dictionaries(
        {"step": st.sampled_from(names), "when": st.sampled_from(CONDITIONS)}
    ).map(
        lambda found: {key: value for key, value in found.items() if value is not None}
    )


SPECS: list[dict[str, Any]] = [
    {"on_error": "continue"},
    {"policy": {"failure": {"mode": "best_effort"}}},
    {"policy": {"admit": {"rules": [{"when": "{{ (n | default(0)) < 2 }}"}]}}},
    {"policy": {"admit": {"rules": [{"else": {"then": {"allow": False}}}]}}},
]

CALLS: list[dict[str, Any]] = [
    {},
    {"return_step": "start"},
    {"result_step": "more"},
    {"async": True},
    {"path": "no/such"},
    {"timeout": 5, "retry": {"max_attempts": 2, "retry_on": ["child_failed"]}},
    {
        "policy": {
            "rules": [{"else": {"do": "continue", "set": {"c": "{{ _attempt }}"}}}]
        }
    },
]

CHILD = """
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: child, path: lib/child}
workflow:
  - {step: start, tool: {kind: noop}, next: more}
  - {step: more, tool: {kind: python, code: x}}
"""


def tools() -> st.SearchStrategy[dict[str, Any]]:
    """A tool of some kind; one in five calls a playbook."""
    plain: list[dict[str, Any]] = [{"kind": "noop"}, {"kind": "python", "code": "x"}]
    calls = [{"kind": "playbook", "path": "lib/child", **how} for how in CALLS]
    return st.one_of(*[st.sampled_from(plain)] * 4, st.sampled_from(calls))


@st.composite
def step(draw: st.DrawFn, name: str, names: list[str]) -> dict[str, Any]:
    """One step; python tools may fail."""
    found: dict[str, Any] = {"step": name, "tool": draw(tools())}
    if draw(st.integers(0, 5)) == 0:
        found["spec"] = draw(st.sampled_from(SPECS))
    if draw(st.booleans()):
        found["set"] = {"n": "{{ (n | default(0)) + 1 }}"}
    if draw(st.integers(0, 4)) == 0:
        found["when"] = draw(
            st.sampled_from(["{{ false }}", "{{ (n | default(0)) < 2 }}"])
        )
    if draw(st.integers(0, 3)) == 0:
        found["loop"] = draw(loops())
    arcs = draw(st.lists(arc(names), max_size=3))
    if arcs:
        mode = draw(st.sampled_from(["exclusive", "inclusive"]))
        found["next"] = {"spec": {"mode": mode}, "arcs": arcs}
    return found


@st.composite
def loops(draw: st.DrawFn) -> dict[str, Any]:
    """A loop over up to three elements, or over what is claimed."""
    mode = draw(st.sampled_from(["sequential", "parallel", "cursor"]))
    spec: dict[str, Any] = {"mode": mode, "max_in_flight": draw(st.integers(1, 2))}
    if mode != "cursor":
        width = draw(st.integers(0, 3))
        return {"in": list(range(width)), "iterator": "it", "spec": spec}
    spec["frame"] = {
        "max_rows": 2,
        "row_concurrency": draw(st.integers(1, 2)),
        "process": draw(st.sampled_from(["row", "frame"])),
    }
    return {"iterator": "it", "cursor": {"claim": "x"}, "spec": spec}


def world_of(
    document: dict[str, Any], failing: frozenset[str], events_max: int = 500
) -> World:
    """A world in which some steps fail always."""

    def answer(ask: Ask) -> Any:
        if ask.iteration.startswith("f") and "r" not in ask.iteration:
            frame = int(ask.iteration[1:])
            return {"rows": [{"id": frame}] * (2 - min(frame, 2))}
        if ask.step in failing:
            raise ToolFailed()
        return {"step": ask.step, "iteration": ask.iteration}

    steps = [one["step"] for one in document["workflow"]]
    return World(
        json.dumps(document),
        answers=dict.fromkeys([*steps, "more"], answer),
        children={"lib/child": CHILD},
        limits=DriveLimits(visits_max=VISITS_MAX, events_max=events_max),
    )


FAILING = st.frozensets(
    st.sampled_from(["start", "b", "c", "d", "e", "more"]), max_size=2
)


def drive_to_the_end(world: World, chance: random.Random, *, shaken: bool) -> None:
    """Finish commands in a random order; with ``shaken`` also crash and repeat."""
    world.start()
    for _ in range(4000):
        if shaken and chance.random() < 0.3:
            # The owner dies somewhere inside what it was about to send.
            world.settle(stop_after=chance.randrange(3))
            world.crash()
        world.settle()
        assert_waits_have_names(world)
        ready = world.open_commands()
        if not ready:
            due = world.next_timer()
            if world.terminal is not None or due is None:
                return
            world.pass_time(max(0.0, due - world.now))
            continue
        twice = shaken and chance.random() < 0.3
        world.finish(*chance.choice(ready), twice=twice)
        if shaken and chance.random() < 0.3:
            world.crash()
    raise AssertionError("the execution does not end")


def assert_waits_have_names(world: World) -> None:
    """Decided until nothing is lacking, an open execution waits for what has a name."""
    for entry in world.index.open.values():
        assert entry.state.genesis is not None
        plan = world.plans[entry.state.genesis.catalog_id]
        for wait in waits(entry.state, plan, world.now):
            assert wait.kind not in ("nothing", "owner"), wait.text


@LAWS
@given(workflows(), FAILING, st.integers(0, 1 << 32), st.sampled_from([3, 500]))
def test_every_run_ends_with_exactly_one_terminal(
    document: dict[str, Any], failing: frozenset[str], seed: int, events_max: int
) -> None:
    """PB-641, RT-DRV-16, RT-EVT-20: one root, one terminal, the last of the drive.

    However many passes it takes, and none leaves anything to decide but where it says
    so (see :meth:`world.World._decide`).
    """
    world = world_of(document, failing, events_max)
    drive_to_the_end(world, random.Random(seed), shaken=True)
    types = [event.type for eid, event in world.events if eid == EXECUTION]
    assert sum(kind in TERMINAL_STATUS for kind in types) == 1
    assert types[0] == "playbook_started"
    head = ChainHead()
    verdicts = [
        link(head, number, kind).verdict for number, kind in enumerate(types, 1)
    ]
    assert "orphan" not in verdicts and "second_terminal" not in verdicts
    issued = [
        event.command_id for _, event in world.events if event.type == "command.issued"
    ]
    assert len(issued) == len(set(issued)), "a command was issued twice"


@LAWS
@given(workflows(), FAILING, st.integers(0, 1 << 32))
def test_crashes_and_duplicates_change_no_decision(
    document: dict[str, Any], failing: frozenset[str], seed: int
) -> None:
    """RT-DRV-4, RT-DRV-8: with results in issue order, a shaken run decides the same."""
    calm, shaken = world_of(document, failing), world_of(document, failing)
    calm.run(lambda ready: min(ready, key=lambda one: issued_at(calm, one[1])))
    chance = random.Random(seed)
    shaken.start()
    while True:
        if chance.random() < 0.4:
            shaken.settle(stop_after=chance.randrange(3))
            shaken.crash()
        shaken.settle()
        ready = sorted(
            shaken.open_commands(), key=lambda one: issued_at(shaken, one[1])
        )
        if not ready:
            due = shaken.next_timer()
            if shaken.terminal is not None or due is None:
                break
            shaken.pass_time(max(0.0, due - shaken.now))
            continue
        shaken.finish(*ready[0], twice=chance.random() < 0.5)
    assert decisions(shaken) == decisions(calm)


def issued_at(world: World, command_id: str) -> int:
    """Place of a command in the log."""
    return next(
        number
        for number, (_, event) in enumerate(world.events)
        if event.command_id == command_id and event.type == "command.issued"
    )


def decisions(world: World) -> list[str]:
    """What the drive wrote, without completions and without ids of children: those
    follow from where in the log they were called."""
    written = [one for one in world.trace() if not one.startswith(("CC", "CF"))]
    return [re.sub(r"\(\d+\)", "(child)", one) for one in written]


@LAWS
@given(workflows(), FAILING, st.integers(0, 1 << 32))
def test_a_snapshot_between_any_two_events_is_the_state(
    document: dict[str, Any], failing: frozenset[str], seed: int
) -> None:
    """RT-IDX-3, RT-IDX-4: restoring a snapshot and folding the rest gives the same."""
    world = world_of(document, failing)
    drive_to_the_end(world, random.Random(seed), shaken=False)
    cut = random.Random(seed).randrange(len(world.log) + 1)
    straight, resumed = ShardIndex(0, 0), ShardIndex(0, 0)
    for message in world.log[:cut]:
        straight.apply(message)
        resumed.apply(message)
    resumed = ShardIndex.restore(0, 0, resumed.snapshot(resumed.position))
    assert resumed.snapshot(resumed.position) == straight.snapshot(straight.position)
    for message in world.log[cut:]:
        straight.apply(message)
        resumed.apply(message)
    assert resumed.snapshot(resumed.position) == straight.snapshot(straight.position)


@pytest.mark.parametrize("seed", range(5))
def test_independent_branches_are_the_same_in_any_order(seed: int) -> None:
    """Parallel ≡ sequential for branches that share nothing."""
    names = ["b", "c", "d", "e"]
    document = {
        "apiVersion": "noetl.io/v2",
        "kind": "Playbook",
        "metadata": {"name": "law", "path": "law"},
        "workflow": [
            {"step": "start", "tool": {"kind": "noop"}, "next": names},
            *(
                {
                    "step": name,
                    "tool": {"kind": "noop"},
                    "set": {name: f"{{{{ {name}.step }}}}"},
                    "next": "end",
                }
                for name in names
            ),
            {
                "step": "end",
                "tool": {"kind": "noop", "result": "{{ ctx }}"},
            },
        ],
    }
    world = world_of(document, frozenset())
    drive_to_the_end(world, random.Random(seed), shaken=True)
    entered = [one for one in world.trace() if one.startswith("enter")]
    assert sorted(entered) == sorted(
        ["enter start", *(f"enter {name}" for name in names), "enter end"]
    )
    assert entered[-1] == "enter end"


@LAWS
@given(workflows(), FAILING, st.integers(0, 1 << 32))
def test_a_replay_decides_byte_for_byte_what_was_recorded(
    document: dict[str, Any], failing: frozenset[str], seed: int
) -> None:
    """RT-DRV-4, PB-502: a fold of the log up to each pass gives that very pass."""
    world = world_of(document, failing)
    drive_to_the_end(world, random.Random(seed), shaken=False)
    replayed = world_of(document, failing)
    for position, eid, now, decided in world.decided:
        for message in world.log[replayed.index.position : position]:
            replayed.index.apply(message)
        replayed.now = now
        entry = replayed.index.open[eid]
        entry.due = True
        assert encode_json(replayed.look(entry)) == decided


@st.composite
def acyclic(draw: st.DrawFn) -> dict[str, Any]:
    """A graph without cycles whose conditions do not look at what others set."""
    names = ["start", "b", "c", "d", "e", "f", "end"][: draw(st.integers(2, 7))]
    steps = []
    for place, name in enumerate(names):
        later = names[place + 1 :]
        found: dict[str, Any] = {
            "step": name,
            "tool": draw(tools()),
            "spec": {"on_error": "continue"},
        }
        if draw(st.integers(0, 4)) == 0:
            found["when"] = "{{ false }}"
        if draw(st.integers(0, 3)) == 0:
            found["loop"] = draw(loops())
        if later:
            arcs = draw(st.lists(arc(later), min_size=1, max_size=3))
            for one in arcs:
                if "n |" in str(one.get("when")):
                    del one["when"]
            mode = draw(st.sampled_from(["exclusive", "inclusive"]))
            found["next"] = {"spec": {"mode": mode}, "arcs": arcs}
        steps.append(found)
    head = {"apiVersion": "noetl.io/v2", "kind": "Playbook"}
    return {**head, "metadata": {"name": "law"}, "workflow": steps}


@LAWS
@given(acyclic(), FAILING, st.integers(0, 1 << 32), st.booleans())
def test_no_interleaving_changes_which_steps_run(
    document: dict[str, Any], failing: frozenset[str], seed: int, shaken: bool
) -> None:
    """PB-523, PB-502: without data between branches, order decides nothing."""
    calm, other = world_of(document, failing), world_of(document, failing)
    drive_to_the_end(calm, random.Random(0), shaken=False)
    drive_to_the_end(other, random.Random(seed), shaken=shaken)
    ran = sorted(one for one in calm.trace() if one.startswith(("enter", "skipped")))
    assert len(ran) == len(set(ran)), "without cycles a step runs once"
    assert ran == sorted(
        one for one in other.trace() if one.startswith(("enter", "skipped"))
    )
