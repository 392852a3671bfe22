"""Finds the module a step wants, runs it, and does what it asked for afterwards."""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Final

import anyio
import structlog
from anyio import to_thread
from anyio.lowlevel import checkpoint
from msgspec import DecodeError
from msgspec.json import decode as decode_json
from wasmtime import Engine, Module

from state_builder.errors import (
    ConflictError,
    NoetlError,
    NotFoundError,
    UnavailableError,
)
from state_builder.records import JSON, ToolFailure, encode_json
from tools.contract import CallContext, Plugin, Tool, ToolLimits, ToolPorts, ToolResult
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, integer_of, map_of, text_of
from tools.kinds.wasm.sandbox import (
    Bounds,
    Intent,
    Output,
    Program,
    compiled,
    engine,
    run,
)

log = structlog.get_logger()

CHECK_S: Final = 5.0
"""How old the knowledge of a plug-in's newest version may be (TL-WA-08)."""

PROGRAMS_MAX: Final = 64
"""Compiled modules kept."""

QUICK_FUEL: Final = 2_000_000
"""Instructions a call may take on the event loop, about a millisecond. A run has no
effect before it ends, so one that needs more is begun again in a thread."""

Wanted = tuple[str, int, str]
"""Path, version (0 = newest) and digest (empty = any)."""


@dataclass
class Known:
    """A compiled plug-in, and when it was last asked about."""

    plugin: Plugin
    program: Program
    checked_at: float


class Wasm(Tool):
    """Compiles each module once; a call is a fresh instance."""

    kind: ClassVar[str] = "wasm"
    timeout_as: ClassVar[tuple[str, str]] = ("timeout", "WASM_TIMEOUT")

    def __init__(self, limits: ToolLimits) -> None:
        super().__init__(limits)
        self._engine = engine()
        self._known: dict[Wanted, Known] = {}
        self._asking: dict[Wanted, anyio.Lock] = {}

    def validate(self, config: Fields) -> Fields:
        """``path``, ``version``, ``digest``, ``entry`` and ``input``."""
        plugin = config.get("plugin")
        named: Fields = {"path": plugin}
        given = named if isinstance(plugin, str) else map_of(config, "plugin")
        path = text_of(given, "path", "plugin.")
        if path is None:
            raise configuration("plugin.path: name the plug-in")
        version = 0
        if given.get("version") not in (None, "", "latest"):
            version = integer_of(given, "version", least=1, most=2**31) or 0
        return {
            "path": path,
            "version": version,
            "digest": (text_of(given, "digest", "plugin.") or "").lower(),
            "entry": text_of(given, "entry", "plugin.") or "run",
            "input": config.get("input"),
        }

    async def warm(self, name: str, ports: ToolPorts) -> None:
        """Compile the newest version of a plug-in (TL-WA-08)."""
        try:
            await self._find(self.validate({"plugin": name}), ports)
        except ToolCallError as error:
            log.warning("plugin.not_warm", plugin=name, reason=error.failure.message)

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The output, as bytes and as JSON where it is some (TL-WA-07)."""
        observer = call.ports.observer
        if observer is None:
            return await self._called(config, call)
        began, outcome = time.monotonic(), "error"
        try:
            result = await self._called(config, call)
            outcome = "success"
            return result
        finally:
            observer.count("noetl_plugin_invocations_total", outcome=outcome)
            observer.time("noetl_plugin_duration_seconds", time.monotonic() - began)

    async def _called(self, config: Fields, call: CallContext) -> ToolResult:
        known = await self._find(config, call.ports)
        data = encode_json(config["input"])
        granted = known.plugin.capabilities
        output = await self._run(known.program, str(config["entry"]), data, granted)
        flush = await self._flush(output.intents, call)
        result: Fields = {"output_b64": b64encode(output.data).decode(), "flush": flush}
        with suppress(DecodeError, RecursionError):
            result["output"] = decode_json(output.data)
        errors = flush["errors"]
        if errors:
            assert isinstance(errors, list)
            failure = ToolFailure(
                kind="io", code="WASM_FLUSH", message=str(errors[0]), retryable=True
            )
            raise ToolCallError(failure, data=result)
        return ToolResult(data=result)

    async def _run(
        self, program: Program, entry: str, data: bytes, granted: frozenset[str]
    ) -> Output:
        quick = Bounds(fuel=min(QUICK_FUEL, self._limits.wasm_fuel), granted=granted)
        try:
            return run(self._engine, program, entry, data, quick)
        except ToolCallError as error:
            spent = error.failure.code == "WASM_FUEL"
            if not spent or quick.fuel == self._limits.wasm_fuel:
                raise
        return await self._run_long(program, entry, data, granted)

    async def _run_long(
        self, program: Program, entry: str, data: bytes, granted: frozenset[str]
    ) -> Output:
        """In a thread, on an engine of its own so that only this run can be stopped."""
        own = engine()
        bounds = Bounds(fuel=self._limits.wasm_fuel, granted=granted)
        moved = Program(
            Module.deserialize(own, program.portable),
            b"",
            program.imports,
            program.exports,
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_stop_on_cancel, own)
                output = await to_thread.run_sync(run, own, moved, entry, data, bounds)
                tasks.cancel_scope.cancel()
        except* ToolCallError as group:
            # Stopped because the call was cancelled, it is that and no failure.
            await checkpoint()
            raise group.exceptions[0] from None
        return output

    async def _find(self, config: Fields, ports: ToolPorts) -> Known:
        """The compiled module, fetched where it is not known or may be outdated."""
        version = config["version"]
        assert isinstance(version, int)
        wanted = (str(config["path"]), version, str(config["digest"]))
        known = self._known.get(wanted)
        fresh = known is not None and (
            bool(wanted[2]) or time.monotonic() - known.checked_at < CHECK_S
        )
        if known is not None and fresh:
            _note(ports, "hit")
            return known
        _note(ports, "miss")
        if ports.plugins is None:
            raise configuration("this worker has no plug-in store")
        async with self._asking.setdefault(wanted, anyio.Lock()):
            return await self._ask(wanted, ports)

    async def _ask(self, wanted: Wanted, ports: ToolPorts) -> Known:
        assert ports.plugins is not None
        path, version, digest = wanted
        known = self._known.get(wanted)
        if known is not None and time.monotonic() - known.checked_at < CHECK_S:
            return known
        try:
            have = known.plugin.digest if known is not None else ""
            plugin = await ports.plugins.fetch(path, version, digest, have)
        except NotFoundError as error:
            failure = ToolFailure(kind="not_found", code="plugin", message=str(error))
            raise ToolCallError(failure) from error
        except ConflictError as error:
            raise configuration(f"plugin.digest: {error}") from error
        except UnavailableError as error:
            if known is None:
                raise _unreachable(path, error) from error
            log.warning("plugin.not_checked", plugin=path, reason=str(error))
            return known
        if plugin is None:
            assert known is not None
            known.checked_at = time.monotonic()
            return known
        return await self._load(wanted, plugin, ports)

    async def _load(self, wanted: Wanted, plugin: Plugin, ports: ToolPorts) -> Known:
        found = hashlib.sha256(plugin.code).hexdigest()
        if found != plugin.digest or wanted[2] not in ("", found):
            raise configuration(
                f"plug-in '{plugin.path}' has the digest {found}, "
                f"not {wanted[2] or plugin.digest}"
            )
        program = await to_thread.run_sync(compiled, self._engine, plugin.code)
        if len(self._known) >= PROGRAMS_MAX:
            oldest = next(iter(self._known))
            del self._known[oldest]
            _note(ports, "evict")
            self._asking.pop(oldest, None)
        # Runs at work keep their program; the next call takes this one.
        self._known[wanted] = Known(plugin, program, time.monotonic())
        return self._known[wanted]

    async def _flush(self, intents: list[Intent], call: CallContext) -> Fields:
        """Do what the run asked for, in order (TL-WA-06)."""
        counts = {"result_put": 0, "object_put": 0, "event_publish": 0}
        errors: list[JSON] = []
        for intent in intents:
            try:
                await _perform(intent, call)
                counts[intent.what] += 1
            except NoetlError as error:
                errors.append(f"{intent.what}: {error}")
        return {
            "results_stored": counts["result_put"],
            "objects_stored": counts["object_put"],
            "events_published": counts["event_publish"],
            "errors": errors,
        }


def _note(ports: ToolPorts, event: str) -> None:
    if ports.observer is not None:
        ports.observer.count("noetl_plugin_cache_total", event=event)


async def _perform(intent: Intent, call: CallContext) -> None:
    effects = call.ports.effects
    if effects is None:
        raise configuration("this worker cannot do it")
    if intent.what == "event_publish":
        await effects.publish_event(call, intent.key)
    elif intent.what == "result_put":
        await effects.put_result(
            call, intent.key.decode("utf-8", "replace"), intent.data
        )
    else:
        await effects.put_object(
            call, intent.key.decode("utf-8", "replace"), intent.data
        )


async def _stop_on_cancel(own: Engine) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        own.increment_epoch()


def _unreachable(path: str, error: UnavailableError) -> ToolCallError:
    text = f"plug-in '{path}' cannot be fetched: {error}"
    return ToolCallError(
        ToolFailure(kind="connection", code="CONNECTION", message=text, retryable=True)
    )
