"""``noop``: gives what it is told to, the anchor for rules and variables (TL §3.13)."""

from __future__ import annotations

from typing import ClassVar

from state_builder.records import JSON
from tools.contract import CallContext, Tool, ToolResult


class Noop(Tool):
    """Pure; never fails."""

    kind: ClassVar[str] = "noop"
    instant: ClassVar[bool] = True

    def validate(self, config: dict[str, JSON]) -> dict[str, JSON]:
        """Only ``result`` and ``message`` mean something."""
        if "result" in config:
            return {"result": config["result"]}
        return {"result": {"status": "ok", "message": config.get("message") or ""}}

    async def run(self, config: dict[str, JSON], call: CallContext) -> ToolResult:
        """Data is ``result``, else ``{status, message}`` (TL-NO-01)."""
        return ToolResult(data=config["result"])
