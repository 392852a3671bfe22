"""``register`` and ``lint``: documents on their way to the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
from cyclopts import Parameter

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.options import AsJson, ServerUrl, connect, read_text
from noetl_worker.cli.screen import line, note, put_json
from state_builder.errors import InvalidError
from state_builder.records import JSON

if TYPE_CHECKING:
    from state_builder.playbook import Finding

Kind = Annotated[
    str, Parameter("--kind", help="Kind of documents that do not name their own.")
]


def register(
    files: Annotated[tuple[Path, ...], Parameter(negative="")],
    /,
    *,
    kind: Kind = "Playbook",
    json: AsJson = False,
    server: ServerUrl = "",
) -> int:
    """Store each file as the next version of its path in the catalog.

    An invalid playbook is stored too, so that drafts can be kept; what is wrong with
    it is printed, and it will not run.

    Parameters
    ----------
    files
        Playbooks, or other documents of the catalog.
    """
    texts = {file: read_text(file) for file in files}

    async def main() -> list[JSON]:
        answers: list[JSON] = []
        async with connect(server) as client:
            for file, text in texts.items():
                answer = await client.register(text, kind)
                answers.append(answer)
                if not json:
                    line(f"{answer['path']} version {answer['version']}")
                    _report(file, text, str(answer["kind"]))
        return answers

    answers = anyio.run(main)
    if json:
        put_json(answers)
    return ExitCode.OK


def lint(
    files: Annotated[tuple[Path, ...], Parameter(negative="")],
    /,
    *,
    json: AsJson = False,
) -> int:
    """Check playbook files without a server.

    Every finding is one line `level: file:line: rule path: message`. Exit code 1 when
    one of them is an error.

    Try:

        noetl lint examples/*.yaml

    Parameters
    ----------
    files
        Playbooks.
    """
    invalid = False
    found: list[JSON] = []
    for file in files:
        errors, warnings = findings(read_text(file))
        invalid = invalid or bool(errors)
        for level, finding in _levelled(errors, warnings):
            found.append(
                {
                    "file": str(file),
                    "line": finding.line,
                    "level": level,
                    "id": finding.id,
                    "path": finding.path,
                    "message": finding.message,
                }
            )
            if not json:
                line(f"{level}: {told(file, finding)}")
    if json:
        put_json(found)
    elif not found:
        line("no findings")
    return ExitCode.FAILED if invalid else ExitCode.OK


def checked_text(file: Path) -> str:
    """The text of a playbook that may run.

    Raises:
        InvalidError: its errors, a line each; warnings are notes on standard error.
    """
    text = read_text(file)
    errors, warnings = findings(text)
    for finding in warnings:
        note(f"warning: {told(file, finding)}")
    if errors:
        lines = "\n".join(f"  {told(file, finding)}" for finding in errors)
        raise InvalidError(f"{file} is no valid playbook:\n{lines}")
    return text


def findings(text: str) -> tuple[list[Finding], list[Finding]]:
    """Errors and warnings of a playbook's text."""
    from state_builder.playbook import parse
    from state_builder.template import check
    from tools.manual import known_fields

    result = parse(text, check_text=check, fields_of=known_fields)
    return list(result.errors), list(result.warnings)


def told(file: Path, finding: Finding) -> str:
    """A finding as editors and people read it."""
    where = f"{file}:{finding.line}" if finding.line else str(file)
    path = f" {finding.path}:" if finding.path else ""
    return f"{where}: {finding.id}{path} {finding.message}"


def _report(file: Path, text: str, kind: str) -> None:
    if kind.lower() != "playbook":
        return
    for level, finding in _levelled(*findings(text)):
        note(f"  {level}: {told(file, finding)}")


def _levelled(
    errors: list[Finding], warnings: list[Finding]
) -> list[tuple[str, Finding]]:
    levelled = [("error", one) for one in errors]
    levelled += [("warning", one) for one in warnings]
    return sorted(levelled, key=lambda one: one[1].line)
