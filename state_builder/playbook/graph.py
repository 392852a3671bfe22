"""What the graph of a playbook alone makes suspicious (PB-750)."""

from __future__ import annotations

from state_builder.playbook.findings import Report
from state_builder.playbook.model import Playbook
from state_builder.playbook.source import Path


def warn_graph(report: Report, playbook: Playbook) -> None:
    """Warn of steps nothing leads to, of several leaves, of names that hide others."""
    places: dict[str, Path] = {
        name: ("workflow", step.index) for name, step in playbook.steps.items()
    }
    reached = _reached(playbook)
    for name, path in places.items():
        if reached and name not in reached:
            report.warning(path, f"Step '{name}' is unreachable: nothing leads to it")
        if name in playbook.workload:
            text = (
                f"Step '{name}' has the name of a workload key: "
                f"'{name}' alone means the key until the step is done"
            )
            report.warning(path, text)
    leaves = [
        name
        for name in reached
        if not playbook.steps[name].next.arcs and name != playbook.final_step
    ]
    if len(leaves) > 1 and "end" not in playbook.steps:
        text = f"no step 'end', and several steps end a branch: {', '.join(leaves)}"
        report.warning(("workflow",), text)


def _reached(playbook: Playbook) -> list[str]:
    """Steps a path leads to, in document order; none when there is no entry."""
    steps = playbook.steps
    queue = [name for name in (playbook.entry, playbook.final_step) if name in steps]
    found = set(queue)
    while queue:
        for arc in steps[queue.pop()].next.arcs:
            if arc.target in steps and arc.target not in found:
                found.add(arc.target)
                queue.append(arc.target)
    return [name for name in steps if name in found]
