"""The names a text sees in the drive (PB §13), looked up when asked for.

Most conditions read one name. So nothing is decoded up front: results, workload and
the weak names are mappings that decode the one member somebody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from msgspec.json import decode as decode_json
from msgspec.structs import replace

from state_builder.drive.bulk import view
from state_builder.drive.decision import Draft
from state_builder.iteration import Iteration, again
from state_builder.playbook.model import Step
from state_builder.records import JSON, Genesis
from state_builder.state import LoopRun, OpenCommand, Outcome, Pass, State
from state_builder.state.outcomes import encode_failure
from state_builder.template import External, Scope, StepResult, render
from state_builder.template import Iteration as TextIteration


class Results(Mapping[str, StepResult]):
    """Step name → result, decoded on first use; ``own`` is the step at hand."""

    __slots__ = ("_bulk", "_own", "_seen", "_state")

    def __init__(self, draft: Draft, own: dict[str, Outcome]) -> None:
        self._state = draft.state
        self._bulk = draft.turn.bulk
        self._own = own
        self._seen: dict[str, StepResult] = {}

    def _outcome(self, name: str) -> Outcome | None:
        if name in self._own:
            return self._own[name]
        step = self._state.steps.get(name)
        return None if step is None else step.result

    def __getitem__(self, name: str) -> StepResult:
        found = self._seen.get(name)
        if found is None:
            outcome = self._outcome(name)
            if outcome is None:
                raise KeyError(name)
            found = self._seen[name] = view(outcome, self._bulk)
        return found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._outcome(name) is not None

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys([*step_names(self._state), *self._own])
        return (name for name in names if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def step_names(state: State) -> list[str]:
    """Every step the execution ever mentioned, also behind a draft."""
    names = getattr(state.steps, "names", None)
    return list(state.steps) if names is None else names()


Makers: TypeAlias = "dict[str, Callable[[], object]]"


class Lazy(Mapping[str, object]):
    """A mapping whose members are made when read, from makers made when asked for."""

    __slots__ = ("_found", "_list")

    def __init__(self, makers: Callable[[], Makers]) -> None:
        self._list = makers
        self._found: Makers | None = None

    @property
    def _makers(self) -> Makers:
        if self._found is None:
            self._found = self._list()
        return self._found

    def __getitem__(self, name: str) -> object:
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class Workload(Mapping[str, JSON]):
    """The recorded workload, decoded when somebody reads a key."""

    __slots__ = ("_draft",)

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def whole(self) -> dict[str, JSON]:
        """All of it; decoded once while the execution is open."""
        memo = self._draft.turn.memo
        found = memo.get("workload")
        if found is None:
            genesis = self._draft.turn.state.genesis
            assert genesis is not None
            if genesis.workload_ref:
                found = self._draft.turn.bulk.decoded(genesis.workload_ref)
            else:
                found = decode_json(genesis.workload) if genesis.workload else {}
            memo["workload"] = found
        assert isinstance(found, dict)
        return found

    def __getitem__(self, name: str) -> JSON:
        return self.whole()[name]

    def __contains__(self, name: object) -> bool:
        return name in self.whole()

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole())

    def __len__(self) -> int:
        return len(self.whole())


def weak_names(draft: Draft, step: str, run: Pass, source: Outcome | None) -> Makers:
    """Makers of the weak names (PB-462); ``source`` is whose result they speak of."""
    state = draft.turn.state
    genesis = state.genesis
    assert genesis is not None
    eid = state.execution_id
    makers: Makers = {
        "args": lambda: run.args,
        "input": lambda: run.args,
        "payload": lambda: _payload(draft, genesis),
        "job": lambda: {"uuid": eid, "id": eid, "execution_id": eid},
        "spec": lambda: draft.plan.playbook.spec,
        "env": lambda: decode_json(genesis.env) if genesis.env else {},
        "path": lambda: genesis.path,
        "version": lambda: genesis.version,
        "catalog_id": lambda: genesis.catalog_id,
        "parent_execution_id": lambda: genesis.parent_execution_id or None,
        "step": lambda: step,
    }
    if source is not None:
        makers["result"] = makers["response"] = lambda: view(source, draft.turn.bulk)
        failure = source.error
        if failure is not None:
            makers["error"] = lambda: encode_failure(failure)
    return makers


def _payload(draft: Draft, genesis: Genesis) -> JSON:
    if genesis.payload_ref:
        return draft.turn.bulk.decoded(genesis.payload_ref)
    payload: JSON = decode_json(genesis.payload) if genesis.payload else {}
    return payload


def entry_scope(draft: Draft, name: str, run: Pass) -> Scope:
    """Names for a step about to run: ``when``, admit, ``loop.in`` and numbers."""
    origin = draft.state.steps.get(run.origin) if run.origin else None
    source = None if origin is None else origin.result
    return Scope(
        execution_id=draft.state.execution_id,
        args=run.args,
        overlay=run.overlay,
        ctx=draft.state.ctx,
        results=Results(draft, {}),
        workload=Workload(draft),
        weak=Lazy(lambda: weak_names(draft, name, run, source)),
        event={"name": run.event_name, "type": run.event_name},
        functions={"now": lambda: draft.turn.at},
    )


def exit_scope(
    draft: Draft, name: str, run: Pass, outcome: Outcome | None, event_name: str
) -> Scope:
    """Names for what follows a completion: step ``set``, arcs (PB-203, PB-304)."""
    own = {} if outcome is None else {name: outcome}
    results = Results(draft, own)
    fixed: Mapping[str, object] = {}
    if outcome is not None:
        fixed = Lazy(lambda: {"output": lambda: output_view(results[name], outcome)})
    return Scope(
        execution_id=draft.state.execution_id,
        fixed=fixed,
        args=run.args,
        overlay=run.overlay,
        ctx=draft.state.ctx,
        results=results,
        workload=Workload(draft),
        weak=Lazy(lambda: weak_names(draft, name, run, outcome)),
        event={"name": event_name, "type": event_name},
        functions={"now": lambda: draft.turn.at},
    )


def output_view(result: StepResult, outcome: Outcome) -> StepResult:
    """``output`` after a step: its data, with the envelope's words where it has no
    such key (PB-203)."""
    helpers = decode_json(outcome.helpers) if outcome.helpers else {}
    envelope: dict[str, JSON] = {
        "status": "success" if outcome.ok else "error",
        "error": result.error,
        **helpers,
    }
    if isinstance(result, External):
        return result.within(envelope)
    return replace(result, envelope=envelope)


def iteration_names(step: Step, run: Pass, iteration: Iteration) -> dict[str, JSON]:
    """The iteration's own names as a command carries them (PB-225, PB-252)."""
    assert step.loop is not None
    names: dict[str, JSON] = {
        "name": step.loop.iterator,
        "value": iteration.value,
        "index": iteration.index,
        "total": iteration.total,
    }
    if iteration.phase != "item":
        assert run.loop is not None and run.loop.cursor is not None
        names["frame"] = iteration.frame
        names["frame_max_rows"] = run.loop.cursor.max_rows
        names["claim"] = iteration.phase == "claim"
    return names


def iteration_scope(
    draft: Draft, step: Step, run: Pass, iteration: Iteration | None
) -> Scope:
    """Names for a call the drive makes itself, in its iteration."""
    scope = entry_scope(draft, step.name, run)
    if iteration is not None:
        assert step.loop is not None
        scope.iteration = TextIteration(
            name=step.loop.iterator,
            value=iteration.value,
            index=iteration.index,
            total=iteration.total,
        )
    return scope


def loop_of(draft: Draft, run: Pass) -> LoopRun:
    """A pass's loop with its collection at hand, wherever it is kept (RT-LIM-4)."""
    loop = run.loop
    assert loop is not None
    if not loop.items_ref or loop.items:
        return loop
    memo, name = draft.turn.memo, f"items:{loop.iterator}"
    kept = memo.get(name)
    wanted = loop.items_ref.decode()
    if not isinstance(kept, list) or kept[0] != wanted:
        memo[name] = kept = [wanted, draft.turn.bulk.decoded(loop.items_ref)]
    items = kept[1]
    assert isinstance(items, list)
    return replace(loop, items=items)


def call_inputs(step: Step) -> dict[str, JSON]:
    """A call's own input under its tool's, unrendered (PB-048)."""
    assert step.call is not None
    own: dict[str, JSON] = decode_json(step.input) if step.input else {}
    return {**own, **step.call.input}


def call_scope(draft: Draft, step: Step, command: OpenCommand) -> Scope:
    """Names for what follows a call: its ``set`` and rules (PB-115); own copies."""
    run = draft.state.steps[step.name].active
    assert run is not None
    iteration = None
    if run.loop is not None:
        iteration = again(loop_of(draft, run), command.iteration)
    before = iteration_scope(draft, step, run, iteration)
    given = call_inputs(step)
    scope = iteration_scope(draft, step, run, iteration)
    scope.ctx, scope.overlay = dict(scope.ctx), dict(scope.overlay)
    scope.iter_vars, scope.runtime = {}, {}
    scope.inputs = Lazy(
        lambda: {key: _maker(value, before) for key, value in given.items()}
    )
    return scope


def _maker(value: JSON, scope: Scope) -> Callable[[], object]:
    return lambda: render(value, scope, data=True)
