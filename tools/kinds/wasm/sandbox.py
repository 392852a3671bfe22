"""Runs one function of one module: bytes in, bytes and intents out (TL-WA-02 to 06).

A module has no clock, files, network, environment or randomness. What it asks of the
host is only noted; nobody does it before the function returned. So a run can be thrown
away and repeated, and a module that traps has done nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, cast

import wasmtime
from wasmtime import (
    Caller,
    Config,
    Engine,
    Func,
    FuncType,
    Instance,
    Linker,
    Memory,
    Module,
    Store,
    Trap,
    TrapCode,
    ValType,
    WasmtimeError,
)

from state_builder.records import ToolFailure
from tools.errors import ToolCallError, configuration

MODULE_BYTES_MAX: Final = 32 << 20
MEMORY_BYTES_MAX: Final = 256 << 20
OUTPUT_BYTES_MAX: Final = 16 << 20
TABLE_ELEMENTS_MAX: Final = 100_000
INTENTS_MAX: Final = 1_000

HOST: Final = "noetl"
OK, NO_MEMORY, OUT_OF_BOUNDS, DENIED = range(4)

_TRAPS: Final = {
    TrapCode.OUT_OF_FUEL: "WASM_FUEL",
    TrapCode.INTERRUPT: "WASM_TIMEOUT",
    TrapCode.ALLOCATION_TOO_LARGE: "WASM_MEMORY",
}


@dataclass(frozen=True)
class Program:
    """A compiled module; ``portable`` loads into another engine of the same kind."""

    module: Module
    portable: bytes
    imports: frozenset[str]
    exports: frozenset[str]


@dataclass(frozen=True)
class Intent:
    """What a plug-in wants done once it has returned."""

    what: str
    key: bytes
    data: bytes = b""


@dataclass
class Output:
    """What a run gave."""

    data: bytes
    intents: list[Intent] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)


def engine() -> Engine:
    """An engine whose runs can be stopped, by fuel and from another thread."""
    config = Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    return Engine(config)


def compiled(engine: Engine, code: bytes) -> Program:
    """A module from its bytes, or from text in tests. Takes milliseconds."""
    if len(code) > MODULE_BYTES_MAX:
        raise configuration(f"the module is larger than {MODULE_BYTES_MAX:,} bytes")
    try:
        if not code.startswith(b"\0asm"):
            code = bytes(wasmtime.wat2wasm(code))
        module = Module(engine, code)
    except WasmtimeError as error:
        raise configuration(f"the module cannot be compiled: {_text(error)}") from error
    names = set()
    for one in module.imports:
        if one.module != HOST:
            raise configuration(f"the module imports {one.module}.{one.name}")
        names.add(str(one.name))
    exports = frozenset(one.name for one in module.exports)
    return Program(module, bytes(module.serialize()), frozenset(names), exports)


def run(
    engine: Engine, program: Program, entry: str, data: bytes, bounds: Bounds
) -> Output:
    """Call ``entry`` in a fresh store. Raises ToolCallError; see :data:`_TRAPS`."""
    store = Store(engine)
    store.set_limits(
        memory_size=MEMORY_BYTES_MAX, table_elements=TABLE_ELEMENTS_MAX, instances=1
    )
    store.set_fuel(bounds.fuel)
    store.set_epoch_deadline(1)
    output = Output(b"")
    try:
        instance = _instance(store, program, bounds.granted, output)
        output.data = _called(store, instance, entry, data)
    except Trap as trap:
        _fail_trapped(trap)
    except WasmtimeError as error:
        text = _text(error)
        if "memory minimum size" in text or "exceeds memory limits" in text:
            raise _exception("WASM_MEMORY", text) from error
        raise configuration(f"the module cannot run: {text}") from error
    finally:
        store.close()
    return output


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a run may use.

    Attributes:
        granted: imports this plug-in was registered with; ``emit`` needs no grant.
    """

    fuel: int
    granted: frozenset[str] = frozenset()


def _instance(
    store: Store, program: Program, granted: frozenset[str], output: Output
) -> Instance:
    if not program.imports:
        return Instance(store, program.module, [])
    denied = sorted(program.imports - granted - {"emit"})
    if denied:
        raise configuration(
            f"the plug-in imports {', '.join(denied)}, which it was not granted"
        )
    linker = Linker(store.engine)
    for name, count, results, act in _host(output):
        kind = FuncType([ValType.i32()] * count, [ValType.i32()] * results)
        linker.define_func(HOST, name, kind, act, access_caller=True)
    return linker.instantiate(store, program.module)


def _host(output: Output) -> list[tuple[str, int, int, Callable[..., Any]]]:
    """Name, parameters, results and function of every import (TL-WA-03)."""

    def emit(caller: Caller, code: int) -> None:
        if len(output.codes) < INTENTS_MAX:
            output.codes.append(code)

    def note(what: str) -> Callable[..., int]:
        def host(caller: Caller, *places: int) -> int:
            if len(output.intents) >= INTENTS_MAX:
                return DENIED
            memory = caller.get("memory")
            if not isinstance(memory, Memory):
                return NO_MEMORY
            pairs = zip(places[::2], places[1::2], strict=True)
            parts = [_read(caller, memory, at, size) for at, size in pairs]
            if None in parts:
                return OUT_OF_BOUNDS
            output.intents.append(Intent(what, *cast("list[bytes]", parts)))
            return OK

        return host

    return [
        ("emit", 1, 0, emit),
        ("event_publish", 2, 1, note("event_publish")),
        ("result_put", 4, 1, note("result_put")),
        ("object_put", 4, 1, note("object_put")),
    ]


def _read(store: Any, memory: Memory, at: int, size: int) -> bytes | None:
    at, size = at & 0xFFFFFFFF, size & 0xFFFFFFFF
    if size > OUTPUT_BYTES_MAX or at + size > memory.data_len(store):
        return None
    return bytes(memory.read(store, at, at + size))


def _called(store: Store, instance: Instance, entry: str, data: bytes) -> bytes:
    exports = instance.exports(store)
    memory = exports.get("memory")
    alloc, function = exports.get("alloc"), exports.get(entry)
    if not isinstance(memory, Memory):
        raise configuration("the module exports no memory")
    for name, one in (("alloc", alloc), (entry, function)):
        if not isinstance(one, Func):
            raise configuration(f"the module exports no function '{name}'")
    assert isinstance(alloc, Func) and isinstance(function, Func)
    at = _integer(alloc(store, len(data)), "alloc") & 0xFFFFFFFF
    if at + len(data) > memory.data_len(store):
        raise _exception("WASM_TRAP", f"alloc({len(data)}) gave a place out of memory")
    memory.write(store, data, at)
    packed = _integer(function(store, at, len(data)), entry)
    start, size = packed >> 32 & 0xFFFFFFFF, packed & 0xFFFFFFFF
    if size > OUTPUT_BYTES_MAX:
        raise ToolCallError(
            ToolFailure(
                kind="limit",
                code="wasm_output_bytes_max",
                message=f"an output of {size:,} bytes, at most {OUTPUT_BYTES_MAX:,} "
                "are allowed",
            )
        )
    found = _read(store, memory, start, size)
    if found is None:
        raise _exception("WASM_TRAP", f"{entry} gave an output out of memory")
    return found


def _integer(value: object, name: str) -> int:
    if isinstance(value, int):
        return value
    raise configuration(f"the module's function '{name}' gives no integer")


def _fail_trapped(trap: Trap) -> NoReturn:
    code = _TRAPS.get(trap.trap_code, "WASM_TRAP") if trap.trap_code else "WASM_TRAP"
    raise _exception(code, _text(trap)) from trap


def _exception(code: str, text: str) -> ToolCallError:
    return ToolCallError(
        ToolFailure(kind="exception", code=code, message=f"{code}: {text}")
    )


def _text(error: Exception) -> str:
    """The error's first and last line: place and reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join(dict.fromkeys(lines[:1] + lines[-1:]))[:500]
