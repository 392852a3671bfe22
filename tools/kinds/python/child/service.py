"""Answers requests on the control socket, one run after the other."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import socket
import struct
import sys
from typing import Any

from .names import Misuse, bound, names_for, prepare
from .outcome import as_json, check_keys, described, exit_code
from .process import Baseline, adopt_orphans, limit_memory
from .program import RETURN, Program

CACHED_CODES = 256
NO_RESULT = object()


class Runs:
    """Runs requests one after the other."""

    def __init__(self) -> None:
        self._programs: dict[tuple[str, str], Program] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request, as JSON text where there is a value."""
        filename = f"<{request['step']}>"
        try:
            value = self._value(request, filename)
            if value is NO_RESULT:
                return {}
            check_keys(value, request.get("returns") or [])
            return {"value": as_json(value)}
        except Misuse as error:
            return {"failure": {"kind": "configuration", "message": str(error)}}
        except SystemExit as error:
            return {"exit": exit_code(error)}
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            return {"failure": described(error, filename, request["code"])}

    def _value(self, request: dict[str, Any], filename: str) -> Any:
        prepare(request)
        program = self._program(request["code"], filename)
        names = names_for(request)
        given = names.get("result")
        returned: Any = None
        try:
            # Running what the author wrote is what this program is for.
            exec(program.code, names)
            if program.returns:
                returned = names[RETURN]()
        except SystemExit as error:
            if error.code not in (None, 0):
                raise
        result = names.get("result")
        if result is not None and result is not given:
            return result
        main = names.get("main")
        if callable(main):
            return finished(main, request, names)
        return returned if program.returns else NO_RESULT

    def _program(self, source: str, filename: str) -> Program:
        key = (source, filename)
        program = self._programs.get(key)
        if program is None:
            if len(self._programs) >= CACHED_CODES:
                del self._programs[next(iter(self._programs))]
            program = self._programs[key] = Program(source, filename)
        return program


def finished(main: Any, request: dict[str, Any], names: dict[str, Any]) -> Any:
    """What ``main`` gives, awaited where it has to be (TL-PY-08)."""
    value = main(**bound(main, request, names))
    if inspect.isawaitable(value):
        return asyncio.run(awaited(value))
    return value


async def awaited(value: Any) -> Any:
    """An awaitable as a coroutine."""
    return await value


def receive(control: socket.socket) -> bytes:
    """The next frame; empty when the parent is gone."""
    head = exactly(control, 4)
    return exactly(control, struct.unpack("!I", head)[0]) if head else b""


def exactly(control: socket.socket, size: int) -> bytes:
    """So many bytes; empty when the parent is gone."""
    parts: list[bytes] = []
    while size:
        part = control.recv(min(size, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def reply(request_id: str, answer: dict[str, Any], *, dirty: bool) -> bytes:
    """An answer as a frame; the value is JSON already and is not written twice."""
    value = answer.pop("value", None)
    head = {"id": request_id, "dirty": dirty, **answer}
    text = json.dumps(head)
    if value is not None:
        text = f'{text[:-1]}, "value": {value}}}'
    body = text.encode()
    return struct.pack("!I", len(body)) + body


def serve(control: socket.socket) -> None:
    """Answer requests until the parent closes the socket."""
    runs, baseline = Runs(), Baseline()
    while frame := receive(control):
        request = json.loads(frame)
        del frame
        answer = runs.answer(request)
        baseline.flush()
        dirty = baseline.is_dirty()
        if not dirty:
            baseline.restore()
        control.sendall(reply(request["id"], answer, dirty=dirty))


def main(argv: list[str]) -> None:
    """Serve the parent at the other end of the socket."""
    control = socket.socket(fileno=int(argv[0]))
    os.set_inheritable(control.fileno(), False)
    for stream in (sys.stdout, sys.stderr):
        # By the line, so that output keeps its order and outlives a crash.
        stream.reconfigure(  # type: ignore[union-attr]
            encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
    adopt_orphans()
    if int(argv[1]):
        limit_memory(int(argv[1]))
    serve(control)
