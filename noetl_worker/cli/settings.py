"""``settings``: every environment variable there is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.options import AsJson
from noetl_worker.cli.screen import line, put_json, show, table
from noetl_worker.settings import Settings, Variable
from state_builder.records import JSON

Markdown = Annotated[
    bool,
    Parameter("--markdown", negative="", show_default=False, help="As Markdown."),
]


def settings(*, json: AsJson = False, markdown: Markdown = False) -> int:
    """Show every environment variable: default, unit and meaning."""
    variables = Settings.variables()
    if markdown:
        line(as_markdown(variables).rstrip("\n"))
        return ExitCode.OK
    if json:
        put_json([_as_json(variable) for variable in variables])
        return ExitCode.OK
    rows = table(("variable", "default", "meaning"))
    rows.columns[0].no_wrap = True
    room = ""
    for variable in variables:
        if room and variable.room != room:
            rows.add_section()
        room = variable.room
        unit = f" {variable.unit}" if variable.unit and variable.default else ""
        older = f" (also {', '.join(variable.aliases)})" if variable.aliases else ""
        rows.add_row(
            variable.name, f"{variable.default}{unit}", f"{variable.doc}{older}"
        )
    show(rows)
    return ExitCode.OK


def as_markdown(variables: Iterable[Variable]) -> str:
    """The page of all settings that stands beside the chart."""
    found = [
        "# Settings",
        "",
        "Every environment variable, by room. Written by `noetl settings --markdown`.",
    ]
    room = ""
    for variable in variables:
        if variable.room != room:
            room = variable.room
            found += ["", f"## {room}", "", "| Variable | Default | Meaning |"]
            found.append("|---|---|---|")
        unit = f" {variable.unit}" if variable.unit and variable.default else ""
        default = f"`{variable.default}`{unit}" if variable.default else ""
        older = "".join(f" (also `{name}`)" for name in variable.aliases)
        meaning = f"{variable.doc}{older}".replace("|", "\\|")
        found.append(f"| `{variable.name}` | {default} | {meaning} |")
    return "\n".join(found) + "\n"


def _as_json(variable: Variable) -> JSON:
    return {
        "name": variable.name,
        "aliases": list(variable.aliases),
        "default": variable.default,
        "unit": variable.unit,
        "room": variable.room,
        "meaning": variable.doc,
        "secret": variable.secret,
    }
