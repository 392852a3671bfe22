"""``tools``: what a step can do, and how one kind is used."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from msgspec import to_builtins

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.options import AsJson
from noetl_worker.cli.screen import line, put_json, show, table
from state_builder.records import JSON
from tools.manual import Manual, documented, manual_of
from tools.registry import NOT_BUILT

Kind = Annotated[str, Parameter(help="Kind of tool, like http.")]


def tools(kind: Kind = "", /, *, json: AsJson = False) -> int:
    """List the kinds of tools, or show one: fields, result, errors, an example."""
    if json:
        kinds = [kind] if kind else documented()
        found = [_as_json(name, manual_of(name)) for name in kinds]
        put_json(found[0] if kind else list(found))
    elif kind:
        _page(kind, manual_of(kind))
    else:
        rows = table(("kind", "what it does"))
        for name in documented():
            rows.add_row(name, manual_of(name).line)
        for name, hint in sorted(NOT_BUILT.items()):
            if name not in documented():
                rows.add_row(name, f"Not available in this build; {hint}.")
        show(rows)
    return ExitCode.OK


def _as_json(kind: str, manual: Manual) -> JSON:
    found: dict[str, JSON] = to_builtins(manual)
    return {"kind": kind, **found}


def _page(kind: str, manual: Manual) -> None:
    line(f"{kind}: {manual.line}")
    if manual.needs:
        line(f"Needs {manual.needs}.")
    if manual.fields:
        rows = table(("field", "type", "default", "meaning"))
        for name, one in manual.fields.items():
            default = "required" if one.required else one.default
            also = f" (also {', '.join(one.also)})" if one.also else ""
            rows.add_row(name, one.type, default, f"{one.meaning}{also}")
        show(rows)
    line(f"Result: {manual.result}")
    if manual.errors:
        errors = table(("error kind", "when"))
        for name, when in manual.errors.items():
            errors.add_row(name, when)
        show(errors)
    for note in manual.notes:
        line(f"- {note}")
    line(f"\nExample:\n\n{manual.example.strip()}")
