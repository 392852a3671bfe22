"""What goes into a decision and what comes out of it.

A :class:`Draft` is the state as it will be once the decision is read back: every event
that is written is folded into it at once, by the very fold that will read the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Final, TypeVar

from msgspec import Raw, Struct, field

from state_builder.arcs import Plan
from state_builder.drive.bulk import Bulk
from state_builder.errors import NoetlError
from state_builder.policy import assign
from state_builder.records import JSON, NOTHING, Event, Record, encode_json
from state_builder.state import State, StepState, apply

_DRAFT_IDS: Final = 1 << 62
"""Ids of events not yet in the log: above all real ones, so tokens keep their order."""

_RANKS: Final[dict[str, int]] = {
    "timer.fired": 0,
    "call.settled": 0,
    "step.exit": 1,
    "ctx.updated": 2,
    "step.skipped": 3,
    "step.enter": 4,
    "command.issued": 5,
    "command.completed": 6,
    "command.failed": 6,
    "timer.set": 7,
    "child.started": 7,
    "child.done": 8,
}
"""Order of the state events of one decision (PB-505)."""


class DriveLimits(Struct, frozen=True, kw_only=True):
    """Named limits of design §9; each hit counts ``noetl_limit_hits_total``.

    Attributes:
        open_commands_max: per execution; a wider loop is windowed.
        entries_max: step entries per execution.
        visits_max: visits of one step.
        depth_max: nesting of sub-playbooks.
        tree_executions_max: executions that one first execution may lead to.
        events_max: events of one pass; the rest comes with the next.
        pass_bytes_max: payloads of one pass, likewise.
        loop_items_max: elements of one loop's collection.
        frame_rows_max: rows one claim of a cursor loop may give.
        aggregate_bytes_max: results of one loop together.
        inline_bytes_max: larger results of loops and children are stored outside.
        context_bytes_max: larger contexts, collections and workloads, too.
        loop_inline_bytes_max: what the inline results of one loop share.
    """

    open_commands_max: int = 10_000
    entries_max: int = 100_000
    visits_max: int = 10_000
    depth_max: int = 32
    tree_executions_max: int = 100_000
    events_max: int = 500
    loop_items_max: int = 1_000_000
    frame_rows_max: int = 100_000
    aggregate_bytes_max: int = 64 << 20
    pass_bytes_max: int = 262_144
    inline_bytes_max: int = 102_400
    context_bytes_max: int = 524_288
    loop_inline_bytes_max: int = 16 << 20


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
        partial: there may be more to decide once this pass was read back; every other
            pass leaves nothing lacking.
        needs: lookups to make first; nothing else is decided then.
        unmatched: steps that none of their arcs led out of, to be told (PB-320).
        limits: named limits that were hit.
    """

    key: str
    events: list[Event] = field(default_factory=list)
    commands: list[Issued] = field(default_factory=list)
    others: list[Record] = field(default_factory=list)
    terminal: bool = False
    partial: bool = False
    needs: list[Struct] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)


class Turn(Struct, kw_only=True):
    """One look at one execution.

    Attributes:
        now: Unix seconds; ``at`` the same for people.
        shard, shard_count: where the execution lives, for the ids of its children.
        bulk: what was found for values outside the log.
        children: what was found for :class:`ChildNeed` lookups, by need.
        hold_loops: the log is nearly full: loops issue nothing further for now.
        tree_size: executions of its tree so far, itself included.
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
    hold_loops: bool = False
    tree_size: int = 1
    memo: dict[str, JSON] = field(default_factory=dict)
    bulk: Bulk = field(default_factory=Bulk)


_V = TypeVar("_V")


class _Layer(dict[str, _V]):
    """A draft's view of a mapping of the state: its own entries, then those below.

    Nothing is copied but what is touched, so a decision costs what it decides and not
    what the execution holds.
    """

    __slots__ = ("base", "gone", "twin")

    def __init__(
        self, base: dict[str, _V], twin: Callable[[_V], _V] | None = None
    ) -> None:
        super().__init__()
        self.base = base
        self.twin = twin
        self.gone: set[str] = set()

    def __missing__(self, key: str) -> _V:
        if key in self.gone:
            raise KeyError(key)
        found = self.base[key]
        if self.twin is not None:
            found = self[key] = self.twin(found)
        return found

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (key in self.base and key not in self.gone)

    def get(self, key: str, default: _V | None = None) -> _V | None:  # type: ignore[override]
        found = super().get(key)
        if found is not None:
            return found
        if key in self.gone or key not in self.base:
            return default
        return self[key]

    def pop(self, key: str, default: _V | None = None) -> _V | None:  # type: ignore[override]
        if key not in self:
            return default
        found = self[key]
        del self[key]
        return found

    def __delitem__(self, key: str) -> None:
        if super().__contains__(key):
            super().__delitem__(key)
        if key in self.base:
            self.gone.add(key)

    def __setitem__(self, key: str, value: _V) -> None:
        super().__setitem__(key, value)
        self.gone.discard(key)

    def names(self) -> list[str]:
        """Every key, those below first."""
        found = dict.fromkeys([*self.base, *self])
        return [key for key in found if key not in self.gone]

    def __len__(self) -> int:
        own = sum(key not in self.base for key in dict.keys(self))
        return own + len(self.base) - len(self.gone)

    def __bool__(self) -> bool:
        return super().__len__() > 0 or len(self.base) > len(self.gone)


def _layer(
    base: dict[str, _V], twin: Callable[[_V], _V] | None = None
) -> dict[str, _V]:
    return _Layer(base, twin) if base else {}


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
    """A decision in the making.

    Attributes:
        candidates: steps that may have become unreachable.
        floor: no event written from now on stands before this rank.
        unsettled: an outcome was written, and nothing yet what follows from it.
        born: children that begin with this pass.
        unmatched, limits: as of :class:`Decision`.
    """

    __slots__ = (
        "_owns_ctx",
        "born",
        "candidates",
        "commands",
        "events",
        "floor",
        "limits",
        "needs",
        "next_id",
        "others",
        "state",
        "terminal",
        "turn",
        "unmatched",
        "unsettled",
        "weight",
    )

    def __init__(self, turn: Turn) -> None:
        base = turn.state
        self.turn = turn
        self.state = copy(base)
        self.state.steps = _layer(base.steps, _copy_step)
        self.state.commands = _layer(base.commands, copy)
        self.state.timers = _layer(base.timers)
        self.state.due = []
        self.state.live = dict(base.live)
        self.state.failing = list(base.failing)
        self.state.answered = dict(base.answered)
        self.state.repeats = _layer(base.repeats)
        self.state.ripe = dict(base.ripe)
        self.state.asked = _layer(base.asked)
        self.state.wanting = dict(base.wanting)
        self._owns_ctx = False
        self.events: list[tuple[int, Event]] = []
        self.commands: list[Issued] = []
        self.others: list[Record] = []
        self.candidates: list[str] = []
        self.needs: list[Struct] = []
        self.weight = 0
        self.terminal = False
        self.next_id = _DRAFT_IDS
        self.floor = 0
        self.unsettled = False
        self.born = 0
        self.unmatched: list[str] = []
        self.limits: list[str] = []

    @property
    def plan(self) -> Plan:
        """The playbook's graph."""
        return self.turn.plan

    @property
    def full(self) -> bool:
        """The pass is as large as a pass may be; the rest comes with the next."""
        limits = self.turn.limits
        many = len(self.events) >= limits.events_max
        return many or self.weight >= limits.pass_bytes_max

    @property
    def others_max(self) -> int:
        """Records of other executions that one pass may hold."""
        return self.turn.limits.events_max // 3

    def write(self, event: Event, *, rank: int | None = None) -> None:
        """Add a state event, and fold it as the log's readers will."""
        self._fold(event)
        place = _RANKS[event.type] if rank is None else rank
        self.events.append((max(place, self.floor), event))
        self.weight += len(event.context) + len(event.result)

    def in_order(self) -> None:
        """What is written from now on stands in the order of writing: it builds on
        entries of this very pass."""
        self.floor = _RANKS["step.enter"]

    def issue(self, pool: str, event: Event) -> None:
        """Add a command for a pool, and fold it."""
        self._fold(event)
        self.commands.append(Issued(pool, event))

    def bear(self, child_id: str, genesis: Event) -> None:
        """Add the beginning of a child."""
        self.others.append(Record(execution_id=child_id, events=[genesis]))
        self.born += 1

    def end(self, event: Event) -> None:
        """Add the terminal: the last event of the drive (PB-641)."""
        self.events.append((9, event))
        self.terminal = True

    def assign(self, values: dict[str, JSON]) -> None:
        """Set variables for what is evaluated next; an event will say so."""
        if not self._owns_ctx:
            self.state.ctx = dict(self.state.ctx)
            self._owns_ctx = True
        for path, value in values.items():
            assign(self.state.ctx, path, value)

    def cause(self, event: int) -> str:
        """An event's id as a cause; this pass's own events have none yet."""
        real = event if event < _DRAFT_IDS else self.turn.state.head.event_id
        return str(real)

    def _fold(self, event: Event) -> None:
        self.next_id += 1
        if event.type == "ctx.updated":
            self.assign({})
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
            partial=self.unsettled or self.full or len(self.others) >= self.others_max,
            unmatched=self.unmatched,
            limits=self.limits,
        )


def raw(value: object) -> Raw:
    """JSON of a struct or value as an event's payload; nothing when it is empty."""
    encoded = encode_json(value)
    return NOTHING if encoded == b"{}" else Raw(encoded)
