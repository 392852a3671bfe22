"""CPU of fold and decide alone, without broker or processes (``core.*``).

What an owner does per step: decode and fold the worker's record, decide, encode, decode
and fold what it wrote itself; making the worker's record is in it too. Figures are CPU
microseconds.
"""

from __future__ import annotations

import time
import tracemalloc

from msgspec import Raw

from bench.playbooks import chain, fan, long
from state_builder.arcs import Plan
from state_builder.drive import Decision, DriveLimits, Turn, decide
from state_builder.ids import Shard
from state_builder.index import ShardIndex
from state_builder.playbook import load
from state_builder.ports import LogMessage
from state_builder.records import (
    Event,
    Genesis,
    Record,
    ResultEnvelope,
    ToolOutcome,
    encode_append,
    encode_json,
    timestamp,
)
from state_builder.state import State

LIMITS = DriveLimits(
    visits_max=1_000_000, context_bytes_max=1 << 30, inline_bytes_max=1 << 30
)
"""Nothing is stored outside: that is not the core's work."""

NOW = 1_767_225_600.0
AT = timestamp(NOW)
_RESULT = Raw(
    encode_json(
        ResultEnvelope(
            status="success", context=ToolOutcome(data=Raw(b'{"status":"ok"}'))
        )
    )
)


class Shell:
    """An owner without a bus: messages go straight back in."""

    def __init__(self, text: str) -> None:
        self.plan = Plan(load(text))
        self.limits = LIMITS
        self.index = ShardIndex(0, 0)
        self.sequence = 0
        self.memo: dict[str, object] = {}

    def read(self, records: list[Record]) -> list[Event]:
        """Store, fold, decide, store what is decided; the commands to run."""
        data = encode_append(records)
        self.sequence += 1
        message = LogMessage(self.sequence, Shard(0), "events", data, NOW)
        touched = self.index.apply(message)
        issued: list[Event] = []
        for entry in touched:
            while (decision := self._decide(entry.state)) is not None:
                self._store(entry.state.execution_id, decision)
                issued += [one.event for one in decision.commands]
                if not decision.partial:
                    break
        return issued

    def _decide(self, state: State) -> Decision | None:
        turn = Turn(
            plan=self.plan,
            state=state,
            now=NOW,
            at=AT,
            limits=self.limits,
            memo=self.memo,
        )
        return decide(turn)

    def _store(self, eid: str, decision: Decision) -> None:
        passes = [[*decision.events, one.event] for one in decision.commands[:1]]
        passes += [[one.event] for one in decision.commands[1:]]
        for events in passes or [decision.events]:
            own = encode_append([Record(execution_id=eid, events=events)])
            self.sequence += 1
            stored = LogMessage(self.sequence, Shard(0), "commands", own, NOW)
            self.index.apply(stored)

    def start(self, eid: str) -> list[Event]:
        """A genesis."""
        genesis = Genesis(catalog_id="1", path="bench", version=1)
        event = Event(
            type="playbook_started",
            at=AT,
            status="STARTED",
            context=Raw(encode_json(genesis)),
        )
        self.memo = {}
        return self.read([Record(execution_id=eid, events=[event])])

    def finish(self, eid: str, command: Event) -> list[Event]:
        """A worker's record."""
        common = {"at": AT, "step": command.step, "command_id": command.command_id}
        events = [
            Event(type="command.started", status="STARTED", **common),  # type: ignore[arg-type]
            Event(type="call.done", status="COMPLETED", result=_RESULT, **common),  # type: ignore[arg-type]
            Event(type="command.completed", status="success", **common),  # type: ignore[arg-type]
        ]
        return self.read([Record(execution_id=eid, events=events)])

    def run(self, eid: str) -> int:
        """One execution to its end; how many commands it took."""
        ready = self.start(eid)
        steps = 0
        while ready:
            steps += 1
            ready = ready[1:] + self.finish(eid, ready[0])
        return steps


COUNTER = """apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: counter}
workflow:
  - step: start
    tool: {kind: noop}
    set: {n: "{{ (n | default(0)) + 1 }}"}
    next: {arcs: [{step: start, when: "{{ n < LIMIT }}"}]}
"""


def per_step(text: str, runs: int) -> float:
    """CPU microseconds per step."""
    shell = Shell(text)
    begun = time.process_time()
    steps = sum(shell.run(str(10_000 + number)) for number in range(runs))
    return (time.process_time() - begun) / steps * 1e6


def memory_per_iteration(width: int) -> float:
    """Bytes the owner holds per finished iteration of a loop."""
    shell = Shell(fan(width, 100))
    tracemalloc.start()
    ready = shell.start("77")
    for _ in range(width - 1):
        ready = ready[1:] + shell.finish("77", ready[0])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / width


def parsing() -> float:
    """CPU milliseconds of parsing a playbook: an owner does nothing else meanwhile."""
    text, times = long(), []
    for _ in range(5):
        begun = time.process_time()
        load(text)
        times.append(time.process_time() - begun)
    return min(times) * 1000


def core() -> dict[str, float]:
    """All figures of the core."""
    few = per_step(COUNTER.replace("LIMIT", "10"), 200)
    many = per_step(COUNTER.replace("LIMIT", "10000"), 1)
    narrow = per_step(fan(1000, 100), 2)
    wide = per_step(fan(100_000, 100), 1)
    return {
        "us_per_step": min(per_step(chain("noop"), 200) for _ in range(8)),
        "us_per_counter_step": few,
        "steps_10000_vs_10": many / few,
        "us_per_iteration": narrow,
        "iterations_100000_vs_1000": wide / narrow,
        "bytes_per_iteration": memory_per_iteration(20_000),
        "parse_ms": parsing(),
    }


if __name__ == "__main__":
    for name, value in core().items():
        print(f"core.{name:<28} {value:.2f}")
