"""What a worker gets: ``command.issued`` with everything its tool needs (RT-NATS-50).

Texts are not rendered here: the worker renders each once, when its tool runs (PB-071).
The drive only picks the names they read, and splices results as the raw JSON they are.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Raw

from state_builder.binding import Needs, needs_of
from state_builder.drive.bulk import KeepNeed
from state_builder.drive.decision import Draft
from state_builder.drive.names import (
    Lazy,
    Workload,
    iteration_names,
    loop_of,
    step_names,
    weak_names,
)
from state_builder.ids import command_id
from state_builder.iteration import Iteration, again, due, tolerates
from state_builder.locator import data_locator
from state_builder.playbook.model import Step
from state_builder.records import (
    JSON,
    NOTHING,
    CommandContext,
    CommandNames,
    ContextReference,
    Event,
    encode_json,
)
from state_builder.state import Outcome, Pass
from state_builder.state.outcomes import encode_failure
from state_builder.template import plain

SHARE_BYTES_MIN: Final = 4096
"""A smaller result is never worth a place of its own."""

CLAIM_BYTES_MAX: Final = 786_432
"""Rows of one claim; they must fit in a message."""

NO_NEEDS: Final = Needs()


def issue_all(draft: Draft) -> None:
    """Issue what active steps lack: their command, or further iterations."""
    for name in list(draft.state.live):
        run = draft.state.steps[name].active
        step = draft.plan.playbook.steps[name]
        if run is None or run.outcome is not None:
            continue
        if step.call is not None and (step.loop is None or step.loop.cursor is None):
            continue
        lacking = attempts(draft, step, run)
        if step.call is not None:
            # Of a call, only what claims its rows is a worker's.
            lacking = [one for one in lacking if is_claim(one[0])]
        if lacking:
            names = base_names(draft, step, run)
            for iteration, attempt in lacking:
                _issue(draft, _Wanted(step, run, iteration, attempt), names)


def attempts(draft: Draft, step: Step, run: Pass) -> list[tuple[Iteration | None, int]]:
    """What a pass lacks: repetitions that are due, then what was never issued."""
    found: list[tuple[Iteration | None, int]] = []
    for name in draft.state.ripe:
        repeat = draft.state.repeats[name]
        if repeat.step == step.name:
            value = None
            if run.loop is not None:
                value = again(loop_of(draft, run), repeat.iteration)
            found.append((value, repeat.attempt))
    room = draft.turn.limits.open_commands_max - len(draft.state.commands)
    if run.loop is None:
        fresh: list[Iteration | None] = [None] if not run.issued and room > 0 else []
    elif draft.turn.hold_loops:
        fresh = []
    else:
        loop = loop_of(draft, run)
        fresh = [*due(loop, best_effort=tolerates(step), room=room)]
    return found + [(iteration, 1) for iteration in fresh]


def is_claim(iteration: Iteration | None) -> bool:
    """Does it claim the rows of a cursor loop, whatever its step does with them?"""
    return iteration is not None and iteration.phase == "claim"


class _Wanted(NamedTuple):
    """One command that is lacking."""

    step: Step
    run: Pass
    iteration: Iteration | None
    attempt: int


def _issue(draft: Draft, wanted: _Wanted, names: CommandNames) -> None:
    step, run, iteration, attempt = wanted
    state = draft.turn.state
    genesis = state.genesis
    assert genesis is not None
    tool, kind, loop_id = step.tool, step.kind, ""
    if iteration is not None:
        loop_id = iteration.id
        names.iteration = Raw(encode_json(iteration_names(step, run, iteration)))
        if iteration.phase == "claim":
            assert step.loop is not None and step.loop.cursor is not None
            tool, kind = step.loop.cursor.claim, step.loop.cursor.kind
    context = CommandContext(
        tool_config=tool,
        args=step.input,
        render_context=Raw(encode_json(names)),
        timeout_s=step.timeout_s,
        retry=step.retry,
        output=step.output,
        inline_bytes_max=_inline_bytes_max(draft, step, run, iteration),
    )
    pool = step.pool or genesis.pool
    command = command_id(state.execution_id, step.name, run.visit, attempt, loop_id)
    draft.issue(
        pool,
        Event(
            type="command.issued",
            at=draft.turn.at,
            step=step.name,
            visit=run.visit,
            iteration=loop_id,
            kind=kind,
            status="PENDING",
            command_id=command,
            attempt=attempt,
            pool=pool,
            context=_within_budget(draft, command, encode_json(context)),
            meta=command_meta(draft),
        ),
    )


def _inline_bytes_max(
    draft: Draft, step: Step, run: Pass, iteration: Iteration | None
) -> int:
    """What a loop's iterations share (0: the worker's own budget, which is less).

    A claim's rows are the drive's to hand out, so they come inline or not at all.
    """
    if iteration is None or run.loop is None:
        if draft.plan.playbook.reference_first and b"output_select" in bytes(
            step.output
        ):
            return 1
        return 0
    if iteration.phase == "claim":
        return CLAIM_BYTES_MAX
    limits = draft.turn.limits
    share = limits.loop_inline_bytes_max // max(run.loop.total, 1)
    return min(limits.inline_bytes_max, max(SHARE_BYTES_MIN, share))


def _within_budget(draft: Draft, command: str, context: bytes) -> Raw:
    """The context, or what stands for it (RT-LIM-2, TL-RR-03)."""
    if len(context) <= draft.turn.limits.context_bytes_max:
        return Raw(context)
    eid = draft.turn.state.execution_id
    locator = data_locator("contexts", eid, command, context)
    kept = draft.turn.bulk.kept.get(str(locator))
    if kept is None:
        # Asked for together: a loop may have many.
        draft.needs.append(KeepNeed(locator, context, {}))
        return NOTHING
    reference = Raw(encode_json(kept))
    return Raw(
        encode_json(
            ContextReference(ref=kept.ref, bytes=len(context), reference=reference)
        )
    )


def command_meta(draft: Draft) -> Raw:
    """What a command says of its execution: path, catalog id, trace."""
    memo = draft.turn.memo
    found = memo.get("meta")
    if found is None:
        genesis = draft.turn.state.genesis
        assert genesis is not None
        trace = b',"trace":' + bytes(genesis.trace) if genesis.trace else b""
        head = encode_json({"path": genesis.path, "catalog_id": genesis.catalog_id})
        memo["meta"] = found = (head[:-1] + trace + b"}").decode()
    assert isinstance(found, str)
    return Raw(found.encode())


def base_names(draft: Draft, step: Step, run: Pass) -> CommandNames:
    """The names a step's texts need, by the rows of PB-450 (PB-346)."""
    needs = _needs(draft, step)
    if needs == NO_NEEDS:
        return CommandNames(args=_object(run.args), overlay=_object(run.overlay))
    picked = _Picked(draft, step, run)
    if needs.everything:
        picked.take_everything()
    else:
        for name in needs.names:
            picked.take(name)
        for name in needs.variables:
            picked.take_variable(name)
        for name in needs.steps:
            picked.take_result(name)
        picked.take_workload(needs.workload)
    return picked.names(with_event=needs.everything or needs.event)


def _needs(draft: Draft, step: Step) -> Needs:
    cache = draft.plan.needs
    found = cache.get(step.name)
    if found is None:
        found = cache[step.name] = needs_of(step)
    return found


class _Picked:
    """Names picked for one pass; a name comes from the first row that has it."""

    def __init__(self, draft: Draft, step: Step, run: Pass) -> None:
        self._state = draft.state
        self._run = run
        self._workload = Workload(draft)
        self._whole_workload: Raw | None = None
        self._workload_ref = NOTHING
        source = draft.state.steps.get(run.origin) if run.origin else None
        result = None if source is None else source.result
        self._weak = Lazy(lambda: weak_names(draft, step.name, run, result))
        self._raw_workload = draft.turn.state.genesis
        self.ctx: dict[str, JSON] = {}
        self.steps: dict[str, Raw] = {}
        self.workload: dict[str, JSON] = {}
        self.weak: dict[str, JSON] = {}

    def take(self, name: str) -> None:
        """A bare name (PB-450 rows 4 to 8)."""
        if name in self._run.args or name in self._run.overlay:
            return
        if name in self._state.ctx:
            self.ctx[name] = self._state.ctx[name]
        elif self.take_result(name):
            return
        elif name in self._workload:
            self.workload[name] = self._workload[name]
        elif name in self._weak:
            self.weak[name] = plain(self._weak[name])

    def take_variable(self, name: str) -> None:
        """A member of ``ctx``: variable, else workload, else result (PB-454)."""
        if name in self._state.ctx:
            self.ctx[name] = self._state.ctx[name]
        elif name in self._workload:
            self.workload[name] = self._workload[name]
        else:
            self.take_result(name)

    def take_result(self, name: str) -> bool:
        """A step's result, as the raw JSON it is."""
        step = self._state.steps.get(name)
        if step is None or step.result is None:
            return False
        self.steps[name] = raw_result(step.result)
        return True

    def take_workload(self, keys: frozenset[str] | None) -> None:
        """Some keys of the workload, or all of it."""
        if keys is None:
            genesis = self._raw_workload
            assert genesis is not None
            self._workload_ref = genesis.workload_ref
            self._whole_workload = genesis.workload or Raw(b"{}")
            return
        for key in keys:
            if key in self._workload:
                self.workload[key] = self._workload[key]

    def take_everything(self) -> None:
        """All names: a text could not be told what it reads."""
        self.ctx = self._state.ctx
        for name in step_names(self._state):
            self.take_result(name)
        self.take_workload(None)
        for name in self._weak:
            self.weak[name] = plain(self._weak[name])

    def names(self, *, with_event: bool) -> CommandNames:
        """What was picked, as a command carries it."""
        run = self._run
        workload = self._whole_workload or _object(self.workload)
        event = _object({"name": run.event_name, "type": run.event_name})
        return CommandNames(
            args=_object(run.args),
            overlay=_object(run.overlay),
            ctx=_object(self.ctx),
            steps=_object(self.steps),
            workload=workload,
            workload_ref=self._workload_ref,
            event=event if with_event else NOTHING,
            weak=_object(self.weak),
        )


def _object(value: object) -> Raw:
    return Raw(encode_json(value)) if value else NOTHING


def raw_result(outcome: Outcome) -> Raw:
    """A result as a command carries it: ``{"form", "value" or "reference", "error"?,
    "failed"?}``."""
    key, data = b"value", outcome.data
    if outcome.reference:
        key, data = b"reference", outcome.reference
    form = outcome.form.encode()
    if outcome.ok and outcome.error is None:
        return Raw(b'{"form":"%b","%b":%b}' % (form, key, data))
    error = None if outcome.error is None else encode_failure(outcome.error)
    return Raw(
        b'{"form":"%b","%b":%b,"failed":%b,"error":%b}'
        % (
            form,
            key,
            data,
            b"false" if outcome.ok else b"true",
            encode_json(error),
        )
    )
