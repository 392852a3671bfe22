"""The names a text sees, and the order in which they are searched (PB §13).

A scope holds the rows of PB-450 as they are and answers one lookup at a time; nothing
is copied or merged before a text asks for it. It is read only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from state_builder.errors import TemplateError
from state_builder.records import JSON
from state_builder.template.results import ABSENT, StepResult, plain

Names = Mapping[str, object]

_NONE: Final[Names] = MappingProxyType({})
_NO_RESULTS: Final[Mapping[str, StepResult]] = MappingProxyType({})


class Iteration(Struct, frozen=True, kw_only=True):
    """The iteration a text stands in (PB-225).

    Attributes:
        name: the loop's iterator.
        value: the element; in a cursor loop the row, or the list of rows.
        index: from 0.
        total: number of elements.
    """

    name: str
    value: JSON | StepResult
    index: int = 0
    total: int = 0


class Scope(Struct, kw_only=True):
    """All names of one place, by the rows of PB-450.

    Attributes:
        execution_id: row 1.
        fixed: row 1: ``output``, ``outcome``, ``_attempt``, ``_task``, ``error``.
        inputs: row 2: the rendered input entries of this tool or task.
        runtime: row 3: labels of tasks that ran (a StepResult each), ``_prev``,
            ``_results``, ``_task``, task-``set`` variables, ``__frame`` …
        iteration: row 3: the iteration names; the roots ``iter`` and ``loop``.
        iter_vars: variables set as ``iter.x`` (PB-202, PB-234).
        args, overlay: row 4: arc ``args`` and arc ``set`` of the token.
        ctx: row 5.
        results: row 6, may decode on access.
        workload: row 7.
        weak: row 8 (PB-462).
        event: ``{"name", "type"}``.
        functions: ``now`` and ``token``, where they may be called.
        keychain: credential values; None where a text may not read them (PB-009).
    """

    execution_id: str = ""
    fixed: Names = _NONE
    inputs: Names = _NONE
    runtime: Names = _NONE
    iteration: Iteration | None = None
    iter_vars: Names = _NONE
    args: Names = _NONE
    overlay: Names = _NONE
    ctx: Names = _NONE
    results: Mapping[str, StepResult] = _NO_RESULTS
    workload: Names = _NONE
    weak: Names = _NONE
    event: Names = _NONE
    functions: Mapping[str, Callable[..., JSON]] = MappingProxyType({})
    keychain: Names | None = None

    def lookup(self, name: str) -> object:
        """The value of a bare name, or :data:`ABSENT`; null is a value."""
        if name == "execution_id":
            return self.execution_id
        if name in self.fixed:
            return self.fixed[name]
        if name in self.inputs:
            return self.inputs[name]
        if name in self.runtime:
            return _labelled(name, self.runtime[name])
        if self.iteration is not None:
            found = _iteration_name(self.iteration, name)
            if found is not ABSENT:
                return found
        root = _ROOTS.get(name)
        if root is not None:
            return root(self)
        for row in (self.args, self.overlay, self.ctx, self.results, self.workload):
            if name in row:
                return row[name]
        if name in self.weak:
            return self.weak[name]
        default = _WEAK_DEFAULTS.get(name)
        return ABSENT if default is None else default(self)


def _labelled(name: str, value: object) -> object:
    """``_results`` is a map of results, whatever the map holds (PB-181, PB-182)."""
    if name == "_results" and isinstance(value, dict):
        return StepResult(value, "labels")
    return value


def _iteration_name(iteration: Iteration, name: str) -> object:
    if name == iteration.name:
        return iteration.value
    if name in ("_index", "loop_index"):
        return iteration.index
    return iteration.total if name == "_total" else ABSENT


class _Context(Mapping[str, object]):
    """The root ``ctx``: variables, falling back to workload and results (PB-454)."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __getitem__(self, name: str) -> object:
        scope = self._scope
        for row in (scope.overlay, scope.ctx, scope.workload, scope.results):
            if name in row:
                return row[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        scope = self._scope
        return iter(dict.fromkeys([*scope.workload, *scope.ctx, *scope.overlay]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _iter_root(scope: Scope) -> dict[str, object]:
    names: dict[str, object] = {}
    iteration = scope.iteration
    if iteration is not None:
        names = {
            "_index": iteration.index,
            "index": iteration.index,
            "_total": iteration.total,
            "_first": iteration.index == 0,
            "_last": iteration.index == iteration.total - 1,
            iteration.name: iteration.value,
        }
    names.update(scope.iter_vars)
    return names


def _loop_root(scope: Scope) -> object:
    iteration = scope.iteration
    if iteration is None:
        return ABSENT
    return {
        "index": iteration.index,
        "length": iteration.total,
        "first": iteration.index == 0,
        "last": iteration.index == iteration.total - 1,
    }


def _keychain_root(scope: Scope) -> Names:
    if scope.keychain is None:
        raise TemplateError("keychain values are not available here")
    return scope.keychain


_ROOTS: Final[dict[str, Callable[[Scope], object]]] = {
    "workload": lambda scope: scope.workload,
    "ctx": _Context,
    "iter": _iter_root,
    "steps": lambda scope: scope.results,
    "event": lambda scope: scope.event,
    "keychain": _keychain_root,
}


def _effective_input(scope: Scope) -> JSON:
    return plain(scope.args or scope.inputs)


def _task_results(scope: Scope) -> object:
    if "_results" not in scope.runtime:
        return ABSENT
    return _labelled("_results", scope.runtime["_results"])


_WEAK_DEFAULTS: Final[dict[str, Callable[[Scope], object]]] = {
    "args": _effective_input,
    "input": _effective_input,
    "loop": _loop_root,
    "results": _task_results,
}
"""Weak names the scope knows itself; what ``weak`` holds goes first (PB-462)."""
