"""Answers requests on the control socket, one run after the other."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Awaitable
from typing import Any

from .names import Misuse, bound, names_for, prepare
from .outcome import as_json, check_keys, described, exit_code
from .process import Baseline, adopt_orphans, limit_memory
from .program import RETURN, Program

CACHED_CODES = 256
NO_RESULT = object()
HEAD = struct.Struct("!IB")
READ = 1 << 18

# Kept here, so that a run that changes the module's own changes nothing of ours.
encode = json.JSONEncoder().encode
decode = json.JSONDecoder().decode


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
        if "async" in request["code"]:
            # Loading it takes longer than all else a child starts with; and later a
            # file on the run's own path could hide it.
            import asyncio  # noqa: F401
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
    if isinstance(value, Awaitable):
        import asyncio

        return asyncio.run(awaited(value))
    return value


async def awaited(value: Any) -> Any:
    """An awaitable as a coroutine."""
    return await value


class Questions:
    """Frames in the order they came; those that were taken back are passed over."""

    def __init__(self, control: int, tickets: int) -> None:
        self._control = control
        self._tickets = tickets
        self._heard = bytearray()

    def next(self) -> bytes:
        """The next question that is ours; empty when the parent is gone."""
        ticket = os.read(self._tickets, 1)
        while ticket:
            head = self._exactly(HEAD.size)
            if not head:
                break
            size, number = HEAD.unpack(head)
            frame = self._exactly(size)
            if number == ticket[0]:
                return frame
        return b""

    def _exactly(self, size: int) -> bytes:
        """So many bytes; empty when the parent is gone."""
        heard = self._heard
        while len(heard) < size:
            part = os.read(self._control, READ)
            if not part:
                return b""
            heard += part
        taken = bytes(heard[:size])
        del heard[:size]
        return taken


def send(control: int, frame: bytes) -> None:
    """All of a frame."""
    view = memoryview(frame)
    while view:
        view = view[os.write(control, view) :]


def reply(head: dict[str, Any], answer: dict[str, Any]) -> bytes:
    """An answer as a frame; the value is JSON already and is not written twice."""
    value = answer.pop("value", None)
    text = encode({**head, **answer})
    if value is not None:
        text = f'{text[:-1]}, "value": {value}}}'
    body = text.encode()
    return struct.pack("!I", len(body)) + body


def serve(control: int, tickets: int) -> None:
    """Answer requests until the parent closes the sockets, or a run leaves a mess."""
    runs, baseline = Runs(), Baseline()
    questions = Questions(control, tickets)
    while frame := questions.next():
        request = decode(frame.decode())
        del frame
        baseline.wait_taken()
        answer = runs.answer(request)
        baseline.flush()
        dirty = baseline.is_dirty()
        if not dirty:
            baseline.restore()
        head = {"id": request["id"], "dirty": dirty, "printed": baseline.printed()}
        send(control, reply(head, answer))
        if dirty:
            # The parent ends us, and whatever is left of the run.
            while os.read(control, READ):
                pass
            return


def main(argv: list[str]) -> None:
    """Serve the parent at the other end of the sockets."""
    control, tickets = int(argv[0]), int(argv[1])
    os.set_inheritable(control, False)
    os.set_inheritable(tickets, False)
    for stream in (sys.stdout, sys.stderr):
        # By the line, so that output keeps its order and outlives a crash.
        stream.reconfigure(  # type: ignore[union-attr]
            encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
    adopt_orphans()
    if int(argv[2]):
        limit_memory(int(argv[2]))
    serve(control, tickets)
