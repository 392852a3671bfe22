"""The program a warm child process runs: user code in, JSON out, nothing left behind.

Started as a script with a bare environment; imports the standard library alone. A
request is a frame on the control socket (four bytes of length, then JSON), its answer
another one that repeats the request's id. What user code prints goes to the real
standard output and is collected by the parent. Between requests environment, working
directory, import path, signal handlers and builtins are put back; a run that leaves
threads or processes behind is reported, and the parent replaces the child.

Usage: ``python -I child.py CONTROL_FD ADDRESS_SPACE_BYTES``
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import datetime
import importlib
import inspect
import json
import keyword
import linecache
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
import traceback
import uuid
from base64 import b64encode
from types import CodeType
from typing import Any

CACHED_CODES = 256
TRACEBACK_MAX = 16384
NO_RESULT = object()

HANDLED_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGALRM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
    signal.SIGPIPE,
)


class Misuse(Exception):
    """The request cannot run, whatever is tried."""


class Program:
    """Compiled code; ``returns`` when its last word is a top-level ``return``."""

    def __init__(self, source: str, filename: str) -> None:
        self.returns = False
        try:
            self.code = compile(source, filename, "exec")
        except SyntaxError as error:
            if "'return' outside function" not in str(error):
                raise
            self.returns = True
            self.code = as_function(source, filename)


RETURN = "__returned__"


def as_function(source: str, filename: str) -> CodeType:
    """Code with top-level ``return`` as one function whose names are all global."""
    tree = ast.parse(source, filename)
    body = [unannotated(statement) for statement in tree.body]
    function = ast.FunctionDef(
        name=RETURN,
        args=ast.arguments(
            posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[]
        ),
        body=body,
        decorator_list=[],
        lineno=1,
        col_offset=0,
    )
    module = ast.Module(body=[function], type_ignores=[])
    ast.fix_missing_locations(module)
    probe = compile(module, filename, "exec")
    inner = next(item for item in probe.co_consts if isinstance(item, CodeType))
    names = [*inner.co_varnames, *inner.co_cellvars]
    if names:
        function.body = [ast.Global(names=names, lineno=1, col_offset=0), *body]
        ast.fix_missing_locations(module)
    return compile(module, filename, "exec")


class Unannotate(ast.NodeTransformer):
    """``x: int = 1`` as ``x = 1``: a global name cannot be annotated."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Names inside are the function's own."""
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Names inside are the function's own."""
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Names inside are the class's own."""
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Only names are in the way; ``a.b: int = 1`` may stay."""
        if not isinstance(node.target, ast.Name):
            return node
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(
            ast.Assign(targets=[node.target], value=node.value), node
        )


def unannotated(statement: ast.stmt) -> ast.stmt:
    """A top-level statement without annotated names."""
    return Unannotate().visit(statement)  # type: ignore[no-any-return]


class Baseline:
    """The state of the process that every run starts from."""

    def __init__(self) -> None:
        self.environ = dict(os.environ)
        self.cwd = os.getcwd()
        self.path = list(sys.path)
        self.handlers = [signal.getsignal(number) for number in HANDLED_SIGNALS]
        self.builtins = dict(vars(builtins))
        self.streams = (sys.stdin, sys.stdout, sys.stderr)
        self.recursion = sys.getrecursionlimit()

    def flush(self) -> None:
        """Send what was printed on its way, also what printed into other streams."""
        sys.stdin, sys.stdout, sys.stderr = self.streams
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()

    def restore(self) -> None:
        """Put back what a run changed; cheap where it changed nothing."""
        sys.path[:] = self.path
        sys.argv = [""]
        sys.setrecursionlimit(self.recursion)
        if dict(os.environ) != self.environ:
            os.environ.clear()
            os.environ.update(self.environ)
        if vars(builtins) != self.builtins:
            vars(builtins).clear()
            vars(builtins).update(self.builtins)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip(HANDLED_SIGNALS, self.handlers, strict=True):
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        self._clean_directory()

    def _clean_directory(self) -> None:
        os.chdir(self.cwd)
        with os.scandir(self.cwd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)

    def is_dirty(self) -> bool:
        """Whether a run left a thread, a process or a closed stream behind."""
        if threading.active_count() > 1 or any(
            stream.closed for stream in self.streams
        ):
            return True
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        return True


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
            if exit_code(error) != 0:
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


def prepare(request: dict[str, Any]) -> None:
    """Paths, environment and working directory of a run; its libraries exist."""
    sys.path[:0] = request.get("sys_path") or []
    os.environ.update(request.get("env") or {})
    if request.get("cwd"):
        os.chdir(request["cwd"])
    missing = [
        name for name in request.get("expects") or [] if name not in request["input"]
    ]
    if missing:
        raise Misuse(f"input lacks what the code expects: {', '.join(missing)}")
    request["modules"] = libraries(request)


def libraries(request: dict[str, Any]) -> dict[str, Any]:
    """What ``libs`` names, by alias; all missing modules in one error."""
    found: dict[str, Any] = {}
    missing: list[str] = []
    for alias, spec in (request.get("libs") or {}).items():
        module, name = alias, ""
        if isinstance(spec, str):
            module = spec
        elif isinstance(spec, dict):
            module, name = spec.get("from") or "", spec.get("import") or alias
            if not module:
                module, name = name, ""
        try:
            loaded = importlib.import_module(module)
            found[alias] = getattr(loaded, name) if name else loaded
        except (ImportError, AttributeError):
            missing.append(f"{module}.{name}" if name else module)
    for package in request.get("packages") or []:
        name = re.split(r"[\s<>=!~;\[]", package.strip(), maxsplit=1)[0]
        try:
            importlib.import_module(name.replace("-", "_"))
        except ImportError:
            missing.append(name)
    if missing:
        raise Misuse(f"Required libraries not installed: {', '.join(missing)}")
    return found


def names_for(request: dict[str, Any]) -> dict[str, Any]:
    """The globals a run starts with (TL-PY-04)."""
    given = request["input"]
    usable = {
        key: value
        for key, value in given.items()
        if key.isidentifier() and not keyword.iskeyword(key)
    }
    request["objects"] = {
        "args": given,
        "input_data": given,
        "context": {**request["variables"], **given},
        "variables": request["variables"],
    }
    return {
        "__name__": "__main__",
        "__builtins__": builtins,
        "os": os,
        "json": json,
        "datetime": datetime,
        "uuid": uuid,
        "workload": request["workload"],
        "execution_id": request["execution_id"],
        "step": request["step"],
        **request["objects"],
        **request["modules"],
        **usable,
    }


def finished(main: Any, request: dict[str, Any], names: dict[str, Any]) -> Any:
    """What ``main`` gives, awaited where it has to be (TL-PY-08)."""
    value = main(**bound(main, request, names))
    if inspect.isawaitable(value):
        return asyncio.run(awaited(value))
    return value


async def awaited(value: Any) -> Any:
    """An awaitable as a coroutine."""
    return await value


def bound(main: Any, request: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``main`` by name: input, then the run's objects, then context."""
    given = request["input"]
    objects, context = request["objects"], request["objects"]["context"]
    arguments: dict[str, Any] = {}
    rest: str | None = None
    for name, parameter in inspect.signature(main).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = name
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise Misuse(f"main: parameter '{name}' must be one that takes a name")
        elif name in given:
            arguments[name] = given[name]
        elif name in objects:
            arguments[name] = objects[name]
        elif name in context:
            arguments[name] = context[name]
        elif name in ("workload", "execution_id", "step"):
            arguments[name] = names[name]
        elif parameter.default is parameter.empty:
            raise Misuse(f"main: no value for required parameter '{name}'")
    if rest is not None:
        arguments.update(
            {key: value for key, value in given.items() if key not in arguments}
        )
    return arguments


def check_keys(value: Any, wanted: list[str]) -> None:
    """Raise AssertionError for promised keys the result lacks (TL-PY-06)."""
    missing = [key for key in wanted if not (isinstance(value, dict) and key in value)]
    if missing:
        raise AssertionError(
            f"result lacks what assert.returns names: {', '.join(missing)}"
        )


def as_json(value: Any) -> str:
    """A value as strict JSON text (TL-RES-06, TL-PY-10)."""
    try:
        return json.dumps(value, default=plain, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(cleaned(value), allow_nan=False)


def plain(value: Any) -> Any:
    """Something JSON knows, in place of what it does not."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b64encode(value).decode()
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return list(value)
    module = type(value).__module__.partition(".")[0]
    if module == "numpy" and hasattr(value, "item"):
        return value.item() if getattr(value, "ndim", 0) == 0 else value.tolist()
    if module == "pandas" and hasattr(value, "to_dict"):
        return (
            value.to_dict("records") if hasattr(value, "columns") else value.to_dict()
        )
    return str(value)


def cleaned(value: Any) -> Any:
    """A value with text keys and without NaN and infinities."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key_text(key): cleaned(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(member) for member in value]
    if value is None or isinstance(value, (str, int)):
        return value
    return cleaned(plain(value))


def key_text(key: Any) -> str:
    """A key as JSON writes it; others as text."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return "null" if key is None else str(key)


def exit_code(error: SystemExit) -> int:
    """The code a process would end with; a text goes to stderr as it would there."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    print(error.code, file=sys.stderr)  # noqa: T201 - what Python itself does
    return 1


def described(error: BaseException, filename: str, source: str) -> dict[str, Any]:
    """An exception of user code, with the traceback its author needs (TL-PY-11)."""
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename != filename:
        frame = frame.tb_next
    name = type(error).__name__
    try:
        text = "".join(traceback.format_exception(type(error), error, frame))
        message = str(error)
    except Exception:  # noqa: BLE001 - its own __str__ may be broken
        text, message = f"{name}\n", ""
    kinds = {base.__name__ for base in type(error).__mro__}
    return {
        "kind": "exception",
        "exception": name,
        "message": f"{name}: {message}" if message else name,
        "traceback": text[-TRACEBACK_MAX:],
        "retryable": bool(kinds & {"TimeoutError", "ConnectionError"}),
    }


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


def limit_memory(size: int) -> None:
    """Bound the address space of this process (TL-PY-15)."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (size, size))


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
    if int(argv[1]):
        limit_memory(int(argv[1]))
    serve(control)


if __name__ == "__main__":
    main(sys.argv[1:])
