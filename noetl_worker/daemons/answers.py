"""What the owner of a shard answers: live status, is this command obsolete (§4).

An owner answers only when it has folded at least what the asker saw and its lease was
confirmed lately; otherwise it stays silent and the asker takes another way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import anyio
import structlog
from msgspec import to_builtins
from msgspec.json import decode as decode_json

from noetl_worker.daemons.owned import OwnedShard
from noetl_worker.daemons.owner import Owner
from state_builder.errors import UnavailableError
from state_builder.ports import Clock, EventLog, Signals
from state_builder.records import JSON
from state_builder.state import OpenCommand, State, asked_key
from state_builder.waiting import last_decision, waits

log = structlog.get_logger(__name__)

CONFIRMED_FOR_S = 5.0
"""How long a look at the lease is believed."""

FOLD_WAIT_S = 2.0
"""How long to wait for the log to reach what the asker saw."""

LINEAGE_MAX = 64
"""Playbooks inside each other are bounded well below this."""

OPEN_NAMED_MAX = 1000
"""Open commands of one step that are named in an answer."""

PARKING_KINDS = frozenset(("container", "task_sequence"))
"""Kinds of commands that may wait for a job outside."""

JOB_PREFIX = "noetl-container-"
"""What the names of our own jobs begin with (TL-CTR-01)."""

STARTS_MAX = 4
"""Starts without a result that are allowed; in place of the next comes ``poison``."""


@dataclass(frozen=True, kw_only=True)
class AnswerPorts:
    """What answering may touch."""

    log: EventLog
    signals: Signals
    clock: Clock


class Answers:
    """Answers questions about the executions of owned shards."""

    def __init__(self, ports: AnswerPorts, owner: Owner) -> None:
        self._ports = ports
        self._owner = owner
        self._confirmed: dict[int, float] = {}
        self._closers: dict[int, Callable[[], Awaitable[None]]] = {}

    async def open(self, owned: OwnedShard) -> None:
        """Answer for this shard from now on."""
        await self.close(owned.shard)

        async def answer(question: dict[str, JSON]) -> dict[str, JSON] | None:
            return await self._answer(owned, question)

        self._closers[owned.shard] = await self._ports.signals.answer(
            owned.shard, answer
        )

    async def close(self, shard: int) -> None:
        """Answer for this shard no more."""
        closer = self._closers.pop(shard, None)
        if closer is not None:
            await closer()

    async def _answer(
        self, owned: OwnedShard, question: dict[str, JSON]
    ) -> dict[str, JSON] | None:
        sequence = question.get("sequence") or 0
        if not isinstance(sequence, int) or owned.lost:
            return None
        with anyio.move_on_after(FOLD_WAIT_S):
            while not owned.ready or owned.index.position < sequence:
                await self._owner.moved()
        if not owned.ready or owned.index.position < sequence or owned.lost:
            return None
        if not await self._confirm(owned):
            return None
        eid = str(question.get("execution_id"))
        kind = question.get("kind")
        if kind == "circumstances":
            return circumstances_of(owned, eid, str(question.get("command_id")))
        if kind == "child":
            task = str(question.get("task"))
            return child_of(owned, eid, str(question.get("command_id")), task)
        if kind == "command":
            return await self._obsolete(owned, eid, str(question.get("command_id")))
        state = owned.index.find(eid)
        if state is None or state.genesis is None:
            return None
        if kind == "open":
            return open_commands(state, str(question.get("step")))
        if kind == "parked":
            job = str(question.get("job") or "")
            return waiting_commands(state, str(question.get("step")), job)
        told = status_of(state, owned.index.position)
        now = self._ports.clock.now()
        plan = self._owner.plan_of(state)
        told["waiting"] = cast(JSON, to_builtins(waits(state, plan, now)))
        if kind == "why":
            told["last_decision"] = cast(JSON, to_builtins(last_decision(state)))
        return told

    async def _confirm(self, owned: OwnedShard) -> bool:
        now = self._ports.clock.monotonic()
        if now - self._confirmed.get(owned.shard, -CONFIRMED_FOR_S) < CONFIRMED_FOR_S:
            return True
        try:
            current = await self._ports.log.lease_sequence(owned.shard)
        except UnavailableError:
            return False
        if owned.renewing or current < owned.epoch:
            # A newer lease of our own is on its way, or came in the meantime.
            return False
        if current > owned.epoch:
            self._owner.lose(owned, "the lease is another's")
            return False
        self._confirmed[owned.shard] = now
        return True

    async def _obsolete(
        self, owned: OwnedShard, eid: str, command_id: str
    ) -> dict[str, JSON] | None:
        """Need this command still run? Its 5th start is refused (design §5)."""
        entry = owned.index.open.get(eid)
        command = None if entry is None else entry.state.commands.get(command_id)
        if command is None:
            return {"obsolete": True}
        if command.starts < STARTS_MAX or command.parked:
            known: dict[str, JSON] = {"starts": command.starts}
            return {"obsolete": False, "parked": command.parked, **known}
        text = (
            f"started {command.starts} times without a result; "
            "it seems to take its worker down"
        )
        ended = await self._owner.fail_command(owned, command_id, "poison", text)
        return {"obsolete": True} if ended else None


def child_of(
    owned: OwnedShard, eid: str, command_id: str, task: str
) -> dict[str, JSON]:
    """What became of a child that a running pipeline asked for (PB-185)."""
    entry = owned.index.open.get(eid)
    key = asked_key(command_id, task)
    asked = None if entry is None else entry.state.asked.get(key)
    if asked is None:
        return {"obsolete": True}
    found: dict[str, JSON] = {"child": asked.child}
    if asked.answer:
        found["answer"] = asked.answer.decode()
    return found


def circumstances_of(owned: OwnedShard, eid: str, command_id: str) -> dict[str, JSON]:
    """Who asks for a secret: the execution and those above it, and the pool of its
    command while that is open (SC-SE-06)."""
    lineage: list[JSON] = []
    above = eid
    while above and len(lineage) <= LINEAGE_MAX:
        state = owned.index.find(above)
        if state is None or state.genesis is None:
            break
        lineage.append({"execution_id": above, "catalog_id": state.genesis.catalog_id})
        above = state.genesis.parent_execution_id
    state = owned.index.find(eid)
    if state is None or state.genesis is None:
        return {}
    command = None if state.terminal else state.commands.get(command_id)
    raw = state.genesis.workload
    return {
        "lineage": lineage,
        "workload": decode_json(raw) if raw else {},
        "pool": "" if command is None else command.pool or "shared",
        "worker": "" if command is None else command.worker,
    }


def status_of(state: State, position: int) -> dict[str, JSON]:
    """The live status of an execution as folded up to a position of the log."""
    assert state.genesis is not None
    steps = state.steps
    done = [name for name, step in steps.items() if step.status == "completed"]
    failed = [name for name, step in steps.items() if step.status == "failed"]
    running = [name for name, step in steps.items() if step.active is not None]
    return {
        "execution_id": state.execution_id,
        "path": state.genesis.path,
        "catalog_id": state.genesis.catalog_id,
        "version": state.genesis.version,
        "parent_execution_id": state.genesis.parent_execution_id or None,
        "status": state.terminal or "RUNNING",
        "current_step": running[0] if running else state.last_step or None,
        "completed_steps": list(done),
        "failed_steps": list(failed),
        "running_steps": list(running),
        "total_steps": len(steps),
        "variables": state.ctx,
        "start_time": state.started_at,
        "end_time": state.ended_at or None,
        "error": state.error or None,
        "last_event_type": state.last_type,
        "last_event_id": str(state.head.event_id),
        "event_count": state.head.count,
        "sequence": position,
    }


def open_commands(state: State, step: str) -> dict[str, JSON]:
    """The open commands of a step, parked ones too."""
    return _named(state, lambda command: command.step == step and not command.child)


def waiting_commands(state: State, step: str, job: str) -> dict[str, JSON]:
    """Those a call-back of this job may mean: not a command that waits for another of
    our jobs (TL-CTR-05). One that is not parked yet has not said for which."""
    ours = job.startswith(JOB_PREFIX)

    def meant(command: OpenCommand) -> bool:
        waits = command.step == step and command.kind in PARKING_KINDS
        return waits and not (ours and command.job and command.job != job)

    return _named(state, meant)


def _named(state: State, chosen: Callable[[OpenCommand], bool]) -> dict[str, JSON]:
    found: list[JSON] = [name for name, one in state.commands.items() if chosen(one)]
    return {"count": len(found), "commands": found[:OPEN_NAMED_MAX]}
