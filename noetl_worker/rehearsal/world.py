"""A log, an index and the drive in one place: executions run in memory, step by step.

Everything but the outside is the real thing: the parser, the fold, the drive, the bytes
of the log. The world owns the order of things and the time; whoever holds it says which
open command ends next, and with what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import Raw, Struct

from noetl_worker.rehearsal.passes import messages_of
from state_builder.arcs import Plan
from state_builder.binding import effective_workload
from state_builder.drive import (
    Bulk,
    Child,
    ChildNeed,
    Decision,
    DriveLimits,
    FetchNeed,
    KeepNeed,
    Turn,
    decide,
)
from state_builder.errors import NotFoundError
from state_builder.ids import Shard
from state_builder.index import Entry, ShardIndex
from state_builder.playbook import load
from state_builder.ports import CatalogEntry, LogMessage
from state_builder.records import (
    JSON,
    TERMINAL_STATUS,
    Event,
    Genesis,
    Record,
    Reference,
    ReferenceMeta,
    ToolOutcome,
    encode_append,
    encode_json,
    timestamp,
)
from state_builder.report import result_events, started_event
from state_builder.state import State

EXECUTION = "7421"
"""The execution that :meth:`World.start` starts."""

EPOCH_S = 1_767_225_600.0
"""When a world begins: 2026-01-01, so that every run has the same bytes."""

TICK_S = 0.001
"""Time that passes with every message of the log, so no two decisions share it."""

WORKER = "rehearsal"

OpenId: TypeAlias = tuple[str, str]
"""An open command: execution and command id."""


@dataclass
class World:
    """One shard, one playbook and those it calls, one execution of it.

    Attributes:
        text: the playbook.
        children: path → text of the playbooks it may call.
        now: Unix seconds; passes only here.
        log: every message so far.
        events: (execution, event) in log order.
        issued: every ``command.issued`` by command id.
        index: what an owner has read of the log.
        values: JSON that is stored outside the log, by reference.
        bulk: what was found of it since the owner lives.
        fetched: references in the order they were asked for.
    """

    text: str
    children: Mapping[str, str] = field(default_factory=dict)
    workload: dict[str, JSON] = field(default_factory=dict)
    limits: DriveLimits = field(default_factory=DriveLimits)
    now: float = EPOCH_S

    def __post_init__(self) -> None:
        self.entries: dict[str, CatalogEntry] = {}
        self.plans: dict[str, Plan] = {}
        self._by_path: dict[str, str] = {}
        self._add("1", "", self.text)
        for number, (path, text) in enumerate(self.children.items(), 2):
            self._by_path[path] = str(number)
            self._add(str(number), path, text)
        self.log: list[LogMessage] = []
        self.events: list[tuple[str, Event]] = []
        self.issued: dict[str, Event] = {}
        self.index = ShardIndex(0, 0)
        self._memos: dict[str, dict[str, JSON]] = {}
        self._stored: set[str] = set()
        self.values: dict[str, bytes] = {}
        self.bulk = Bulk()
        self.fetched: list[str] = []

    def _add(self, catalog_id: str, path: str, text: str) -> None:
        plan = self.plans[catalog_id] = Plan(load(text))
        path = path or plan.playbook.path
        self.entries[catalog_id] = CatalogEntry(catalog_id, path, 1, "Playbook", text)

    def start(self) -> None:
        """Append the genesis, as a server does."""
        playbook = self.plans["1"].playbook
        at = timestamp(self.now)
        workload = effective_workload(playbook, self.workload, EXECUTION, at, {})
        genesis = Genesis(
            catalog_id="1",
            path=playbook.path,
            version=1,
            workload=Raw(encode_json(workload)),
            payload=Raw(encode_json(self.workload)),
        )
        event = Event(
            type="playbook_started",
            at=at,
            status="STARTED",
            context=Raw(encode_json(genesis)),
        )
        self.append([Record(execution_id=EXECUTION, events=[event])])

    def append(self, records: list[Record], message_id: str = "") -> None:
        """Store one message, unless its id was stored before."""
        if message_id and message_id in self._stored:
            return
        self._stored.add(message_id)
        data = encode_append(records)
        sequence = len(self.log) + 1
        self.log.append(LogMessage(sequence, Shard(0), "events", data, self.now))
        self.pass_time(TICK_S)
        for record in records:
            for event in record.events:
                self.events.append((record.execution_id, event))
                if event.type == "command.issued":
                    self.issued[event.command_id] = event

    def crash(self) -> None:
        """The owner dies; the next one rehydrates from the log alone."""
        self.index = ShardIndex(0, 0)
        self._memos = {}
        self.bulk = Bulk()

    def settle(self, *, stop_after: int | None = None) -> None:
        """Read the log to its end and decide until nothing is lacking.

        Args:
            stop_after: die after so many messages, the rest of a pass unsaid.
        """
        sent = 0
        progressed = True
        while progressed:
            for message in self.log[self.index.position :]:
                self.index.apply(message)
            progressed = False
            for entry in list(self.index.open.values()):
                decision = self._decide(entry)
                if decision is None:
                    continue
                progressed = True
                for said in messages_of(entry.state.execution_id, decision):
                    if stop_after is not None and sent >= stop_after:
                        return
                    self.append(said.records, said.message_id)
                    sent += 1

    def _decide(self, entry: Entry) -> Decision | None:
        """One look at one execution, lookups answered."""
        state = entry.state
        if state.genesis is None:
            return None
        children: dict[Struct, Struct] = {}
        while True:
            turn = Turn(
                plan=self.plans[state.genesis.catalog_id],
                state=state,
                now=self.now,
                at=timestamp(self.now),
                limits=self.limits,
                children=children,
                tree_size=self.index.tree_size(state),
                memo=self._memos.setdefault(state.execution_id, {}),
                bulk=self.bulk,
            )
            decision = decide(turn)
            if decision is None or not decision.needs:
                return decision
            for need in decision.needs:
                self._see_to(need, children)

    def _see_to(self, need: Struct, children: dict[Struct, Struct]) -> None:
        """Do at once what an owner does between two looks."""
        if isinstance(need, FetchNeed):
            ref = need.reference.ref
            self.fetched.append(ref)
            if ref in self.values:
                self.bulk.values[ref] = self.values[ref]
            else:
                self.bulk.gone[ref] = f"nothing is stored at {ref}: it is gone"
        elif isinstance(need, KeepNeed):
            name = str(need.locator)
            self.bulk.kept[name] = self.keep(name, need.data)
        else:
            assert isinstance(need, ChildNeed)
            children[need] = self._child(need)

    def _child(self, need: ChildNeed) -> Child:
        """What the catalog says."""
        catalog_id = need.catalog_id or self._by_path.get(need.path, "")
        entry = self.entries.get(catalog_id)
        if entry is None or need.version not in (None, entry.version):
            return Child(problem=f"unknown playbook '{need.path or need.catalog_id}'")
        return Child(
            catalog_id=catalog_id,
            path=entry.path,
            version=entry.version,
            playbook=self.plans[catalog_id].playbook,
        )

    def keep(self, name: str, data: bytes) -> Reference:
        """Store a value outside the log; what stands for it."""
        self.values[name] = data
        return Reference(ref=name, uri=name, meta=ReferenceMeta(bytes=len(data)))

    def ready(self) -> list[OpenId]:
        """Commands a worker could end now, oldest first within an execution."""
        return [
            (execution_id, command_id)
            for execution_id, entry in self.index.open.items()
            for command_id, command in entry.state.commands.items()
            if not command.parked
        ]

    def report(
        self, execution_id: str, command_id: str, outcome: ToolOutcome, times: int = 1
    ) -> None:
        """A worker has run the command; its record may come more than once."""
        issued, at = self.issued[command_id], timestamp(self.now)
        events = [
            started_event(issued, at, WORKER),
            *result_events(issued, outcome, at, WORKER),
        ]
        for _ in range(times):
            self.append([Record(execution_id=execution_id, events=events)])

    def pass_time(self, seconds: float) -> None:
        """Time goes on, in whole microseconds as the log writes it."""
        self.now = round(self.now + seconds, 6)

    def next_timer(self) -> float | None:
        """When the next timer fires, Unix seconds; None without one."""
        due = [
            at
            for entry in self.index.open.values()
            for at in entry.state.timers.values()
        ]
        return min(due, default=None)

    def state(self, execution_id: str = EXECUTION) -> State:
        """An execution as it is now. Raises NotFoundError."""
        found = self.index.find(execution_id)
        if found is None:
            raise NotFoundError(f"execution {execution_id} is not known")
        return found

    @property
    def terminal(self) -> Event | None:
        """The execution's terminal event, None while it is open."""
        for _, event in self.of(EXECUTION):
            if event.type in TERMINAL_STATUS:
                return event
        return None

    def of(self, execution_id: str) -> Iterator[tuple[int, Event]]:
        """Events of one execution, numbered from 1."""
        mine = (event for eid, event in self.events if eid == execution_id)
        return enumerate(mine, 1)
