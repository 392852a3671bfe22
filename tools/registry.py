"""Kind name → tool: the only list of what a step can do.

A kind is built on first use, so a worker pays for the libraries it needs. Plug-ins of
the entry-point group ``noetl.tools`` add kinds and never replace one (TL-INT-03).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from importlib import import_module
from importlib.metadata import entry_points
from typing import Final, cast

import anyio

from state_builder.records import JSON, ToolFailure
from tools.contract import Tool, ToolLimits, ToolPorts
from tools.errors import ToolCallError, configuration

Factory = Callable[[ToolLimits], Tool]

PLUGIN_GROUP: Final = "noetl.tools"
_UNBOUNDED: Final[AbstractAsyncContextManager[object]] = nullcontext()


BUILT_IN: Final[dict[str, str]] = {
    "artifact": "tools.kinds.artifact:Artifact",
    "container": "tools.kinds.container:Container",
    "duckdb": "tools.kinds.duckdb:Duckdb",
    "ducklake": "tools.kinds.ducklake:Ducklake",
    "gcs": "tools.kinds.upload:Gcs",
    "http": "tools.kinds.http:Http",
    "mcp": "tools.kinds.mcp:Mcp",
    "nats": "tools.kinds.nats:Nats",
    "noop": "tools.kinds.noop:Noop",
    "playbook": "tools.kinds.playbook:Playbook",
    "postgres": "tools.kinds.postgres:Postgres",
    "python": "tools.kinds.python:Python",
    "result_fetch": "tools.kinds.artifact:ResultFetch",
    "s3": "tools.kinds.upload:S3",
    "shell": "tools.kinds.shell:Shell",
    "snowflake": "tools.kinds.snowflake:Snowflake",
    "subscription": "tools.kinds.subscription:Subscription",
    "transfer": "tools.kinds.transfer:Transfer",
    "wasm": "tools.kinds.wasm:Wasm",
}
"""Kind → module and class; each is described in ``kinds/<kind>.toml``."""

ALIASES: Final = {"snowflake_transfer": "transfer"}
"""Older names of kinds."""

NOT_BUILT: Final[dict[str, str]] = {
    "agent": "call the framework from a python step, or run a playbook",
    "gateway": "use http",
    "provider": "use http with a credential",
    "rhai": "use python",
    "script": "use python with script, or container",
    "secrets": "give the playbook a keychain entry of kind secrets and read "
    "{{ keychain.<name>.value }}",
    "workbook": "name one of the playbook's workbook actions",
}
"""Kinds of the language that no worker of this build can run, and what to use."""


class Registry:
    """The tools of one worker, each built once."""

    def __init__(self, limits: ToolLimits, ports: ToolPorts | None = None) -> None:
        self._limits = limits
        self.ports = ports or ToolPorts()
        self._tools: dict[str, Tool] = {}
        self._rooms: dict[str, anyio.Semaphore] = {}
        self._plugins = {
            point.name: point
            for point in entry_points(group=PLUGIN_GROUP)
            if point.name not in BUILT_IN
        }

    @property
    def kinds(self) -> list[str]:
        """Names of all kinds this worker has, sorted."""
        return sorted((*BUILT_IN, *self._plugins))

    def get(self, kind: str) -> Tool:
        """The tool of a kind.

        Raises ToolCallError: ``not_found`` for a name nobody knows (TL-IDX-01),
        ``configuration`` where something is missing in this worker (TL-IDX-02).
        """
        kind = ALIASES.get(kind, kind)
        tool = self._tools.get(kind)
        if tool is None:
            tool = self._tools[kind] = self._build(kind)
        return tool

    async def warm(self, plugins: Sequence[str]) -> None:
        """Compile WebAssembly plug-ins before they are called (TL-WA-08)."""
        for name in plugins:
            await self.get("wasm").warm(name, self.ports)

    def blank(self, kind: str, failure: ToolFailure) -> dict[str, JSON]:
        """Helpers of a failed call that has none; empty for a kind never built."""
        tool = self._tools.get(kind)
        return {} if tool is None else tool.blank(failure)

    def room(self, kind: str) -> AbstractAsyncContextManager[object]:
        """A place among the calls of a kind that may run at once (TL-LIM-05)."""
        most = self._limits.concurrency_max.get(kind)
        if most is None:
            return _UNBOUNDED
        room = self._rooms.get(kind)
        if room is None:
            room = self._rooms[kind] = anyio.Semaphore(most, fast_acquire=True)
        return room

    def _build(self, kind: str) -> Tool:
        try:
            factory = self._factory(kind)
            return factory(self._limits)
        except ImportError as error:
            raise configuration(
                f"kind '{kind}' needs the package '{error.name}', "
                "which is not installed in this worker"
            ) from error

    def _factory(self, kind: str) -> Factory:
        place = BUILT_IN.get(kind)
        if place is not None:
            module, _, name = place.partition(":")
            return cast("Factory", getattr(import_module(module), name))
        plugin = self._plugins.get(kind)
        if plugin is None:
            raise _absent(kind)
        return cast("Factory", plugin.load())

    async def close(self) -> None:
        """Close every tool that was built; all are closed, also when one fails."""
        tools, self._tools = list(self._tools.values()), {}
        errors: list[Exception] = []
        for tool in tools:
            try:
                await tool.close()
            except Exception as error:  # noqa: BLE001 - the others must close too
                errors.append(error)
        if errors:
            raise ExceptionGroup("tools did not close", errors)


def _absent(kind: str) -> ToolCallError:
    if kind in NOT_BUILT:
        return configuration(
            f"{kind} is not available in this build; {NOT_BUILT[kind]}"
        )
    return ToolCallError(
        ToolFailure(kind="not_found", message=f"Tool not found: {kind}")
    )
