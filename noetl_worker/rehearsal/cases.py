"""The file of cases beside a playbook: what its tools answer, what must come of it.

Reading is total: cases, or one error with file, line and path. A step or an arc that
the playbook does not have is an error too, so a renamed step cannot pass unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Final, cast

from msgspec import UNSET, Struct, UnsetType, field

from noetl_worker.rehearsal.answers import Place, Script, read_script
from state_builder.errors import InvalidError
from state_builder.playbook import Playbook, parse
from state_builder.playbook.findings import written
from state_builder.playbook.source import Document, SourceError, read, type_name
from state_builder.records import JSON

ReadText = Callable[[str], str]
"""The text of a file named in the cases, relative to them. Raises InvalidError."""

CASES_SUFFIX: Final = ".test.yaml"
STATUSES: Final = ("COMPLETED", "FAILED", "CANCELLED")
STEP_STATUSES: Final = ("completed", "failed", "skipped", "none")
ORDERS: Final = ("first", "last")

_FILE_KEYS = frozenset(("cases", "tools", "children"))
_CASE_KEYS = frozenset(("name", "workload", "tools", "order", "expect", "children"))
_EXPECT_KEYS = frozenset(
    ("status", "result", "steps", "arcs", "variables", "calls", "error")
)
_STEP_KEYS = frozenset(("status", "visits", "result"))


class CaseError(InvalidError):
    """A file of cases that cannot be used."""

    code = "cases"


class ExpectedStep(Struct, frozen=True, kw_only=True):
    """What must be said of a step in the end; ``none`` = never entered nor skipped."""

    status: str = ""
    visits: int | None = None
    result: JSON | UnsetType = UNSET


class ExpectedArc(Struct, frozen=True):
    """``a -> b`` taken at least once, or never."""

    arc: str
    taken: bool


class Expected(Struct, frozen=True, kw_only=True):
    """What must come of a case; what is not named may be anything.

    Attributes:
        calls: ``step`` or ``step.task`` → what the rendered configuration of each
            call holds, at least.
        error: part of the execution's error.
    """

    status: str = "COMPLETED"
    result: JSON | UnsetType = UNSET
    steps: dict[str, ExpectedStep] = field(default_factory=dict)
    arcs: tuple[ExpectedArc, ...] = ()
    variables: dict[str, JSON] = field(default_factory=dict)
    calls: dict[str, list[dict[str, JSON]]] = field(default_factory=dict)
    error: str = ""


class Case(Struct, frozen=True, kw_only=True):
    """One rehearsal.

    Attributes:
        order: which of several open commands ends first: the oldest or the newest.
        scripts: path of a playbook → step → answer.
        children: path → text of the playbooks it may call.
    """

    name: str
    workload: dict[str, JSON]
    order: str
    scripts: dict[str, dict[str, Script]]
    children: dict[str, str]
    expected: Expected


def read_cases(
    name: str, text: str, playbook: Playbook, read_text: ReadText
) -> list[Case]:
    """The cases of a file.

    Args:
        name: of the file, for errors.

    Raises:
        CaseError: what is wrong, and where.
    """
    try:
        document = read(text)
    except SourceError as error:
        raise CaseError(f"{name}:{error.line}: {error}") from error
    return _Reader(name, document, playbook, read_text).cases()


class _Reader:
    def __init__(
        self, name: str, document: Document, playbook: Playbook, read_text: ReadText
    ) -> None:
        self._name = name
        self._document = document
        self._playbook = playbook
        self._read_text = read_text
        self._child: dict[str, tuple[str, Playbook]] = {}

    def refuse(self, place: Place, problem: str) -> InvalidError:
        """The error of a place."""
        line = self._document.line_of(place)
        path = f" {written(place)}:" if place else ""
        return CaseError(f"{self._name}:{line}:{path} {problem}")

    def cases(self) -> list[Case]:
        root = self._known_keys(self._document.value, (), _FILE_KEYS)
        items = root.get("cases")
        if not isinstance(items, list) or not items:
            raise self.refuse(("cases",), "write a list of cases under 'cases'")
        cases = [
            self._case(self._map(item, ("cases", index)), ("cases", index), root)
            for index, item in enumerate(items)
        ]
        seen: set[str] = set()
        for index, case in enumerate(cases):
            if case.name in seen:
                problem = f"two cases are named '{case.name}'"
                raise self.refuse(("cases", index), problem)
            seen.add(case.name)
        return cases

    def _case(
        self, value: dict[str, JSON], place: Place, root: dict[str, JSON]
    ) -> Case:
        self._known_keys(value, place, _CASE_KEYS)
        name = value.get("name")
        if not isinstance(name, str) or not name:
            raise self.refuse(place, "a case needs a name")
        order = value.get("order", "first")
        if order not in ORDERS:
            problem = f"order must be one of {', '.join(ORDERS)}"
            raise self.refuse((*place, "order"), problem)
        own = self._playbook.path
        scripts: dict[str, dict[str, Script]] = {own: {}}
        children: dict[str, str] = {}
        for block, where in ((root, cast(Place, ())), (value, place)):
            tools = self._map(block.get("tools"), (*where, "tools"))
            scripts[own] |= self._scripts(tools, (*where, "tools"), self._playbook)
            self._children(block, where, scripts, children)
        workload = self._map(value.get("workload"), (*place, "workload"))
        return Case(
            name=name,
            workload=workload,
            order=str(order),
            scripts=scripts,
            children=children,
            expected=self._expected(value, place),
        )

    def _scripts(
        self, tools: dict[str, JSON], place: Place, playbook: Playbook
    ) -> dict[str, Script]:
        for step in tools:
            self._check_step(step, (*place, step), playbook)
        return {
            step: read_script(answer, (*place, step), self.refuse)
            for step, answer in tools.items()
        }

    def _children(
        self,
        block: dict[str, JSON],
        where: Place,
        scripts: dict[str, dict[str, Script]],
        children: dict[str, str],
    ) -> None:
        place = (*where, "children")
        for path, given in self._map(block.get("children"), place).items():
            inner = (*place, path)
            child: dict[str, JSON] = {"file": given} if isinstance(given, str) else {}
            child = child or self._map(given, inner)
            self._known_keys(child, inner, frozenset(("file", "tools")))
            text, playbook = self._loaded(child.get("file"), inner)
            children[path] = text
            tools = self._map(child.get("tools"), (*inner, "tools"))
            found = self._scripts(tools, (*inner, "tools"), playbook)
            scripts[path] = {**scripts.get(path, {}), **found}

    def _loaded(self, file: JSON, place: Place) -> tuple[str, Playbook]:
        if not isinstance(file, str):
            raise self.refuse(place, "name the file of the called playbook")
        known = self._child.get(file)
        if known is not None:
            return known
        try:
            text = self._read_text(file)
        except InvalidError as error:
            raise self.refuse(place, str(error)) from error
        result = parse(text)
        if result.playbook is None:
            first = result.errors[0]
            problem = f"{file}:{first.line}: {first.message}"
            raise self.refuse(place, problem)
        self._child[file] = (text, result.playbook)
        return self._child[file]

    def _expected(self, case: dict[str, JSON], place: Place) -> Expected:
        place = (*place, "expect")
        value = self._map(case.get("expect"), place)
        self._known_keys(value, place, _EXPECT_KEYS)
        error = value.get("error", "")
        if not isinstance(error, str):
            raise self.refuse((*place, "error"), "error must be a part of its text")
        status = value.get("status", "FAILED" if error else "COMPLETED")
        if status not in STATUSES:
            problem = f"status must be one of {', '.join(STATUSES)}"
            raise self.refuse((*place, "status"), problem)
        steps = self._map(value.get("steps"), (*place, "steps"))
        arcs = value.get("arcs", [])
        if not isinstance(arcs, list):
            raise self.refuse((*place, "arcs"), "arcs must be a list of 'a -> b'")
        return Expected(
            status=str(status),
            result=value.get("result", UNSET),
            steps={
                name: self._step(name, given, (*place, "steps", name))
                for name, given in steps.items()
            },
            arcs=tuple(
                self._arc(arc, (*place, "arcs", index))
                for index, arc in enumerate(arcs)
            ),
            variables=self._map(value.get("variables"), (*place, "variables")),
            calls=self._calls(value.get("calls"), (*place, "calls")),
            error=error,
        )

    def _calls(self, given: JSON, place: Place) -> dict[str, list[dict[str, JSON]]]:
        """A map stands for one call, a list for as many as it has elements."""
        found: dict[str, list[dict[str, JSON]]] = {}
        for name, value in self._map(given, place).items():
            inner = (*place, name)
            step, dot, label = name.partition(".")
            self._check_step(step, inner, self._playbook)
            labels = self._playbook.steps[step].labels
            if dot and label not in labels:
                problem = f"step '{step}' has no task '{label}'"
                raise self.refuse(inner, problem)
            calls = value if isinstance(value, list) else [value]
            found[name] = [
                self._map(one, (*inner, index)) for index, one in enumerate(calls)
            ]
        return found

    def _step(self, name: str, given: JSON, place: Place) -> ExpectedStep:
        self._check_step(name, place, self._playbook)
        word: dict[str, JSON] = {"status": given} if isinstance(given, str) else {}
        value = word or self._map(given, place)
        self._known_keys(value, place, _STEP_KEYS)
        status = value.get("status", "")
        if status and status not in STEP_STATUSES:
            problem = f"status of a step is one of {', '.join(STEP_STATUSES)}"
            raise self.refuse(place, problem)
        visits = value.get("visits")
        if visits is not None and (not isinstance(visits, int) or visits is True):
            raise self.refuse((*place, "visits"), "visits must be a number")
        return ExpectedStep(
            status=str(status), visits=visits, result=value.get("result", UNSET)
        )

    def _arc(self, given: JSON, place: Place) -> ExpectedArc:
        text = given if isinstance(given, str) else ""
        taken = not text.startswith("not ")
        parts = [part.strip() for part in text.removeprefix("not ").split("->")]
        if len(parts) != 2:
            raise self.refuse(place, "an arc is written 'a -> b' or 'not a -> b'")
        self._check_step(parts[0], place, self._playbook)
        arcs = self._playbook.steps[parts[0]].next.arcs
        if parts[1] not in {arc.target for arc in arcs}:
            problem = f"step '{parts[0]}' has no arc to '{parts[1]}'"
            raise self.refuse(place, problem)
        return ExpectedArc(f"{parts[0]} -> {parts[1]}", taken)

    def _check_step(self, name: str, place: Place, playbook: Playbook) -> None:
        if name not in playbook.steps:
            known = ", ".join(playbook.steps)
            problem = (
                f"playbook '{playbook.path}' has no step '{name}' (it has {known})"
            )
            raise self.refuse(place, problem)

    def _map(self, value: JSON, place: Place) -> dict[str, JSON]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.refuse(place, f"must be a map, not a {type_name(value)}")
        return value

    def _known_keys(
        self, value: dict[str, JSON], place: Place, known: frozenset[str]
    ) -> dict[str, JSON]:
        for key in value:
            if key not in known:
                problem = f"unknown key '{key}' (known: {', '.join(sorted(known))})"
                raise self.refuse((*place, key), problem)
        return value


def cases_file(playbook_file: PurePath) -> PurePath:
    """Where the cases of a playbook are: ``<name>.test.yaml`` beside it."""
    return playbook_file.with_name(f"{playbook_file.stem}{CASES_SUFFIX}")
