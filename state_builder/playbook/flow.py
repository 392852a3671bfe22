"""The flow of a playbook for people: as Mermaid text, and as a tree.

Pure functions of the model: the command line, the console and an execution's page draw
the same picture. States of steps come from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from state_builder.playbook.model import Arc, Playbook, Step

TREE_DEPTH_MAX: Final = 64
"""Levels a tree shows; what is deeper is named, not opened."""

STATE_STYLES: Final = {
    "completed": "fill:#d7f0dc,stroke:#2b8a3e",
    "failed": "fill:#fbd9d9,stroke:#c92a2a",
    "running": "fill:#d6e8fb,stroke:#1971c2",
    "waiting": "fill:#fff3cd,stroke:#b08900",
    "skipped": "fill:#eeeeee,stroke:#868e96,stroke-dasharray:4",
}
"""Looks of the states a caller may give; others are shown as text alone."""

_ESCAPED = str.maketrans(
    {
        '"': "#quot;",
        "#": "#35;",
        "`": "#96;",
        "<": "#lt;",
        ">": "#gt;",
        "&": "#amp;",
        "\n": " ",
        "\r": " ",
    }
)


class FlowArc(Struct, frozen=True, kw_only=True):
    """One way out of a node; an empty condition always holds."""

    condition: str
    target: FlowNode


class FlowNode(Struct, frozen=True, kw_only=True):
    """A step in the tree.

    Attributes:
        loop: what it loops over, ``for city in {{ cities }}``; empty without a loop.
        tasks: labels of a pipeline.
        calls: path of the playbook it calls, or empty.
        inclusive: all arcs whose condition holds are taken, not the first.
        repeated: shown elsewhere (or too deep), so not opened here.
    """

    step: str
    kind: str = ""
    loop: str = ""
    tasks: tuple[str, ...] = ()
    calls: str = ""
    inclusive: bool = False
    repeated: bool = False
    arcs: tuple[FlowArc, ...] = ()


def tree(playbook: Playbook) -> FlowNode:
    """The steps from the entry on, each opened once, in arc order.

    A playbook's final step and steps nothing leads to are not part of it.
    """
    return _Tree(playbook).node(playbook.entry, 0)


class _Tree:
    def __init__(self, playbook: Playbook) -> None:
        self._steps = playbook.steps
        self._opened: set[str] = set()

    def node(self, name: str, depth: int) -> FlowNode:
        step = self._steps.get(name)
        if step is None:
            return FlowNode(step=name)
        repeated = name in self._opened or depth >= TREE_DEPTH_MAX
        arcs: tuple[FlowArc, ...] = ()
        if not repeated:
            self._opened.add(name)
            arcs = tuple(
                FlowArc(
                    condition=_condition(arc), target=self.node(arc.target, depth + 1)
                )
                for arc in step.next.arcs
            )
        return FlowNode(
            step=name,
            kind=step.kind,
            loop=_loop(step),
            tasks=step.labels,
            calls="" if step.call is None else step.call.path or step.call.catalog_id,
            inclusive=step.next.inclusive,
            repeated=repeated,
            arcs=arcs,
        )


def mermaid(playbook: Playbook, states: Mapping[str, str] | None = None) -> str:
    """A Mermaid flowchart of every step and arc.

    Args:
        states: step → text that begins with its state in lower case; colours the
            known ones (STATE_STYLES).
    """
    states = states or {}
    words = {name: text.partition(" ")[0] for name, text in states.items()}
    names = dict.fromkeys(playbook.steps)
    for step in playbook.steps.values():
        names.update(dict.fromkeys(arc.target for arc in step.next.arcs))
    ids = {name: f"s{index}" for index, name in enumerate(names)}
    lines = ["flowchart TD"]
    for name in names:
        lines.append(f"    {_box(ids[name], name, playbook, states.get(name, ''))}")
    for step in playbook.steps.values():
        for arc in step.next.arcs:
            label = _escaped(_condition(arc))
            middle = f'-->|"{label}"|' if label else "-->"
            lines.append(f"    {ids[step.name]} {middle} {ids[arc.target]}")
    used = dict.fromkeys(
        state for name, state in words.items() if name in ids and state in STATE_STYLES
    )
    for state in used:
        lines.append(f"    classDef {state} {STATE_STYLES[state]}")
        members = [ids[name] for name in ids if words.get(name) == state]
        lines.append(f"    class {','.join(members)} {state}")
    return "\n".join(lines) + "\n"


def _box(node: str, name: str, playbook: Playbook, state: str) -> str:
    step = playbook.steps.get(name)
    if step is None:
        return f'{node}(["{_escaped(name)}"])'
    called = "" if step.call is None else step.call.path or step.call.catalog_id
    kind = " → ".join(step.labels) or f"{step.kind} {called}".rstrip()
    parts = [name, kind, _loop(step), state]
    text = "<br/>".join(_escaped(part) for part in parts if part)
    if step.loop is not None:
        return f'{node}[["{text}"]]'
    if name == playbook.entry:
        return f'{node}(["{text}"])'
    return f'{node}["{text}"]'


def _loop(step: Step) -> str:
    loop = step.loop
    if loop is None:
        return ""
    if loop.cursor is not None:
        return f"for {loop.iterator} claimed by {loop.cursor.kind}"
    over = loop.collection if isinstance(loop.collection, str) else "a literal"
    mode = "" if loop.mode == "sequential" else f" ({loop.mode})"
    return f"for {loop.iterator} in {over}{mode}"


def _condition(arc: Arc) -> str:
    if arc.when is None or arc.when is True:
        return ""
    return "never" if arc.when is False else arc.when.strip()


def _escaped(text: str) -> str:
    """Text inside a quoted Mermaid label, at most 120 characters of it."""
    short = text if len(text) <= 120 else f"{text[:119]}…"
    return short.translate(_ESCAPED)
