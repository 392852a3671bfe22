"""``graph`` and ``schema``: pictures of a playbook, and what editors ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import anyio
from cyclopts import Parameter
from msgspec import to_builtins

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.inspect import newest
from noetl_worker.cli.options import AsJson, ServerUrl, connect
from noetl_worker.cli.progress import Progress, StepProgress
from noetl_worker.cli.register import checked_text
from noetl_worker.cli.screen import STYLES, duration, line, put_json, show
from state_builder.playbook import (
    FlowNode,
    Playbook,
    document_schema,
    load,
    mermaid,
    tree,
)
from state_builder.records import JSON

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

EVENTS_MAX = 100_000
"""Events of an execution that are read for its picture."""

AsMermaid = Annotated[
    bool,
    Parameter(
        "--mermaid",
        negative="",
        show_default=False,
        help="Print a Mermaid flowchart, as Markdown pages show it.",
    ),
]


def graph(
    target: str,
    /,
    *,
    as_mermaid: AsMermaid = False,
    json: AsJson = False,
    server: ServerUrl = "",
) -> int:
    """Show the steps of a playbook and the ways between them.

    Of an execution, each step comes with its state, its visits and the time it took.

    Try:

        noetl graph examples/orders/playbook.yaml
        noetl graph 7423 --mermaid

    Parameters
    ----------
    target
        A playbook file, or the id of an execution.
    """
    progress = Progress()
    if target.isdecimal() and not Path(target).exists():
        playbook, progress = anyio.run(_executed, target, server)
    else:
        playbook = load(checked_text(Path(target)))
    states = {name: _told(step, progress) for name, step in progress.steps.items()}
    if json:
        shown = cast(dict[str, JSON], to_builtins(tree(playbook)))
        put_json({**shown, "states": cast(JSON, states)} if states else shown)
    elif as_mermaid:
        line(mermaid(playbook, states).rstrip("\n"))
    else:
        show(_branch(tree(playbook), states))
    return ExitCode.OK


async def _executed(execution_id: str, server: str) -> tuple[Playbook, Progress]:
    """The playbook an execution runs, and how far it is."""
    progress = Progress()
    async with connect(server) as client:
        status = await client.status(execution_id)
        found = await client.resource(catalog_id=str(status["catalog_id"]))
        for event in reversed(await newest(client, execution_id, EVENTS_MAX)):
            progress.apply(event)
    return load(str(found["content"])), progress


def _told(step: StepProgress, progress: Progress) -> str:
    """State and time of a step; a state Mermaid knows the looks of comes first."""
    told = step.status.lower()
    if step.visits > 1:
        told += f" ×{step.visits}"
    if step.visits and progress.last is not None:
        told += f" {duration(step.duration_s(progress.last))}"
    return told


def schema() -> int:
    """Print the JSON Schema of playbooks, for editors."""
    put_json(cast(JSON, document_schema()))
    return ExitCode.OK


def _branch(node: FlowNode, states: Mapping[str, str], condition: str = "") -> Tree:
    from rich.tree import Tree

    made = Tree(_label(node, states, condition))
    for arc in node.arcs:
        made.children.append(_branch(arc.target, states, arc.condition))
    return made


def _label(node: FlowNode, states: Mapping[str, str], condition: str) -> Text:
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
    if state := states.get(node.step):
        label.append(f"  {state}", STYLES.get(state.partition(" ")[0].upper(), ""))
    if node.inclusive:
        label.append("  every way that holds", "dim")
    return label
