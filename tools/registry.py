"""Kind name → tool: the only list of what a step can do.

A kind is built on first use, so a worker pays for the libraries it needs. Plug-ins of
the entry-point group ``noetl.tools`` add kinds and never replace one (TL-INT-03).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from state_builder.records import ToolFailure
from tools.contract import Tool, ToolLimits
from tools.errors import ToolCallError, configuration

Factory = Callable[[ToolLimits], Tool]

PLUGIN_GROUP: Final = "noetl.tools"


def _noop(limits: ToolLimits) -> Tool:
    from tools.kinds.noop import Noop

    return Noop()


def _python(limits: ToolLimits) -> Tool:
    from tools.kinds.python import Python

    return Python(limits)


def _shell(limits: ToolLimits) -> Tool:
    from tools.kinds.shell import Shell

    return Shell(limits)


def _http(limits: ToolLimits) -> Tool:
    from tools.kinds.http import Http

    return Http(limits)


def _postgres(limits: ToolLimits) -> Tool:
    from tools.kinds.postgres import Postgres

    return Postgres(limits)


def _duckdb(limits: ToolLimits) -> Tool:
    from tools.kinds.duckdb import Duckdb

    return Duckdb(limits)


BUILT_IN: Final[dict[str, Factory]] = {
    "duckdb": _duckdb,
    "http": _http,
    "noop": _noop,
    "postgres": _postgres,
    "python": _python,
    "shell": _shell,
}

NOT_BUILT: Final = frozenset(
    (
        *("agent", "artifact", "container", "ducklake", "gateway", "gcs", "mcp"),
        *("nats", "playbook", "provider", "result_fetch", "rhai", "s3", "script"),
        *("secrets", "snowflake", "snowflake_transfer", "subscription", "transfer"),
        *("wasm", "workbook"),
    )
)
"""Kinds of the language that no worker of this build can run."""


class Registry:
    """The tools of one worker, each built once."""

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._tools: dict[str, Tool] = {}
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
        tool = self._tools.get(kind)
        if tool is None:
            tool = self._tools[kind] = self._build(kind)
        return tool

    def _build(self, kind: str) -> Tool:
        plugin = self._plugins.get(kind)
        factory = BUILT_IN.get(kind)
        if factory is None and plugin is None:
            raise _absent(kind)
        try:
            if factory is None:
                assert plugin is not None
                return _loaded(plugin)(self._limits)
            return factory(self._limits)
        except ImportError as error:
            raise configuration(
                f"kind '{kind}' needs the package '{error.name}', "
                "which is not installed in this worker"
            ) from error

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


def _loaded(plugin: EntryPoint) -> Factory:
    factory: Factory = plugin.load()
    return factory


def _absent(kind: str) -> ToolCallError:
    if kind == "rhai":
        return configuration("rhai is not available in this build; use python")
    if kind in NOT_BUILT:
        return configuration(f"kind '{kind}' is not available in this build")
    return ToolCallError(
        ToolFailure(kind="not_found", message=f"Tool not found: {kind}")
    )
