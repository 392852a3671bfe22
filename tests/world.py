"""A log, an index and the drive in one place: executions run in memory, step by step.

The world owns the order of things: which open command finishes next, when a crash
throws the index away, what is delivered twice. Tools are answers given by the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw
from msgspec.json import decode as decode_json

from state_builder.arcs import Plan
from state_builder.binding import effective_workload
from state_builder.drive import Child, Decision, DriveLimits, Turn, decide
from state_builder.ids import Shard, shard_of
from state_builder.index import Entry, ShardIndex
from state_builder.playbook import load
from state_builder.ports import LogMessage
from state_builder.records import (
    Event,
    Genesis,
    Record,
    ResultEnvelope,
    ToolFailure,
    ToolOutcome,
    encode_append,
    encode_json,
    timestamp,
)

EXECUTION = "7421"


@dataclass
class Ask:
    """One command as a tool would see it."""

    step: str
    iteration: str
    command_id: str
    kind: str
    names: dict[str, Any]
    run: int


Answer = Callable[[Ask], Any]
"""Data of the tool; raise ToolFailed to fail; return an Absorbed/ToolOutcome as is."""


class ToolFailed(Exception):
    """What a scripted tool raises to fail."""

    def __init__(
        self, kind: str = "exception", message: str = "boom", data: Any = None
    ):
        super().__init__(message)
        self.failure = ToolFailure(kind=kind, message=message)
        self.data = data


@dataclass
class World:
    """One shard, one playbook (and those it calls), one execution."""

    text: str
    answers: dict[str, Any] = field(default_factory=dict)
    workload: dict[str, Any] = field(default_factory=dict)
    children: dict[str, str] = field(default_factory=dict)
    limits: DriveLimits = field(default_factory=DriveLimits)
    now: float = 1_767_225_600.0

    def __post_init__(self) -> None:
        self.plans: dict[str, Plan] = {"1": Plan(load(self.text))}
        self.by_path: dict[str, str] = {}
        for number, (path, text) in enumerate(self.children.items(), 2):
            self.plans[str(number)] = Plan(load(text))
            self.by_path[path] = str(number)
        self.log: list[LogMessage] = []
        self.index = ShardIndex(0, 0)
        self.unread = 0
        self.events: list[tuple[str, Event]] = []
        self.decided: list[tuple[int, bytes]] = []
        self.runs: dict[str, int] = {}
        self.memos: dict[str, dict[str, Any]] = {}
        self.ids: set[str] = set()

    def start(self) -> None:
        """The genesis, as a server appends it."""
        playbook = self.plans["1"].playbook
        workload = effective_workload(
            playbook, self.workload, EXECUTION, timestamp(self.now), {}
        )
        genesis = Genesis(
            catalog_id="1",
            path=playbook.path,
            version=1,
            workload=Raw(encode_json(workload)),
            payload=Raw(encode_json(self.workload)),
        )
        event = Event(
            type="playbook_started",
            at=timestamp(self.now),
            status="STARTED",
            context=Raw(encode_json(genesis)),
        )
        self.append([Record(execution_id=EXECUTION, events=[event])])

    def append(self, records: list[Record], message_id: str = "") -> None:
        """Store one message unless its id was stored before."""
        if message_id and message_id in self.ids:
            return
        self.ids.add(message_id)
        data = encode_append(records)
        sequence = len(self.log) + 1
        self.log.append(LogMessage(sequence, Shard(0), "events", data, self.now))
        for record in records:
            self.events += [(record.execution_id, event) for event in record.events]

    def crash(self) -> None:
        """The owner dies; the next one rehydrates from the log alone."""
        self.index = ShardIndex(0, 0)
        self.memos = {}

    def settle(self, *, stop_after: int | None = None) -> None:
        """Read the log to its end and decide until nothing is lacking."""
        sent = 0
        while True:
            touched: dict[str, Entry] = {}
            for message in self.log[self.index.position :]:
                for entry in self.index.apply(message):
                    touched[entry.state.execution_id] = entry
            for entry in self.index.open.values():
                touched.setdefault(entry.state.execution_id, entry)
            progressed = False
            for entry in touched.values():
                decision = self.decide(entry)
                if decision is None:
                    continue
                progressed = True
                for records, message_id in messages(decision, entry):
                    if stop_after is not None and sent >= stop_after:
                        return
                    self.append(records, message_id)
                    sent += 1
            if not progressed:
                return

    def decide(self, entry: Entry) -> Decision | None:
        """One look at one execution, lookups answered."""
        state = entry.state
        assert state.genesis is not None
        children: dict[Any, Any] = {}
        while True:
            turn = Turn(
                plan=self.plans[state.genesis.catalog_id],
                state=state,
                now=self.now,
                at=timestamp(self.now),
                limits=self.limits,
                shard=0,
                shard_count=1,
                children=children,
                memo=self.memos.setdefault(state.execution_id, {}),
            )
            decision = decide(turn)
            if decision is None or not decision.needs:
                return decision
            for need in decision.needs:
                children[need] = self.child(need)

    def child(self, need: Any) -> Child:
        """What a catalog would say."""
        catalog_id = self.by_path.get(need.path)
        if catalog_id is None:
            return Child(problem=f"unknown playbook '{need.path}'")
        return Child(
            catalog_id=catalog_id,
            path=need.path,
            version=1,
            playbook=self.plans[catalog_id].playbook,
        )

    def open_commands(self) -> list[tuple[str, str]]:
        """Commands a worker could run now: (execution, command id)."""
        return [
            (eid, command_id)
            for eid, entry in self.index.open.items()
            for command_id, command in entry.state.commands.items()
            if not command.parked
        ]

    def finish(
        self, execution_id: str, command_id: str, *, twice: bool = False
    ) -> None:
        """A worker runs the command and reports."""
        issued = next(
            event
            for eid, event in reversed(self.events)
            if event.command_id == command_id and event.type == "command.issued"
        )
        self.runs[command_id] = self.runs.get(command_id, 0) + 1
        outcome = self.outcome(issued, self.runs[command_id])
        record = Record(
            execution_id=execution_id, events=report(issued, outcome, self.now)
        )
        self.append([record])
        if twice:
            self.append([record])

    def outcome(self, issued: Event, run: int) -> ToolOutcome:
        """What the scripted tool gives."""
        answer = self.answers.get(issued.step)
        context = decode_json(issued.context)
        names = context.get("render_context", {})
        asked = Ask(
            issued.step, issued.iteration, issued.command_id, issued.kind, names, run
        )
        try:
            data = answer(asked) if callable(answer) else answer
        except ToolFailed as failed:
            return ToolOutcome(
                failed=True, error=failed.failure, data=Raw(encode_json(failed.data))
            )
        if isinstance(data, ToolOutcome):
            return data
        return ToolOutcome(data=Raw(encode_json(data)))

    def run(self, choose: Callable[[list[Any]], Any] = lambda ready: ready[0]) -> None:
        """To the end: finish commands in the order ``choose`` picks."""
        self.start()
        self.settle()
        while True:
            ready = self.open_commands()
            if not ready:
                return
            self.finish(*choose(ready))
            self.settle()

    @property
    def terminal(self) -> Event | None:
        """The execution's terminal event."""
        for eid, event in reversed(self.events):
            if eid == EXECUTION and event.type.startswith("playbook"):
                known = ("playbook.completed", "playbook.failed", "playbook_cancelled")
                return event if event.type in known else None
        return None

    @property
    def result(self) -> Any:
        """The execution's result."""
        terminal = self.terminal
        assert terminal is not None and terminal.result
        return decode_json(terminal.result)["context"]["data"]

    def trace(self, execution_id: str = EXECUTION) -> list[str]:
        """The drive's events and the completions, short (PB Appendix C)."""
        return [
            line(event)
            for eid, event in self.events
            if eid == execution_id and line(event)
        ]


def messages(decision: Decision, entry: Entry) -> list[tuple[list[Record], str]]:
    """A pass as messages, as the owner sends it."""
    eid = entry.state.execution_id
    if len(decision.commands) == 1 and not decision.others:
        event = decision.commands[0].event
        record = Record(execution_id=eid, events=[*decision.events, event])
        return [([record], event.command_id)]
    found: list[tuple[list[Record], str]] = []
    if decision.events:
        record = Record(execution_id=eid, events=decision.events)
        found.append(([record, *decision.others], decision.key))
    for issued in decision.commands:
        record = Record(execution_id=eid, events=[issued.event])
        found.append(([record], issued.event.command_id))
    return found


def report(issued: Event, outcome: ToolOutcome, now: float) -> list[Event]:
    """The record of a finished command."""
    ok = not outcome.failed
    envelope = ResultEnvelope(status="success" if ok else "error", context=outcome)
    failure = outcome.error
    text = failure.message if failure is not None and not ok else ""
    code = failure.kind if failure is not None and not ok else ""
    common: dict[str, Any] = {
        "at": timestamp(now),
        "step": issued.step,
        "command_id": issued.command_id,
        "worker_id": "w",
    }
    return [
        Event(type="command.started", status="STARTED", **common),
        Event(
            type="call.done" if ok else "call.error",
            status="COMPLETED" if ok else "FAILED",
            error=text,
            result=Raw(encode_json(envelope)),
            **common,
        ),
        Event(
            type="command.completed" if ok else "command.failed",
            status="success" if ok else "FAILED",
            code=code,
            error=text,
            **common,
        ),
    ]


def line(event: Event) -> str:
    """One event of a trace; empty for those a trace leaves out."""
    context = decode_json(event.context) if event.context else {}
    suffix = f"[{event.iteration}]" if event.iteration else ""
    match event.type:
        case "step.enter":
            return f"enter {event.step}"
        case "step.exit":
            return f"exit {event.step}" + (
                " FAILED" if event.status == "FAILED" else ""
            )
        case "step.skipped":
            return f"skipped {event.step} {context.get('reason', '')}".strip()
        case "ctx.updated":
            values = context["values"]
            return "set " + " ".join(f"{key}={values[key]!r}" for key in values)
        case "command.issued":
            return f"CI {event.step}{suffix}"
        case "command.completed":
            return f"{'parked' if event.pending else 'CC'} {event.step}{suffix}"
        case "command.failed":
            return f"CF {event.step}{suffix}"
        case "playbook.completed" | "playbook_cancelled":
            return event.type.replace("playbook", "").strip("._")
        case "playbook.failed":
            return f"failed {event.error}"
        case "timer.set" | "timer.fired":
            return event.type
    return ""


def shard(execution_id: str) -> int:
    """All of the world lives on one shard."""
    return shard_of(execution_id, 1)
