"""A step's ``tool`` in any spelling: single tool, pipeline, workbook reference (§4).

Nobody downstream sees a workbook: a reference is laid over its action before anything
else is looked at (PB-081, PB-082).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

from state_builder.playbook.findings import Block, Report
from state_builder.playbook.policy import Standing
from state_builder.playbook.source import Path, type_name
from state_builder.playbook.toolspec import (
    SEQUENCE,
    WORKBOOK,
    Field,
    Fields,
    configured,
    flatten,
    kind_of,
    overlaid,
    pool_of,
)
from state_builder.records import JSON

REFERENCES_MAX: Final = 8
"""Workbook references that may follow each other (PB-082)."""

SEQUENCES_MAX: Final = 3
"""Pipelines inside each other (TL-TS-32)."""


class Entry(Struct, frozen=True):
    """One tool of a pipeline, as spelled."""

    label: str
    tool: dict[str, JSON]
    path: Path


class Workbook(Struct):
    """Actions by name (PB-080), and which of them a step refers to."""

    actions: dict[str, Field] = field(default_factory=dict)
    extras: dict[str, dict[str, JSON]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


class Work(Struct, frozen=True, kw_only=True):
    """What a step runs.

    Attributes:
        config: ``{"kind": …}``, for a pipeline with ``tasks``.
        input: input of a pipeline as a whole; under its tasks' own.
        path: where the tool stands, the action's for a workbook reference.
    """

    config: dict[str, JSON]
    path: Path
    labels: tuple[str, ...] = ()
    input: dict[str, JSON] = field(default_factory=dict)
    pool: str = ""


class _Resolved(Struct, frozen=True):
    """A tool with references followed; ``entries`` of a pipeline, else None."""

    fields: Fields
    kind: str
    entries: list[Entry] | None = None


def read_workbook(root: Block) -> Workbook:
    """The playbook's ``workbook``: a list of actions, or ``{tasks: {name: tool}}``."""
    workbook = Workbook()
    if isinstance(root.get("workbook"), dict):
        tasks = root.block("workbook").block("tasks")
        for name, tool in tasks.value.items():
            workbook.actions[name] = Field(tool, tasks.at(name))
        return workbook
    for index, item in enumerate(root.items("workbook")):
        path: Path = ("workbook", index)
        if not isinstance(item, dict):
            root.report.wrong(path, item, "a map")
            continue
        block = Block(root.report, path, item)
        block.warn_ignored({"name", "tool", "desc", "description", "sink", "assert"})
        name = block.text("name")
        if not name:
            text = f"workbook[{index}]: 'name' is required"
            root.report.error("PB-724", path, text)
        elif name in workbook.actions:
            text = f"Duplicate workbook action name: {name}"
            root.report.error("PB-724", block.at("name"), text)
        elif block.get("tool") is None:
            text = f"workbook action '{name}': tool is required"
            root.report.error("PB-724", path, text)
        else:
            workbook.actions[name] = Field(item["tool"], block.at("tool"))
            workbook.extras[name] = {
                key: item[key] for key in ("sink", "assert") if key in item
            }
    return workbook


def read_work(
    report: Report, value: JSON, path: Path, workbook: Workbook
) -> Work | None:
    """What a step runs; None after findings that leave nothing to run."""
    return _Reader(report, workbook).work(value, path)


def _is_tool(value: JSON) -> bool:
    return isinstance(value, dict) and "kind" in value


class _Reader:
    def __init__(self, report: Report, workbook: Workbook) -> None:
        self._report = report
        self._workbook = workbook

    def work(self, value: JSON, path: Path) -> Work | None:
        found = self._resolve_any(value, path, ())
        if found is None:
            return None
        pool = pool_of(found.fields)
        if found.entries is None:
            config = self._configured(found, path, Standing())
            return Work(config=config, path=path, pool=pool)
        own = found.fields.pop("input", None)
        return Work(
            config=self._sequence(found, path, depth=1),
            path=path,
            labels=tuple(entry.label for entry in found.entries),
            input=own.value if own is not None and isinstance(own.value, dict) else {},
            pool=pool,
        )

    def _resolve_any(
        self, value: JSON, path: Path, seen: tuple[str, ...]
    ) -> _Resolved | None:
        """Any spelling of PB-060."""
        if isinstance(value, list):
            return _Resolved({}, SEQUENCE, self._entries(value, path))
        if not isinstance(value, dict):
            self._report.wrong(path, value, "a map or a list")
            return None
        if "kind" not in value and value and all(map(_is_tool, value.values())):
            entries = [
                Entry(label, tool, (*path, label))
                for label, tool in value.items()
                if isinstance(tool, dict)
            ]
            return _Resolved({}, SEQUENCE, entries)
        return self._resolve(value, path, seen)

    def _resolve(
        self, tool: dict[str, JSON], path: Path, seen: tuple[str, ...], label: str = ""
    ) -> _Resolved | None:
        """One map with ``kind``."""
        fields = flatten(self._report, tool, path)
        kind = kind_of(self._report, fields, path)
        if kind == WORKBOOK:
            return self._referred(fields, path, seen, label)
        if kind != SEQUENCE:
            return _Resolved(fields, kind) if kind else None
        tasks = fields.pop("tasks", None)
        if tasks is None or not isinstance(tasks.value, list):
            missing = Field(None, (*path, "tasks"))
            wrong = missing if tasks is None else tasks
            self._report.wrong(wrong.path, wrong.value, "a list")
            return None
        return _Resolved(fields, kind, self._entries(tasks.value, tasks.path))

    def _referred(
        self, reference: Fields, path: Path, seen: tuple[str, ...], label: str
    ) -> _Resolved | None:
        """The action a reference names, under the reference (PB-081)."""
        named = ("task", "action", "name") if label else ("name", "task", "action")
        name = next((reference[key].value for key in named if key in reference), None)
        problem = self._reference_problem(name, seen)
        if problem or not isinstance(name, str):
            self._report.error("PB-724", path, problem)
            return None
        self._workbook.used.add(name)
        action = self._workbook.actions[name]
        found = self._resolve_any(action.value, action.path, (*seen, name))
        if found is None:
            return None
        extras = {
            key: Field(value, action.path)
            for key, value in self._workbook.extras.get(name, {}).items()
        }
        fields = overlaid({**extras, **found.fields}, reference)
        return _Resolved(fields, found.kind, found.entries)

    def _reference_problem(self, name: JSON, seen: tuple[str, ...]) -> str:
        if not isinstance(name, str) or not name:
            return (
                "tool.kind=workbook requires a 'name' field "
                "referencing a workbook action"
            )
        if name not in self._workbook.actions:
            available = ", ".join(self._workbook.actions)
            return (
                f"workbook action '{name}' not found in playbook.workbook[] "
                f"(available: [{available}])"
            )
        if name in seen:
            circle = " → ".join((*seen[seen.index(name) :], name))
            return f"workbook actions refer to each other in a circle: {circle}"
        if len(seen) >= REFERENCES_MAX:
            return f"workbook references nest more than {REFERENCES_MAX} deep"
        return ""

    def _entries(self, items: list[JSON], path: Path) -> list[Entry]:
        """The tools of a list, each with its label (PB-060 b, c)."""
        if not items:
            text = "tool pipeline must have at least one task"
            self._report.error("PB-710", path, text)
        entries: dict[str, Entry] = {}
        for index, item in enumerate(items):
            entry = self._entry(item, index, (*path, index))
            if entry is None:
                continue
            if entry.label in entries:
                text = f"duplicate task label '{entry.label}'"
                self._report.error("PB-712", entry.path, text)
            entries[entry.label] = entry
        return list(entries.values())

    def _entry(self, item: JSON, index: int, path: Path) -> Entry | None:
        if isinstance(item, dict) and "kind" in item:
            label = item.get("name")
            if label is not None and not isinstance(label, str):
                self._report.wrong((*path, "name"), label, "a text")
            named = isinstance(label, str) and label
            return Entry(str(label) if named else f"task_{index + 1}", item, path)
        if isinstance(item, dict) and len(item) == 1:
            label, tool = next(iter(item.items()))
            if isinstance(tool, dict):
                return Entry(label, tool, (*path, label))
            self._report.wrong((*path, label), tool, "a map with 'kind'")
            return None
        got = len(item) if isinstance(item, dict) else type_name(item)
        text = f"pipeline task[{index}] must have exactly one labeled entry (got {got})"
        self._report.error("PB-711", path, text)
        return None

    def _sequence(self, found: _Resolved, path: Path, *, depth: int) -> dict[str, JSON]:
        """A pipeline: every task configured, in order."""
        assert found.entries is not None
        if depth > SEQUENCES_MAX:
            text = f"pipelines nest more than {SEQUENCES_MAX} deep"
            self._report.error("PB-711", path, text)
            return {"kind": SEQUENCE, "tasks": []}
        labels = tuple(entry.label for entry in found.entries)
        tasks: list[JSON] = []
        for position, entry in enumerate(found.entries):
            standing = Standing(labels, position)
            task = self._task(entry, standing, depth)
            if task is not None:
                tasks.append({"label": entry.label, **task})
        rest = self._configured(_Resolved(found.fields, SEQUENCE), path, Standing())
        return {**rest, "tasks": tasks}

    def _task(
        self, entry: Entry, standing: Standing, depth: int
    ) -> dict[str, JSON] | None:
        found = self._resolve(entry.tool, entry.path, (), entry.label)
        if found is None:
            return None
        assert standing.labels is not None
        last = standing.position == len(standing.labels) - 1
        if found.kind == "container" and not last:
            text = f"container task '{entry.label}' must be the last of its pipeline"
            self._report.error("PB-726", entry.path, text)
        if found.entries is None:
            return self._configured(found, entry.path, standing)
        if entry.tool.get("kind") == WORKBOOK:
            text = (
                f"workbook action of task '{entry.label}' is a pipeline "
                "and cannot stand inside a pipeline"
            )
            self._report.error("PB-724", entry.path, text)
            return None
        return self._sequence(found, entry.path, depth=depth + 1)

    def _warn_unknown(self, fields: Fields, kind: str) -> None:
        """Fields no tool of the kind reads are most likely misspelt (TL-SPC-07)."""
        known = self._report.fields_of(kind) if self._report.fields_of else None
        if known is None:
            return
        for key in fields.keys() - known:
            text = f"unknown field '{key}' of tool kind '{kind}' is ignored"
            self._report.warning(fields[key].path, text)

    def _configured(
        self, found: _Resolved, path: Path, standing: Standing
    ) -> dict[str, JSON]:
        fields = found.fields
        self._warn_unknown(fields, found.kind)
        named = [fields[key] for key in ("path", "catalog_id") if key in fields]
        if found.kind == "playbook" and all(field.value == "" for field in named):
            text = "tool.kind=playbook requires 'path' or 'catalog_id'"
            self._report.error("PB-726", path, text)
        return configured(self._report, fields, found.kind, standing)
