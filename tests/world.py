"""The product's world with tools that are Python values, as tests of the drive want it.

Nothing is rendered and no tool runs: an answer is the data of a step, or a function of
what was asked. Which command ends next is the test's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw
from msgspec.json import decode as decode_json

from noetl_worker.rehearsal.passes import messages_of
from noetl_worker.rehearsal.trace import trace_line
from noetl_worker.rehearsal.world import EXECUTION as EXECUTION
from noetl_worker.rehearsal.world import World as InMemory
from state_builder.drive import Decision
from state_builder.index import Entry
from state_builder.records import Event, ToolFailure, ToolOutcome, encode_json


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
"""Data of the tool; raise ToolFailed to fail; return a ToolOutcome as is."""


class ToolFailed(Exception):
    """What a scripted tool raises to fail."""

    def __init__(
        self, kind: str = "exception", message: str = "boom", data: Any = None
    ):
        super().__init__(message)
        self.failure = ToolFailure(kind=kind, message=message)
        self.data = data


@dataclass
class World(InMemory):
    """A world whose tools answer by step name; a step without an answer gives null."""

    answers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.runs: dict[str, int] = {}
        self.decided: list[tuple[int, str, float, bytes]] = []

    def look(self, entry: Entry) -> Decision | None:
        """What would be decided now."""
        return self._decide(entry)

    def _decide(self, entry: Entry) -> Decision | None:
        """Decide, and hold what owners rely on: a pass read back is no news."""
        fired = any(at <= self.now for at in entry.state.timers.values())
        news = entry.due or fired
        decision = super()._decide(entry)
        assert news or decision is None, "a pass left something to decide"
        if decision is not None:
            eid = entry.state.execution_id
            told = encode_json(decision)
            self.decided.append((self.index.position, eid, self.now, told))
            # An owner counts what it sends, so that its own read-back is no news.
            if not decision.needs:
                entry.unread = len(messages_of(eid, decision))
        entry.due = decision is not None and decision.partial
        return decision

    def open_commands(self) -> list[tuple[str, str]]:
        """Commands a worker could run now: (execution, command id)."""
        return self.ready()

    def finish(
        self, execution_id: str, command_id: str, *, twice: bool = False
    ) -> None:
        """A worker runs the command and reports."""
        self.runs[command_id] = self.runs.get(command_id, 0) + 1
        outcome = self.outcome(self.issued[command_id], self.runs[command_id])
        self.report(execution_id, command_id, outcome, times=2 if twice else 1)

    def outcome(self, issued: Event, run: int) -> ToolOutcome:
        """What the scripted tool gives."""
        answer = self.answers.get(issued.step)
        names = decode_json(issued.context).get("render_context", {})
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
        while self.terminal is None:
            ready, due = self.ready(), self.next_timer()
            if ready:
                self.finish(*choose(ready))
            else:
                assert due is not None, "it hangs"
                self.pass_time(max(0.0, due - self.now))
            self.settle()

    @property
    def result(self) -> Any:
        """The execution's result."""
        terminal = self.terminal
        assert terminal is not None and terminal.result
        return decode_json(terminal.result)["context"]["data"]

    def trace(self, execution_id: str = EXECUTION) -> list[str]:
        """The drive's events and the completions, short (PB Appendix C)."""
        lines = (trace_line(event) for _, event in self.of(execution_id))
        return [line for line in lines if line]
