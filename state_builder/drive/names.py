"""The names a text sees in the drive (PB §13), looked up when asked for.

Most conditions read one name. So nothing is decoded up front: results, workload and
the weak names are mappings that decode the one member somebody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msgspec.json import decode as decode_json

from state_builder.drive.decision import Draft
from state_builder.records import JSON
from state_builder.state import Outcome, Pass, State
from state_builder.state.outcomes import encode_failure
from state_builder.template import Scope, StepResult


def view(outcome: Outcome) -> StepResult:
    """A result as texts read it."""
    return StepResult(
        value=decode_json(outcome.data),
        form=outcome.form,
        error=None if outcome.error is None else encode_failure(outcome.error),  # type: ignore[arg-type]
        failed=not outcome.ok,
    )


class Results(Mapping[str, StepResult]):
    """Step name → result, decoded on first use; ``own`` is the step at hand."""

    __slots__ = ("_own", "_seen", "_state")

    def __init__(self, state: State, own: dict[str, Outcome]) -> None:
        self._state = state
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
            found = self._seen[name] = view(outcome)
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


class Lazy(Mapping[str, object]):
    """A mapping whose members are made when read."""

    __slots__ = ("_makers",)

    def __init__(self, makers: dict[str, Callable[[], object]]) -> None:
        self._makers = makers

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


def weak_names(
    draft: Draft, step: str, run: Pass, source: Outcome | None
) -> dict[str, Callable[[], object]]:
    """Makers of the weak names (PB-462); ``source`` is whose result they speak of."""
    state = draft.turn.state
    genesis = state.genesis
    assert genesis is not None
    eid = state.execution_id
    makers: dict[str, Callable[[], object]] = {
        "args": lambda: run.args,
        "input": lambda: run.args,
        "payload": lambda: decode_json(genesis.payload) if genesis.payload else {},
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
        makers["result"] = makers["response"] = lambda: view(source)
        failure = source.error
        if failure is not None:
            makers["error"] = lambda: encode_failure(failure)
    return makers


def entry_scope(draft: Draft, name: str, run: Pass) -> Scope:
    """Names for a step about to run: ``when``, admit, ``loop.in`` and numbers."""
    origin = draft.state.steps.get(run.origin) if run.origin else None
    source = None if origin is None else origin.result
    return Scope(
        execution_id=draft.state.execution_id,
        args=run.args,
        overlay=run.overlay,
        ctx=draft.state.ctx,
        results=Results(draft.state, {}),
        workload=Workload(draft),
        weak=Lazy(weak_names(draft, name, run, source)),
        event={"name": run.event_name, "type": run.event_name},
        functions={"now": lambda: draft.turn.at},
    )


def exit_scope(
    draft: Draft, name: str, run: Pass, outcome: Outcome | None, event_name: str
) -> Scope:
    """Names for what follows a completion: step ``set``, arcs (PB-203, PB-304)."""
    own = {} if outcome is None else {name: outcome}
    results = Results(draft.state, own)
    fixed: Mapping[str, object] = {}
    if outcome is not None:
        fixed = Lazy({"output": lambda: output_view(results[name], outcome)})
    return Scope(
        execution_id=draft.state.execution_id,
        fixed=fixed,
        args=run.args,
        overlay=run.overlay,
        ctx=draft.state.ctx,
        results=results,
        workload=Workload(draft),
        weak=Lazy(weak_names(draft, name, run, outcome)),
        event={"name": event_name, "type": event_name},
        functions={"now": lambda: draft.turn.at},
    )


def output_view(result: StepResult, outcome: Outcome) -> StepResult:
    """``output`` after a step: its data, with the envelope's words where it has no
    such key (PB-203)."""
    helpers = decode_json(outcome.helpers) if outcome.helpers else {}
    return StepResult(
        value=result.value,
        form=result.form,
        error=result.error,
        failed=result.failed,
        envelope={
            "status": "success" if outcome.ok else "error",
            "error": result.error,
            **helpers,
        },
    )
