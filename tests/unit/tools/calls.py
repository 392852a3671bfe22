"""Calling one tool as the runner does: validate, then run within its time."""

from __future__ import annotations

from typing import Any

import anyio

from state_builder.ports import Command
from state_builder.records import ToolFailure, encode_json
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.errors import ToolCallError


def context(limits: ToolLimits, **given: Any) -> CallContext:
    """Where a call stands."""
    values: dict[str, Any] = {
        "execution_id": "7",
        "command_id": "7.s.1.1",
        "step": "s",
        "attempt": 1,
        "timeout_s": 10.0,
        "limits": limits,
    }
    return CallContext(**{**values, **given})


async def call(tool: Tool, limits: ToolLimits, /, **config: Any) -> ToolResult:
    """The result of a call with this configuration."""
    return await tool.run(tool.validate(config), context(limits))


async def refusal(tool: Tool, limits: ToolLimits, /, **config: Any) -> ToolCallError:
    """The error of a call that must fail."""
    try:
        result = await call(tool, limits, **config)
    except ToolCallError as error:
        return error
    raise AssertionError(f"did not fail: {result}")


async def failure(tool: Tool, limits: ToolLimits, /, **config: Any) -> ToolFailure:
    """What such an error says."""
    return (await refusal(tool, limits, **config)).failure


def command_of(tool: dict[str, Any], **context: Any) -> Command:
    """A command that runs one tool, with what else its context holds."""
    return Command(
        execution_id="7",
        command_id="7.s.1.1",
        step="s",
        kind=str(tool["kind"]),
        visit=1,
        iteration="",
        attempt=1,
        context=encode_json({"tool_config": tool, **context}),
        path="p",
        worker_id="w1",
        trace={},
        sequence=12,
    )


async def until(holds: Any, within_s: float = 10.0) -> None:
    """Wait for a condition."""
    with anyio.fail_after(within_s):
        while not holds():
            await anyio.sleep(0.01)
