"""Tools that answer from a script, under the pipeline that runs the real ones.

Configuration is rendered, policy rules, retries, jumps and ``set`` are the shipped
ones; only what a tool would do outside is said by the script. ``noop`` does nothing
outside, so it runs as itself where nobody says otherwise. Waits pass in no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from anyio.lowlevel import checkpoint
from msgspec import Struct
from msgspec.json import decode as decode_json

from noetl_worker.rehearsal.answers import Answers, Call, Data, Fail
from noetl_worker.rehearsal.world import WORKER, OpenId, World
from state_builder.credentials import Asker, Credential, Want
from state_builder.errors import InvalidError, ReferenceMissingError
from state_builder.locator import Locator
from state_builder.ports import Command
from state_builder.records import (
    JSON,
    ContextReference,
    Event,
    Reference,
    ToolFailure,
    ToolOutcome,
)
from state_builder.values import OpenObject
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.errors import ToolCallError
from tools.kinds.noop import Noop
from tools.pipeline import Runner
from tools.registry import Registry

SERVER_URL = "http://localhost:8082"
"""What ``server_url`` means in a rehearsal, where there is no server."""


class UnansweredError(InvalidError):
    """A tool was called that the script does not know."""

    code = "unanswered"


class WorldClock:
    """The ``Clock`` of a world: waiting moves its time."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        """The world's time."""
        return self._world.now

    def monotonic(self) -> float:
        """The same: it never goes back."""
        return self._world.now

    async def sleep(self, seconds: float) -> None:
        """Over at once."""
        await checkpoint()
        self._world.pass_time(max(0.0, seconds))


class _AnyField(dict[str, JSON]):
    """Fields of any name, each of a text that says what it stands for."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def __contains__(self, field: object) -> bool:
        return True

    def __getitem__(self, field: str) -> JSON:
        return f"<{self._alias}.{field}>"


class StandIns:
    """A ``Wallet`` that knows every name, and nothing secret."""

    async def credential(
        self, alias: str, asker: Asker, want: Want = "credential"
    ) -> Credential:
        """A credential that may be used by any tool, or a token that says its name."""
        del asker
        if want == "token":
            return Credential(alias, "any", {"access_token": f"<token of {alias}>"})
        return Credential(alias, "any", _AnyField(alias))

    def forget(self, alias: str) -> None:
        """Nothing is kept."""


class Unobserved:
    """An ``Observer`` nobody looks at."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Nothing is kept."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Nothing is kept."""

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Nothing is kept."""


class _Stage(Struct):
    """What the scripted tools share: the script, who is asked now, what was missing."""

    answers: Answers
    path: str = ""
    iteration: str = ""
    missing: str = ""


class _Scripted(Tool):
    """Any kind, answered from the script."""

    kind: ClassVar[str] = "scripted"
    instant: ClassVar[bool] = True

    def __init__(self, kind: str, stage: _Stage) -> None:
        self._kind = kind
        self._stage = stage
        self._itself = Noop(ToolLimits()) if kind == Noop.kind else None

    def validate(self, config: dict[str, JSON]) -> dict[str, JSON]:
        """As it is; of a noop what the shipped one makes of it."""
        return config if self._itself is None else self._itself.validate(config)

    async def run(self, config: dict[str, JSON], call: CallContext) -> ToolResult:
        """What the script says."""
        stage = self._stage
        asked = Call(stage.path, call.step, call.label, stage.iteration)
        answer = stage.answers.of(asked, config)
        if isinstance(answer, Data):
            return self._result(answer.data, config)
        if isinstance(answer, Fail):
            raise self._error(answer)
        if self._itself is not None:
            return await self._itself.run(config, call)
        stage.missing = stage.missing or self._unanswered(call)
        return ToolResult(data=None)

    def _result(self, data: JSON, config: dict[str, JSON]) -> ToolResult:
        if self._kind != "http" or not _is_response(data):
            return ToolResult(data=data, helpers=_helpers(self._kind, data, None))
        assert isinstance(data, dict)
        whole = {"headers": {}, "url": config.get("url"), "elapsed": 0.0, **data}
        whole["body"] = data.get("body", whole.pop("data", None))
        helpers = _helpers(self._kind, whole, None)
        return ToolResult(data=whole, form="http", helpers=helpers)

    def _error(self, answer: Fail) -> ToolCallError:
        is_http = self._kind == "http" and _is_response(answer.data)
        return ToolCallError(
            answer.failure,
            data=answer.data,
            form="http" if is_http else "plain",
            helpers=_helpers(self._kind, answer.data, answer.failure),
        )

    def _unanswered(self, call: CallContext) -> str:
        what = f"step '{call.step}'"
        hint = f"tools.{call.step}"
        if call.label:
            what += f", task '{call.label}'"
            hint += f".tasks.{call.label}"
        if self._stage.iteration:
            what += f", iteration {self._stage.iteration}"
        return f"{what} runs a {self._kind} tool without an answer: give one at {hint}"


def _is_response(data: JSON) -> bool:
    return isinstance(data, dict) and "status_code" in data


def _helpers(kind: str, data: JSON, failure: ToolFailure | None) -> dict[str, JSON]:
    """Words beside the data that rules may read (TL-OUT-03)."""
    code = None if failure is None else failure.code or failure.kind
    if kind == "http":
        response = data if isinstance(data, dict) else {}
        told = 0 if failure is None else failure.status_code or 0
        status = response.get("status_code", told or (200 if failure is None else 0))
        return {"http": {"status": status, "headers": response.get("headers") or {}}}
    if kind == "postgres":
        return {"pg": {"code": code, "sqlstate": code}}
    if kind == "python":
        return {"py": {"exception": code, "traceback": None}}
    return {}


class _Cast(Registry):
    """A registry in which every kind is scripted."""

    def __init__(self, limits: ToolLimits, stage: _Stage) -> None:
        super().__init__(limits)
        self._stage = stage
        self._cast: dict[str, Tool] = {}

    def get(self, kind: str) -> Tool:
        """The scripted tool; every kind a valid playbook names exists."""
        if kind not in self._cast:
            self._cast[kind] = _Scripted(kind, self._stage)
        return self._cast[kind]


class WorldValues:
    """The ``ValueStore`` port on what a world has stored."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def keep(
        self, locator: Locator, data: bytes, about: Mapping[str, str]
    ) -> Reference:
        """See the port."""
        return self._world.keep(str(locator), data)

    async def open(self, ref: str) -> OpenObject:
        """See the port."""
        raise ReferenceMissingError(f"{ref}: nothing is read piece by piece here")

    async def drop(self, ref: str) -> None:
        """See the port."""
        self._world.values.pop(ref, None)

    async def fetch(self, reference: Reference) -> bytes:
        """See the port."""
        found = self._world.values.get(reference.ref)
        if found is None:
            raise ReferenceMissingError(f"nothing is stored at {reference.ref}")
        return found


class Tools:
    """Runs the commands of a world from a script."""

    def __init__(self, world: World, answers: Answers) -> None:
        self._world = world
        self._stage = _Stage(answers)
        limits = ToolLimits(public_url=SERVER_URL)
        self._runner = Runner(
            _Cast(limits, self._stage),
            limits,
            WorldClock(world),
            Unobserved(),
            StandIns(),
            WorldValues(world),
        )

    async def run(self, open_command: OpenId) -> ToolOutcome:
        """The outcome of one command.

        Raises:
            UnansweredError: it ran a tool that has no answer.
        """
        execution_id, command_id = open_command
        issued = self._world.issued[command_id]
        genesis = self._world.state(execution_id).genesis
        assert genesis is not None
        self._stage.path = genesis.path
        self._stage.iteration = issued.iteration
        command = _command(execution_id, issued, genesis.path)
        if command.context.startswith(b'{"__context_ref__"'):
            stored = decode_json(command.context, type=ContextReference)
            command = command._replace(context=self._world.values[stored.ref])
        outcome = await self._runner.run(command)
        if self._stage.missing:
            where = "" if genesis.catalog_id == "1" else f"playbook '{genesis.path}', "
            raise UnansweredError(where + self._stage.missing)
        return outcome


def _command(execution_id: str, issued: Event, path: str) -> Command:
    return Command(
        execution_id=execution_id,
        command_id=issued.command_id,
        step=issued.step,
        kind=issued.kind,
        visit=issued.visit,
        iteration=issued.iteration,
        attempt=issued.attempt,
        context=bytes(issued.context),
        path=path,
        worker_id=WORKER,
        trace={},
    )
