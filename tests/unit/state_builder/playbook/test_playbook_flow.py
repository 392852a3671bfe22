"""The picture of a playbook says what its steps do and where they lead."""

from __future__ import annotations

from playbook_documents import whole

from state_builder.playbook.flow import TREE_DEPTH_MAX, mermaid, tree

STEPS = """
- {step: start, tool: {kind: noop}, next: {spec: {mode: inclusive}, arcs: [
    {step: each, when: "{{ a < 1 }}"}, {step: claim, when: false}, {step: end}]}}
- {step: each, loop: {in: "{{ list }}", iterator: i, spec: {mode: parallel}},
   tool: {kind: playbook, path: lib/c}, next: [claim]}
- {step: claim, loop: {iterator: r, cursor: {claim: q}, spec: {mode: cursor}},
   tool: [{name: a, kind: noop}, {name: b, kind: noop}], next: start}
- {step: plain, tool: {kind: noop}}
- {step: some, loop: {in: [1], iterator: i}, tool: {kind: noop}}
"""


def test_the_tree_opens_every_step_once_in_arc_order() -> None:
    root = tree(whole(STEPS))
    each, claim, end = (arc.target for arc in root.arcs)
    assert [arc.condition for arc in root.arcs] == ["{{ a < 1 }}", "never", ""]
    assert (root.inclusive, each.calls, each.loop) == (
        True,
        "lib/c",
        "for i in {{ list }} (parallel)",
    )
    assert claim.repeated and not claim.arcs and end.kind == ""
    opened = each.arcs[0].target
    assert opened.tasks == ("a", "b") and opened.loop == "for r claimed by postgres"
    assert opened.arcs[0].target.repeated


def test_a_deep_tree_is_cut() -> None:
    """What is too deep is named, not opened."""
    chain = "".join(
        f"- {{step: {'start' if not n else f's{n}'}, tool: {{kind: noop}}, "
        f"next: s{n + 1}}}\n"
        for n in range(TREE_DEPTH_MAX + 2)
    )
    node, depth = tree(whole(chain + f"- {{step: s{TREE_DEPTH_MAX + 2}, "
                             "tool: {kind: noop}}\n")), 0  # fmt: skip
    while node.arcs:
        node, depth = node.arcs[0].target, depth + 1
    assert depth == TREE_DEPTH_MAX and node.repeated


def test_the_picture_escapes_texts_and_shows_states() -> None:
    states = {"start": "completed 1 s", "each": "running", "some": "odd"}
    text = mermaid(whole(STEPS), states)
    assert text.startswith("flowchart TD\n")
    assert "class s0 completed" in text and "classDef running" in text
    assert '["plain<br/>noop"]' in text
    assert "odd" in text and "classDef odd" not in text
    assert '-->|"{{ a #lt; 1 }}"|' in text and '-->|"never"|' in text
    assert "for i in a literal" in text and "a → b" in text
    long = mermaid(whole(f"- {{step: start, tool: {{kind: noop}}, next: {{arcs: ["
                         f"{{step: end, when: \"{{{{ x == '{'y' * 200}' }}}}\"}}]}}}}\n"))  # fmt: skip
    assert "…" in long
