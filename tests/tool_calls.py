"""One call of one tool, as the runner makes it, for tests of kinds."""

from __future__ import annotations

from typing import Any

import anyio
from msgspec.structs import replace

from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.errors import ToolCallError


def context(limits: ToolLimits, **changes: Any) -> CallContext:
    """Where a call stands: execution 7, step ``load``, a minute to run."""
    call = CallContext(
        execution_id="7",
        command_id="7.load.1.1",
        step="load",
        attempt=1,
        timeout_s=60.0,
        limits=limits,
    )
    return replace(call, **changes)


async def run(tool: Tool, limits: ToolLimits, **config: Any) -> ToolResult:
    """The result of a configuration, within half a minute."""
    with anyio.fail_after(30):
        return await tool.run(tool.validate(config), context(limits))


async def failing(tool: Tool, limits: ToolLimits, **config: Any) -> ToolCallError:
    """The error of a configuration that must fail."""
    try:
        result = await run(tool, limits, **config)
    except ToolCallError as error:
        return error
    raise AssertionError(f"it gave {result.data!r}")
