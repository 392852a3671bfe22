"""``playbook`` as a task of a pipeline: ask for a child and wait for its end (PB-185).

As a step's only tool it never comes here: the owner starts the child itself.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Raw
from msgspec.json import decode as decode_json

from state_builder.records import JSON, ChildRequest, encode_json
from tools.contract import CallContext, Tool, ToolResult
from tools.errors import ToolCallError, configuration

WAIT_S = 300.0
WAIT_RETURN_RESULT_S = 180.0


class Playbook(Tool):
    """Starts a child of its execution; the result has the shape of PB-606."""

    kind: ClassVar[str] = "playbook"
    keeps_time: ClassVar[bool] = True

    def validate(self, config: dict[str, JSON]) -> dict[str, JSON]:
        """Which playbook, with what, and how to wait (PB-601 to PB-603)."""
        path, catalog_id = _text(config, "path"), _text(config, "catalog_id")
        if not path and not catalog_id:
            raise configuration("playbook needs 'path' or 'catalog_id'")
        version = _text(config, "version").strip()
        if version not in ("", "latest") and not version.isdecimal():
            raise configuration(f"version '{version[:80]}' is no version")
        payload = config.get("payload")
        if payload is not None and not isinstance(payload, dict):
            raise configuration("payload must be a map")
        waits = config.get("async") is not True and config.get("wait") is not False
        tolerant = config.get("return_step") is not None
        return {
            "path": path,
            "catalog_id": catalog_id,
            "version": int(version) if version.isdecimal() else 0,
            "data": payload or {},
            "waits": waits,
            "tolerant": tolerant,
            "result_step": _text(config, "return_step" if tolerant else "result_step"),
            "cancel_on_timeout": bool(config.get("cancel_on_timeout")),
            "input": config.get("input") or {},
            "return_result": bool(config.get("return_result")),
        }

    def default_timeout_s(self, config: dict[str, JSON]) -> float | None:
        """PB-607."""
        return WAIT_RETURN_RESULT_S if config.get("return_result") else WAIT_S

    async def run(self, config: dict[str, JSON], call: CallContext) -> ToolResult:
        """The child's answer, once it has ended."""
        children = call.ports.children
        if children is None:
            raise configuration("this worker cannot start playbooks inside a pipeline")
        data, own = config["data"], config["input"]
        assert isinstance(data, dict) and isinstance(own, dict)
        request = ChildRequest(
            path=str(config["path"]),
            catalog_id=str(config["catalog_id"]),
            version=int(str(config["version"])),
            data=Raw(encode_json({**data, **own})),
            waits=config["waits"] is True,
            tolerant=config["tolerant"] is True,
            result_step=str(config["result_step"]),
        )
        late = config["cancel_on_timeout"] is True
        outcome = await children.call(call, request, cancel_late=late)
        data = decode_json(outcome.data) if outcome.data else None
        if outcome.failed:
            assert outcome.error is not None
            raise ToolCallError(outcome.error, data=data)
        return ToolResult(data=data)


def _text(config: dict[str, JSON], key: str) -> str:
    value = config.get(key)
    if value is None:
        return ""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise configuration(f"{key} must be a text")
