"""``test``: runs playbooks without a fleet against the cases written beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, cast

import anyio
from cyclopts import Parameter
from msgspec import Struct, to_builtins

from noetl_worker.cli.exits import ExitCode, UsageError
from noetl_worker.cli.options import AsJson, read_text
from noetl_worker.cli.register import checked_text
from noetl_worker.cli.screen import duration, line, put_json
from noetl_worker.rehearsal import (
    CASES_SUFFIX,
    Rehearsal,
    cases_file,
    plain_words,
    read_cases,
)
from noetl_worker.rehearsal import rehearse as rehearsed
from state_builder.errors import InvalidError
from state_builder.playbook import load
from state_builder.records import JSON, encode_json

VALUE_MAX = 300
"""Characters of a value in a difference."""

Only = Annotated[
    str, Parameter("--case", help="Only cases whose name contains this text.")
]
Traced = Annotated[
    bool,
    Parameter("--trace", negative="", help="Show what happened in every case."),
]


class FileOutcome(Struct):
    """What came of one file of cases; ``problem`` when it could not be used."""

    file: str
    playbook: str
    cases: list[CaseOutcome]
    problem: str = ""


class CaseOutcome(Struct):
    """One case with the time it took."""

    passed: bool
    seconds: float
    rehearsal: Rehearsal


def test(
    files: Annotated[tuple[Path, ...], Parameter(negative="")],
    /,
    *,
    case: Only = "",
    trace: Traced = False,
    json: AsJson = False,
) -> int:
    """Run playbooks on scripted tools and check what comes of them.

    Needs no server and takes milliseconds: everything but the tools is the real thing,
    and what they answer stands in `<playbook>.test.yaml` beside the playbook. Exit
    code 1 when a case fails, 3 when a file cannot be used.

    Try:

        noetl test examples/hello.yaml
        noetl test examples --case error --trace

    Parameters
    ----------
    files
        Playbooks, files of cases, or folders to look for those in.
    """
    pairs = list(_pairs(files))
    if not pairs:
        names = ", ".join(map(str, files)) or "no file given"
        raise UsageError(f"{names}: no files of cases (they end in {CASES_SUFFIX})")
    outcomes = anyio.run(_run_all, pairs, case)
    if json:
        put_json(_summary(outcomes))
    else:
        _show(outcomes, trace)
    return _code(outcomes)


def _pairs(files: tuple[Path, ...]) -> Iterator[tuple[Path, Path]]:
    """Playbook and cases, each pair once."""
    seen: set[Path] = set()
    for given in files:
        if given.is_dir():
            found = sorted(given.rglob(f"*{CASES_SUFFIX}"))
        elif given.name.endswith(CASES_SUFFIX):
            found = [given]
        else:
            found = [Path(cases_file(given))]
        for cases in found:
            if cases not in seen:
                seen.add(cases)
                name = cases.name.removesuffix(CASES_SUFFIX)
                yield cases.with_name(f"{name}.yaml"), cases


async def _run_all(pairs: list[tuple[Path, Path]], only: str) -> list[FileOutcome]:
    outcomes = []
    for playbook, cases in pairs:
        outcome = FileOutcome(str(cases), str(playbook), [])
        outcomes.append(outcome)
        try:
            outcome.cases = await _run_file(playbook, cases, only)
        except InvalidError as error:
            outcome.problem = str(error)
    return outcomes


async def _run_file(playbook: Path, cases: Path, only: str) -> list[CaseOutcome]:
    text = checked_text(playbook)
    found = read_cases(
        str(cases),
        read_text(cases),
        load(text),
        lambda name: read_text(cases.parent / name),
    )
    outcomes = []
    for case in found:
        if only in case.name:
            began = time.perf_counter()
            came = await rehearsed(text, case)
            spent = time.perf_counter() - began
            outcomes.append(CaseOutcome(came.passed, spent, came))
    return outcomes


def _summary(outcomes: list[FileOutcome]) -> dict[str, JSON]:
    cases = [one for outcome in outcomes for one in outcome.cases]
    passed = sum(one.passed for one in cases)
    return {
        "passed": passed,
        "failed": len(cases) - passed,
        "unusable": sum(bool(outcome.problem) for outcome in outcomes),
        "files": [cast(JSON, to_builtins(outcome)) for outcome in outcomes],
    }


def _code(outcomes: list[FileOutcome]) -> ExitCode:
    if any(outcome.problem for outcome in outcomes):
        return ExitCode.INVALID
    cases = [one for outcome in outcomes for one in outcome.cases]
    return ExitCode.OK if all(one.passed for one in cases) else ExitCode.FAILED


def _show(outcomes: list[FileOutcome], trace: bool) -> None:
    passed = failed = 0
    seconds = 0.0
    for outcome in outcomes:
        line(outcome.file)
        if outcome.problem:
            line(f"  cannot be used: {outcome.problem}")
        for case in outcome.cases:
            passed += case.passed
            failed += not case.passed
            seconds += case.seconds
            _show_case(case, trace)
    unusable = sum(bool(outcome.problem) for outcome in outcomes)
    told = f"{passed} passed, {failed} failed"
    if unusable:
        told += f", {unusable} files cannot be used"
    line(f"{told} in {duration(seconds)}")


def _show_case(case: CaseOutcome, trace: bool) -> None:
    came = case.rehearsal
    word = "ok  " if case.passed else "FAIL"
    line(f"  {word} {came.case} ({duration(case.seconds)})")
    if came.problem:
        line(f"       {came.problem}")
    for difference in came.differences:
        line(f"       {difference.what}")
        line(f"         expected  {_value(difference.expected)}")
        line(f"         got       {_value(difference.got)}")
    if trace or not case.passed:
        line("       what happened:")
        for text in came.trace:
            line(f"         {plain_words(text)}")


def _value(value: JSON) -> str:
    text = encode_json(value).decode()
    return text if len(text) <= VALUE_MAX else f"{text[:VALUE_MAX]}…"
