"""Playbooks that a pipeline calls in its middle: ask the owner, wait for its answer.

What a worker wants is a fact in the log under a key of its own, so a worker that dies
and one that runs the pipeline again get the same child (PB-185). Implements
:class:`tools.contract.Children`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Raw
from msgspec.json import Decoder

from state_builder.ids import Shard, shard_of
from state_builder.ports import Clock, EventLog, Signals
from state_builder.records import (
    JSON,
    ChildRequest,
    Event,
    Record,
    ResultEnvelope,
    ToolFailure,
    ToolOutcome,
    encode_json,
    timestamp,
)
from tools.contract import CallContext

ASK_TIMEOUT_S = 2.0
"""How long to wait for an owner's answer."""

ASK_FIRST_S, ASK_MAX_S = 0.05, 1.0
"""Between two questions; doubling."""

_envelope = Decoder(ResultEnvelope)


@dataclass(frozen=True, kw_only=True)
class ChildrenPorts:
    """What asking for children may touch."""

    log: EventLog
    signals: Signals
    clock: Clock


class AskedChildren:
    """Children by the log and the owner of their parent's shard.

    Attributes:
        on_wait: told of every command that begins to wait, so that it need not hold
            what its own child may want.
    """

    def __init__(self, ports: ChildrenPorts, shard_count: int) -> None:
        self._ports = ports
        self._shard_count = shard_count
        self.on_wait: Callable[[str], None] = _no_slot

    async def call(
        self, call: CallContext, request: ChildRequest, *, cancel_late: bool
    ) -> ToolOutcome:
        """Start a child under ``call.key`` and wait for its end."""
        shard = shard_of(call.execution_id, self._shard_count)
        clock = self._ports.clock
        deadline = clock.monotonic() + call.timeout_s
        appended = await self._say(shard, call.execution_id, _wish(call, request), call)
        question: dict[str, JSON] = {
            "kind": "child",
            "execution_id": call.execution_id,
            "command_id": call.command_id,
            "task": call.key,
            "sequence": appended,
        }
        child, wait_s = "", ASK_FIRST_S
        if request.waits:
            self.on_wait(call.command_id)
        while (left := deadline - clock.monotonic()) > 0:
            timeout_s = min(ASK_TIMEOUT_S, left)
            found = await self._ports.signals.ask(shard, question, timeout_s) or {}
            child = str(found.get("child") or child)
            answer = found.get("answer")
            if isinstance(answer, str):
                outcome = _envelope.decode(answer).context
                return outcome or ToolOutcome()
            if found.get("obsolete"):
                return _failed("cancelled", "the command is not wanted any more")
            await clock.sleep(min(wait_s, max(0.0, deadline - clock.monotonic())))
            wait_s = min(wait_s * 2, ASK_MAX_S)
        if cancel_late and child:
            late = Event(
                type="playbook.cancel_requested",
                at=timestamp(clock.now()),
                status="PENDING",
                error="timeout",
            )
            await self._say(shard, child, late, call)
        return _late(call, request, child)

    async def _say(
        self, shard: Shard, execution_id: str, event: Event, call: CallContext
    ) -> int:
        record = Record(execution_id=execution_id, events=[event])
        key = f"{call.key}:{event.type}"
        log = self._ports.log
        return (await log.append(shard, [record], message_id=key)).sequence


def _no_slot(command_id: str) -> None:
    """Nobody to tell."""


def _wish(call: CallContext, request: ChildRequest) -> Event:
    return Event(
        type="child.requested",
        step=call.step,
        command_id=call.command_id,
        task=call.key,
        status="PENDING",
        context=Raw(encode_json(request)),
    )


def _late(call: CallContext, request: ChildRequest, child: str) -> ToolOutcome:
    """PB-607; a tolerant call succeeds whatever becomes of the child (PB-605)."""
    text = f"child playbook did not end within {call.timeout_s:g} seconds"
    if not request.tolerant:
        return _failed("timeout", text, retryable=True)
    data: JSON = {
        "execution_id": child,
        "path": request.path,
        "status": "timeout",
        "error": text,
        "result": {},
    }
    return ToolOutcome(data=Raw(encode_json(data)))


def _failed(kind: str, message: str, *, retryable: bool = False) -> ToolOutcome:
    failure = ToolFailure(kind=kind, message=message, retryable=retryable)
    return ToolOutcome(failed=True, error=failure)
