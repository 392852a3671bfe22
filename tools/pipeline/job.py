"""What belongs to one command while it runs: its names, its variables, its counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from msgspec import Raw
from msgspec.json import Decoder
from msgspec.json import decode as decode_json

from state_builder.policy import Run
from state_builder.ports import Command
from state_builder.records import JSON, CommandContext, Reference, decode_reference
from state_builder.retry import RetryRule
from state_builder.template import BulkNeededError, External, Scope
from state_builder.values import ValueStore
from tools.pipeline.bulk import fetch
from tools.pipeline.holder import Holder
from tools.pipeline.names import Results, names_of, scope_of
from tools.pipeline.plan import Plan

_decode_retry = Decoder(RetryRule).decode

T = TypeVar("T")

TIMINGS_MAX = 200
"""Task runs of which the outcome tells the time (TL-TS-31)."""


class Job:
    """One command.

    Attributes:
        input: the step's own ``input``, unrendered.
        retry: the step's ``retry``, for tasks without one.
        updates: execution variables set so far, latest last.
        holder: its secrets.
        runs, duration_ms: tool runs so far, and their time together.
        has_iteration: the command is an iteration of a loop.
    """

    def __init__(
        self,
        command: Command,
        context: CommandContext,
        functions: dict[str, Callable[..., JSON]],
        holder: Holder,
        values: ValueStore,
        server_url: str = "",
    ) -> None:
        self.command = command
        self.context = context
        self.input: dict[str, JSON] = decode_json(context.args) if context.args else {}
        self.retry = _decode_retry(context.retry) if context.retry else None
        self.updates: dict[str, JSON] = {}
        self.holder = holder
        self.runs = 0
        self.duration_ms = 0.0
        self.timings: list[JSON] = []
        self._functions = {**functions, "token": holder.token}
        self._values = values
        self._server_url = server_url
        self._names = names_of(context.render_context)
        self.has_iteration = bool(self._names.iteration)
        self._scope: Scope | None = None

    @property
    def scope(self) -> Scope:
        """The command's names; decoded on first use."""
        if self._scope is None:
            self._scope = scope_of(
                self.command, self._names, self._functions, self._server_url
            )
            self._scope.keychain = self.holder.keychain
        return self._scope

    async def prepare(self) -> None:
        """Fetch what the command cannot begin without."""
        if self._names.workload_ref:
            reference = decode_reference(self._names.workload_ref)
            self._names.workload = Raw(await fetch(self._values, reference))

    async def settle(self, work: Callable[[], T]) -> T:
        """What ``work`` gives once every secret and stored value its texts read is
        there; it changes nothing before it has read all of them.

        Raises what it raises, and ToolCallError for what cannot be had.
        """
        while True:
            try:
                return await self.holder.settle(work)
            except BulkNeededError as error:
                await self._fetch(error.reference)

    async def fetch_named(self, text: str) -> None:
        """Fetch the stored results a code names (TL-RR-41)."""
        results = cast("Results", self.scope.results)
        for name in results:
            found = results[name]
            if isinstance(found, External) and name in text:
                await self._fetch(found.stored)

    async def _fetch(self, reference: Reference) -> None:
        value = await fetch(self._values, reference)
        cast("Results", self.scope.results).put(reference.ref, value)

    def where(self, plan: Plan) -> str:
        """Which tool of which step, for an error's text."""
        task = f", task '{plan.label}'" if plan.label else ""
        return f"step '{self.command.step}'{task}"

    def name(self, key: str, value: object) -> None:
        """Give a run-time name a value (PB-450 row 3)."""
        cast("dict[str, object]", self.scope.runtime)[key] = value

    def note(self, label: str, attempt: int, ran: Run) -> None:
        """Count a run, and remember how long it took."""
        self.runs += 1
        self.holder.began = True
        self.duration_ms += ran.duration_ms
        if label and len(self.timings) < TIMINGS_MAX:
            self.timings.append(
                {
                    "task": label,
                    "attempt": attempt,
                    "status": "success" if ran.error is None else "error",
                    "duration_ms": ran.duration_ms,
                }
            )
