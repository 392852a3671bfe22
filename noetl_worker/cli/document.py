"""``graph`` and ``schema``: pictures of a playbook, and what editors ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter
from msgspec import to_builtins

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.options import AsJson
from noetl_worker.cli.register import checked_text
from noetl_worker.cli.screen import line, put_json, show
from state_builder.playbook import FlowNode, document_schema, load, mermaid, tree
from state_builder.records import JSON

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

AsMermaid = Annotated[
    bool,
    Parameter(
        "--mermaid",
        negative="",
        show_default=False,
        help="Print a Mermaid flowchart, as Markdown pages show it.",
    ),
]


def graph(file: Path, /, *, as_mermaid: AsMermaid = False, json: AsJson = False) -> int:
    """Show the steps of a playbook and the ways between them.

    Parameters
    ----------
    file
        The playbook.
    """
    playbook = load(checked_text(file))
    if json:
        put_json(cast(JSON, to_builtins(tree(playbook))))
    elif as_mermaid:
        line(mermaid(playbook).rstrip("\n"))
    else:
        show(_branch(tree(playbook)))
    return ExitCode.OK


def schema() -> int:
    """Print the JSON Schema of playbooks, for editors."""
    put_json(cast(JSON, document_schema()))
    return ExitCode.OK


def _branch(node: FlowNode, condition: str = "") -> Tree:
    from rich.tree import Tree

    made = Tree(_label(node, condition))
    for arc in node.arcs:
        made.children.append(_branch(arc.target, arc.condition))
    return made


def _label(node: FlowNode, condition: str) -> Text:
    from rich.text import Text

    label = Text()
    if condition:
        label.append(f"{condition} → ", "dim")
    label.append(node.step, "bold")
    if node.repeated:
        label.append(" ↑", "dim")
        return label
    what = " › ".join(node.tasks) or node.kind
    for part in (what, node.loop, node.calls):
        if part:
            label.append(f"  {part}", "cyan" if part == what else "magenta")
    if node.inclusive:
        label.append("  every way that holds", "dim")
    return label
