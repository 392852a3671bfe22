"""What goes into a decision and what comes out of it.

A :class:`Draft` is the state as it will be once the decision is read back: every event
that is written is folded into it at once, by the very fold that will read the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Final

from msgspec import Raw, Struct, field

from state_builder.arcs import Plan
from state_builder.errors import NoetlError
from state_builder.records import JSON, NOTHING, Event, Record, encode_json
from state_builder.state import OpenCommand, State, StepState, apply

_DRAFT_IDS: Final = 1 << 62
"""Ids of events not yet in the log: above all real ones, so tokens keep their order."""

_RANKS: Final[dict[str, int]] = {
    "timer.fired": 0,
    "step.exit": 1,
    "ctx.updated": 2,
    "step.skipped": 3,
    "step.enter": 4,
    "command.issued": 5,
    "command.completed": 6,
    "timer.set": 7,
}
"""Order of the state events of one decision (PB-505)."""


class DriveLimits(Struct, frozen=True, kw_only=True):
    """Named limits of design §9; each hit counts ``noetl_limit_hits_total``.

    Attributes:
        open_commands_max: per execution; a wider loop is windowed.
        entries_max: step entries per execution.
        visits_max: visits of one step.
        depth_max: nesting of sub-playbooks.
        events_max: events of one pass; the rest comes with the next.
    """

    open_commands_max: int = 10_000
    entries_max: int = 100_000
    visits_max: int = 10_000
    depth_max: int = 32
    events_max: int = 500


class FailExecution(NoetlError):
    """The execution cannot go on and ends FAILED with this reason."""

    code = "evaluate_error"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Issued(Struct, frozen=True):
    """A command for a pool."""

    pool: str
    event: Event


class Decision(Struct, kw_only=True):
    """What the owner appends.

    Attributes:
        key: message id of the pass's record; computed from state.
        events: state events and terminal, in order; may be empty.
        commands: each its own message, after the record.
        others: records of other executions of the tree, in the same message as the
            record (a child's start, the answer to a parent, a child's cancellation).
        terminal: the pass ends the execution.
        needs: lookups to make first; nothing else is decided then.
    """

    key: str
    events: list[Event] = field(default_factory=list)
    commands: list[Issued] = field(default_factory=list)
    others: list[Record] = field(default_factory=list)
    terminal: bool = False
    needs: list[Struct] = field(default_factory=list)


class Turn(Struct, kw_only=True):
    """One look at one execution.

    Attributes:
        now: Unix seconds; ``at`` the same for people.
        shard, shard_count: where the execution lives, for the ids of its children.
        children: what was found for :class:`ChildNeed` lookups, by need.
        memo: anything derived from immutable parts of the state, kept between turns.
    """

    plan: Plan
    state: State
    now: float
    at: str
    limits: DriveLimits = DriveLimits()
    shard: int = 0
    shard_count: int = 1
    children: Mapping[Struct, Struct] = field(default_factory=dict)
    memo: dict[str, JSON] = field(default_factory=dict)


class _Steps(dict[str, StepState]):
    """Steps of a draft: copied from the state when first touched."""

    __slots__ = ("base",)

    def __init__(self, base: dict[str, StepState]) -> None:
        super().__init__()
        self.base = base

    def __missing__(self, name: str) -> StepState:
        step = self[name] = _copy_step(self.base[name])
        return step

    def get(self, name: str, default: StepState | None = None) -> StepState | None:  # type: ignore[override]
        if name in self or name in self.base:
            return self[name]
        return default

    def names(self) -> list[str]:
        """Every step the execution ever mentioned."""
        return list(dict.fromkeys([*self.base, *self]))


class _Commands(dict[str, OpenCommand]):
    """Open commands of a draft: its own, then those of the state."""

    __slots__ = ("base", "gone")

    def __init__(self, base: dict[str, OpenCommand]) -> None:
        super().__init__()
        self.base = base
        self.gone: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (key in self.base and key not in self.gone)

    def get(self, key: str, default: OpenCommand | None = None) -> OpenCommand | None:  # type: ignore[override]
        if super().__contains__(key):
            return self[key]
        if key in self.base and key not in self.gone:
            return copy(self.base[key])
        return default

    def __delitem__(self, key: str) -> None:
        if super().__contains__(key):
            super().__delitem__(key)
        else:
            self.gone.add(key)

    def __len__(self) -> int:
        return super().__len__() + len(self.base) - len(self.gone)


def _copy_step(step: StepState) -> StepState:
    """A copy deep enough that folding the drive's own events leaves the state alone.

    Results of iterations are shared: only a worker's report touches them.
    """
    twin = copy(step)
    if twin.active is not None:
        twin.active = copy(twin.active)
        loop = twin.active.loop
        if loop is not None:
            loop = twin.active.loop = copy(loop)
            loop.updates = dict(loop.updates)
            if loop.cursor is not None:
                loop.cursor = copy(loop.cursor)
                loop.cursor.frames = {
                    number: copy(frame) for number, frame in loop.cursor.frames.items()
                }
    return twin


class Draft:
    """A decision in the making."""

    __slots__ = (
        "candidates",
        "commands",
        "events",
        "needs",
        "next_id",
        "others",
        "state",
        "terminal",
        "turn",
    )

    def __init__(self, turn: Turn) -> None:
        base = turn.state
        self.turn = turn
        self.state = copy(base)
        self.state.steps = _Steps(base.steps)
        self.state.commands = _Commands(base.commands)
        self.state.live = dict(base.live)
        self.state.ctx = dict(base.ctx)
        self.state.failing = list(base.failing)
        self.state.timers = dict(base.timers)
        self.events: list[tuple[int, Event]] = []
        self.commands: list[Issued] = []
        self.others: list[Record] = []
        self.candidates: list[str] = []
        self.needs: list[Struct] = []
        self.terminal = False
        self.next_id = _DRAFT_IDS

    @property
    def plan(self) -> Plan:
        """The playbook's graph."""
        return self.turn.plan

    @property
    def full(self) -> bool:
        """The pass is as large as a pass may be; the rest comes with the next."""
        return len(self.events) >= self.turn.limits.events_max

    def write(self, event: Event, *, rank: int | None = None) -> None:
        """Add a state event, and fold it as the log's readers will."""
        self._fold(event)
        place = _RANKS[event.type] if rank is None else rank
        self.events.append((place, event))

    def issue(self, pool: str, event: Event) -> None:
        """Add a command for a pool, and fold it."""
        self._fold(event)
        self.commands.append(Issued(pool, event))

    def end(self, event: Event) -> None:
        """Add the terminal: the last event of the drive (PB-641)."""
        self.events.append((9, event))
        self.terminal = True

    def _fold(self, event: Event) -> None:
        self.next_id += 1
        counted = apply(self.state, event, self.next_id)
        assert counted, f"the drive wrote {event.type} that its own fold ignores"

    def decision(self) -> Decision | None:
        """What was written, in the order of PB-505; None when it is nothing."""
        if self.needs:
            return Decision(key="", needs=self.needs)
        if not self.events and not self.commands:
            return None
        self.events.sort(key=lambda pair: pair[0])
        state = self.turn.state
        return Decision(
            key=f"{state.execution_id}:{state.head.event_id}",
            events=[event for _, event in self.events],
            commands=self.commands,
            others=self.others,
            terminal=self.terminal,
        )


def raw(value: object) -> Raw:
    """JSON of a struct or value as an event's payload; nothing when it is empty."""
    encoded = encode_json(value)
    return NOTHING if encoded == b"{}" else Raw(encoded)
