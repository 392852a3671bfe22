"""The names a command's texts may read, decoded when the first text asks.

A command that renders nothing never decodes its context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, cast

from msgspec import Raw, Struct
from msgspec.json import Decoder
from msgspec.json import decode as decode_json

from state_builder.ports import Command
from state_builder.records import JSON, NOTHING, CommandNames, decode_reference
from state_builder.template import (
    External,
    Iteration,
    Scope,
    StepResult,
    external,
    fetched,
    plain,
    stub_of,
)

_decode_names = Decoder(CommandNames).decode
_decode_results = Decoder(dict[str, Raw]).decode


class IterationNames(Struct):
    """``render_context.iteration`` as the drive writes it (PB-225, PB-252)."""

    name: str = ""
    value: object = None
    index: int = 0
    total: int = 0
    frame: int | None = None
    frame_max_rows: object = None
    claim: bool = False


class ResultNames(Struct):
    """A member of ``render_context.steps`` as the drive writes it."""

    form: str = "plain"
    value: object = None
    failed: bool = False
    error: dict[str, object] | None = None
    reference: Raw = NOTHING


_decode_iteration = Decoder(IterationNames).decode
_decode_result = Decoder(ResultNames).decode


class Results(Mapping[str, StepResult]):
    """Step name → result, each decoded on first use.

    One that is stored elsewhere is its summary until its value was put here.
    """

    __slots__ = ("_fetched", "_raw", "_seen")

    def __init__(self, raw: dict[str, Raw]) -> None:
        self._raw = raw
        self._fetched: dict[str, bytes] = {}
        self._seen: dict[str, StepResult] = {}

    def __getitem__(self, name: str) -> StepResult:
        found = self._seen.get(name)
        if found is None:
            found = self._seen[name] = _result(
                _decode_result(self._raw[name]), self._fetched
            )
        return found

    def put(self, ref: str, value: bytes) -> None:
        """The value of a stored result."""
        self._fetched[ref] = value
        self._seen.clear()

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def _result(names: ResultNames, values: dict[str, bytes]) -> StepResult:
    if names.reference:
        return _stored_result(names, values)
    return StepResult(
        value=cast("JSON", names.value),
        form=names.form,
        error=cast("dict[str, JSON] | None", names.error),
        failed=names.failed,
    )


def _stored_result(names: ResultNames, values: dict[str, bytes]) -> StepResult:
    reference = decode_reference(names.reference)
    error = cast("dict[str, JSON] | None", names.error)
    data = values.get(reference.ref)
    if data is None:
        return external(reference, names.form, error=error, failed=names.failed)
    value: JSON = decode_json(data)
    return fetched(value, reference, names.form, error=error, failed=names.failed)


def names_of(context: Raw) -> CommandNames:
    """A command's names, each row still raw."""
    return _decode_names(context) if context else CommandNames()


def scope_of(
    command: Command,
    names: CommandNames,
    functions: dict[str, Callable[..., JSON]],
    server_url: str,
) -> Scope:
    """The scope of a command; its rows may be written to by its tasks alone."""
    scope = Scope(
        execution_id=command.execution_id,
        fixed={},
        inputs={},
        runtime={},
        iter_vars={},
        args=_map(names.args),
        overlay=_map(names.overlay),
        ctx=_map(names.ctx),
        results=Results(_decode_results(names.steps) if names.steps else {}),
        workload=_map(names.workload),
        weak={
            **_map(names.weak),
            **_own_names(command),
            "server_url": server_url,
        },
        event=_map(names.event),
        functions=functions,
    )
    if names.iteration:
        _enter_iteration(scope, _decode_iteration(names.iteration))
    return scope


def _map(raw: Raw) -> dict[str, JSON]:
    found: dict[str, JSON] = decode_json(raw) if raw else {}
    return found


def _own_names(command: Command) -> dict[str, JSON]:
    """What the worker knows of the command (TL-TPL-08, PB-462)."""
    return {
        "step": command.step,
        "action": command.step,
        "node_name": command.step,
        "command_id": command.command_id,
        "worker_id": command.worker_id,
        "path": command.path,
    }


def _enter_iteration(scope: Scope, names: IterationNames) -> None:
    runtime: dict[str, object] = {}
    if names.frame is not None:
        runtime["__frame"] = names.frame
        runtime["__frame_max_rows"] = names.frame_max_rows
    scope.runtime = runtime
    if not names.claim:
        scope.iteration = Iteration(
            name=names.name,
            value=cast("JSON", names.value),
            index=names.index,
            total=names.total,
        )


def iteration_input(scope: Scope) -> dict[str, JSON]:
    """What an iteration adds to its tool's input (PB-050)."""
    iteration = scope.iteration
    if iteration is None:
        return {}
    return {iteration.name: plain(iteration.value), "loop_index": iteration.index}


def _by_value(value: object) -> JSON:
    """The value; of a stored result nobody asked for, what stands for it."""
    return stub_of(value.stored) if isinstance(value, External) else plain(value)


_ROWS: Final = ("weak", "workload", "results", "ctx", "overlay", "args", "runtime")


def variables_of(scope: Scope) -> dict[str, JSON]:
    """All names by value, the first row of PB-450 winning (TL-PY-04)."""
    found: dict[str, JSON] = {"execution_id": scope.execution_id}
    for row in _ROWS:
        names: Mapping[str, object] = getattr(scope, row)
        found.update({name: _by_value(names[name]) for name in names})
    return {**found, **iteration_input(scope)}
