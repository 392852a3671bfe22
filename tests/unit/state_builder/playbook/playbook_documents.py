"""Small documents for the tests of the playbook room."""

from __future__ import annotations

from textwrap import dedent, indent

import msgspec

from state_builder.playbook import Playbook, load, parse
from state_builder.playbook.model import Finding, Step
from state_builder.records import JSON

HEAD = "apiVersion: noetl.io/v2\nkind: Playbook\nmetadata: {name: shop/sync}\n"
"""Three lines: a workflow behind it begins in line 4, its first step in line 5."""

END = "- {step: end, tool: {kind: noop}}\n"


def book(workflow: str, root: str = "") -> str:
    """A document with these steps (as list items) and further root keys below them."""
    steps = indent(dedent(workflow).strip("\n"), "  ")
    return f"{HEAD}workflow:\n{steps}\n{dedent(root)}"


def start(body: str, more: str = "", root: str = "") -> str:
    """A document whose step ``start`` has these keys; ``body`` begins in line 6."""
    keys = indent(dedent(body).strip("\n"), "  ")
    return book(f"- step: start\n{keys}\n{dedent(more)}", root)


def step(body: str, more: str = "", root: str = "") -> Step:
    """The step ``start`` of such a document, which must have no errors."""
    return load(start(body, more, root)).steps["start"]


def tool(body: str, root: str = "") -> JSON:
    """The canonical tool of a step with this ``tool``."""
    keys = indent(dedent(body).strip("\n"), "  ")
    return decoded(step(f"tool:\n{keys}", root=root).tool)


def decoded(raw: msgspec.Raw) -> JSON:
    """Raw JSON as a value."""
    value: JSON = msgspec.json.decode(bytes(raw))
    return value


def errors(text: str | bytes) -> list[tuple[str, str]]:
    """(id, message) of every error."""
    return [(item.id, item.message) for item in parse(text).errors]


def warnings(text: str) -> list[str]:
    """Messages of every warning."""
    return [item.message for item in parse(text).warnings]


def only(findings: tuple[Finding, ...]) -> Finding:
    """The one finding."""
    assert len(findings) == 1, findings
    return findings[0]


def whole(steps: str) -> Playbook:
    """The playbook of these steps."""
    return load(book(steps))
