"""``settings``: every environment variable there is."""

from __future__ import annotations

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.options import AsJson
from noetl_worker.cli.screen import put_json, show, table
from noetl_worker.settings import Settings, Variable
from state_builder.records import JSON


def settings(*, json: AsJson = False) -> int:
    """Show every environment variable: default, unit and meaning."""
    variables = Settings.variables()
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
