"""Where tokens go and which of them may enter: routing and joins (PB §10, §14.2–3).

:class:`Plan` holds what a playbook's graph alone tells, once per playbook; the rest are
questions about a state. Nothing here changes a state or makes an event.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from state_builder.binding import Needs
from state_builder.errors import TemplateError
from state_builder.playbook.model import Arc, Playbook, Step
from state_builder.records import JSON
from state_builder.state import Delivered, State
from state_builder.template import Scope, condition, error_aware, render


class Plan:
    """What the graph of a playbook alone tells.

    Attributes:
        targets: step → steps its arcs name, in arc order, each once.
        reach: step → bit set of the steps a path of at least one edge leads to.
        bits: step → its bit.
        one_origin: steps that all edges (self-edges aside) reach from one step only.
        settled: step → where its tokens always go, if its arcs have nothing to
            evaluate.
    """

    def __init__(self, playbook: Playbook) -> None:
        self.playbook = playbook
        self.bits = {name: 1 << step.index for name, step in playbook.steps.items()}
        self.targets: dict[str, tuple[str, ...]] = {
            name: tuple(
                dict.fromkeys(
                    arc.target for arc in step.next.arcs if arc.target in playbook.steps
                )
            )
            for name, step in playbook.steps.items()
        }
        self.reach = _closure(self.bits, self.targets)
        origins: dict[str, set[str]] = {name: set() for name in playbook.steps}
        for name, targets in self.targets.items():
            for target in targets:
                if target != name:
                    origins[target].add(name)
        self.one_origin = {name for name, seen in origins.items() if len(seen) <= 1}
        self.settled = {
            name: route(self, step, Scope(), after_failure=False)
            for name, step in playbook.steps.items()
            if not any(arc.when or arc.args or arc.set for arc in step.next.arcs)
        }
        self.needs: dict[str, Needs] = {}
        self._aware: dict[tuple[str, int], bool] = {}

    def reaches(self, origin: str, target: str) -> bool:
        """Is there a path of at least one edge?"""
        return bool(self.reach[origin] & self.bits[target])

    def error_aware(self, step: Step, index: int) -> bool:
        """May this arc fire after a failure (PB-562)?"""
        key = (step.name, index)
        known = self._aware.get(key)
        if known is None:
            when = step.next.arcs[index].when
            known = when is not None and error_aware(when, step.name)
            self._aware[key] = known
        return known


def _closure(
    bits: dict[str, int], targets: dict[str, tuple[str, ...]]
) -> dict[str, int]:
    reach = {
        name: sum(bits[target] for target in found) for name, found in targets.items()
    }
    changed = True
    while changed:
        changed = False
        for name, found in targets.items():
            wider = reach[name]
            for target in found:
                wider |= reach[target]
            if wider != reach[name]:
                reach[name] = wider
                changed = True
    return reach


class Routed(Struct, frozen=True, gc=False):
    """The tokens an evaluation of arcs delivers; at most one per target (PB-305)."""

    tokens: list[Delivered]

    @property
    def targets(self) -> set[str]:
        """Names of the steps that get one."""
        return {token.step for token in self.tokens}


def route(plan: Plan, step: Step, scope: Scope, *, after_failure: bool) -> Routed:
    """Evaluate the arcs of a completed step, once (PB-302, PB-562).

    Args:
        after_failure: only error-aware arcs are looked at.

    Raises:
        TemplateError: a condition or ``args`` that cannot be evaluated; the text names
            step and arc (PB-321).
    """
    taken: list[Arc] = []
    for index, arc in enumerate(step.next.arcs):
        if after_failure and not plan.error_aware(step, index):
            continue
        if arc.when is None or _holds(arc, index, step.name, scope):
            taken.append(arc)
            if not step.next.inclusive:
                break
    tokens: dict[str, Delivered] = {}
    for arc in taken:
        where = f"step '{step.name}', next.arcs to '{arc.target}'"
        args = _rendered(arc.args, scope, f"{where}, args")
        values = _rendered(arc.set, scope, f"{where}, set")
        earlier = tokens.get(arc.target)
        if earlier is not None:
            args = {**earlier.args, **args}
            values = {**earlier.set, **values}
        tokens[arc.target] = Delivered(step=arc.target, args=args, set=values)
    return Routed(list(tokens.values()))


def _holds(arc: Arc, index: int, step: str, scope: Scope) -> bool:
    assert arc.when is not None
    try:
        return condition(arc.when, scope)
    except TemplateError as error:
        raise TemplateError(
            f"step '{step}', next.arcs[{index}].when: {error}"
        ) from error


def _rendered(block: dict[str, JSON], scope: Scope, where: str) -> dict[str, JSON]:
    if not block:
        return {}
    try:
        found = render({**block}, scope, data=True)
    except TemplateError as error:
        raise TemplateError(f"{where}: {error}") from error
    assert isinstance(found, dict)
    return found


def may_enter(plan: Plan, state: State, name: str) -> bool:
    """May the token-holding step be entered now (PB-521)?"""
    if state.steps[name].active is not None:
        return False
    return name in plan.one_origin or next(_blocking(plan, state, name), None) is None


def blockers(plan: Plan, state: State, name: str) -> list[str]:
    """Live steps that a token-holding step waits for (PB-522)."""
    return [] if name in plan.one_origin else list(_blocking(plan, state, name))


def _blocking(plan: Plan, state: State, name: str) -> Iterator[str]:
    mine = _age(plan, state, name)
    for other in state.live:
        if other == name or not plan.reaches(other, name):
            continue
        holder = state.steps[other]
        merely_holding = holder.active is None
        if (
            merely_holding
            and plan.reaches(name, other)
            and _age(plan, state, other) > mine
        ):
            continue
        yield other


def _age(plan: Plan, state: State, name: str) -> tuple[int, int]:
    """Older tokens go first; of one event, document order decides (PB-503)."""
    return state.steps[name].tokens[0].order, plan.playbook.steps[name].index


def holding(plan: Plan, state: State) -> list[str]:
    """Steps with tokens, oldest token first, then document order (PB-503)."""
    found = [name for name in state.live if state.steps[name].tokens]
    if len(found) > 1:
        found.sort(key=lambda name: _age(plan, state, name))
    return found


def next_to_enter(plan: Plan, state: State) -> str | None:
    """The step to enter next, if any may be (PB-503, PB-525)."""
    waiting = holding(plan, state)
    if not waiting:
        return None
    for name in waiting:
        if may_enter(plan, state, name):
            return name
    anything_active = any(state.steps[name].active for name in state.live)
    # Cannot happen by PB-522; without it a mistake here would hang the execution.
    return None if anything_active else waiting[0]


def unreachable(plan: Plan, state: State, candidates: list[str]) -> list[str]:
    """Of these steps and what follows them, those nothing can reach any more (PB-530).

    In breadth-first order: a step that is skipped makes its targets candidates.
    """
    if not candidates:
        return []
    live = 0
    for name in state.live:
        live |= plan.reach[name]
    found: dict[str, None] = {}
    queue = list(dict.fromkeys(candidates))
    while queue:
        name = queue.pop(0)
        if name in found or live & plan.bits[name] or name in state.live:
            continue
        known = state.steps.get(name)
        if known is not None and (known.visit or known.status == "skipped"):
            continue
        found[name] = None
        queue.extend(plan.targets[name])
    return list(found)
