"""Runs user code and reads what came of it (TL §3.1)."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Final

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.errors import LimitExceededError
from state_builder.records import JSON, ToolFailure
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.child import Answer, Child, ChildDiedError, Fault, Terms
from tools.doors.children import Children
from tools.doors.files import confined, directory, make_scratch
from tools.doors.process import Capture, bare_environment, bounds_of
from tools.doors.scripts import load_script
from tools.doors.web import Web
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, map_of
from tools.kinds.python.config import canonical

PROGRAM: Final = str(Path(__file__).with_name("child") / "__main__.py")

_MAIN: Final = re.compile(r"(?<![\w.])def\s+main\s*\(([^()]*)")
_PARAMETER: Final = re.compile(r"(?:^|,)\s*(\w+)")

TRACEBACK_MAX: Final = 4096
"""Characters of a traceback in the outcome (TL-OUT-03)."""

OUTPUT_HELPER_MAX: Final = 4096
"""Characters of an output that later rules see beside the data."""


class Python(Tool):
    """User code; one pool of children for each interpreter."""

    kind: ClassVar[str] = "python"

    def __init__(self, limits: ToolLimits) -> None:
        super().__init__(limits)
        self._web = Web(limits)
        self._pools: dict[str, Children] = {}

    def validate(self, config: Fields) -> Fields:
        """See :func:`tools.kinds.python.config.canonical`."""
        return canonical(config)

    def blank(self, failure: ToolFailure) -> Fields:
        """User code raised nothing, or never ran."""
        return {"py": {"exception": None, "traceback": None}}

    def wants(self, config: Fields) -> frozenset[str]:
        """Names code may look at beyond its input, told by the words in it."""
        code = config.get("code")
        if not isinstance(code, str):
            return frozenset(("variables", "workload"))
        wanted = {"workload"} if "workload" in code else set()
        given = map_of(config, "input")
        if "context" in code or "variables" in code or _asks_beyond(code, given):
            wanted.add("variables")
        return frozenset(wanted)

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The result of the code (TL-PY-07), or its outputs."""
        question = self._question(config, call)
        if "code" in config:
            question["code"] = config["code"]
        else:
            question["code"] = await load_script(
                map_of(config, "script"), self._limits, self._web
            )
        pool = self._pool(str(config.get("python") or self._limits.python_path))
        try:
            answer, stdout, stderr = await pool.ask(question)
        except ChildDiedError as died:
            raise _died(died) from died
        except LimitExceededError as error:
            failure = ToolFailure(kind="limit", code=error.limit, message=str(error))
            raise ToolCallError(failure) from error
        return _result(answer, stdout, stderr)

    async def close(self) -> None:
        """End all children."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.close()
        await self._web.close()

    def _question(self, config: Fields, call: CallContext) -> Fields:
        question: Fields = {
            "step": call.label or call.step,
            "execution_id": call.execution_id,
            "input": config["input"],
            "variables": {
                "execution_id": call.execution_id,
                "step": call.step,
                **call.variables,
            },
            "workload": call.workload,
            "sys_path": self._paths(config),
        }
        given = config.get("env")
        env = {**call.trace, **(given if isinstance(given, dict) else {})}
        if env:
            question["env"] = env
        for key in ("libs", "expects", "returns", "packages", "files"):
            if config.get(key):
                question[key] = config[key]
        if "cwd" in config:
            question["cwd"] = directory(str(config["cwd"]), self._limits, field="cwd")
        return question

    def _paths(self, config: Fields) -> list[JSON]:
        """Import paths of ``deps``, confined (TL-PY-14)."""
        paths: list[JSON] = []
        given = config["sys_path"]
        assert isinstance(given, list)
        for path in given:
            place = directory(str(path), self._limits, field="deps.sys_path")
            paths.append(place)
        if "venv_path" in config:
            venv = confined(
                str(config["venv_path"]), self._limits, field="deps.venv_path"
            )
            packages = sorted(venv.glob("lib/python*/site-packages"))
            if not packages:
                raise configuration(f"deps.venv_path: no site-packages under {venv}")
            paths.extend(str(place) for place in packages)
        return paths

    def _pool(self, interpreter: str) -> Children:
        pool = self._pools.get(interpreter)
        if pool is None:
            pool = self._pools[interpreter] = Children(
                lambda: self._start(interpreter or sys.executable),
                size=self._limits.python_children_max,
            )
        return pool

    async def _start(self, interpreter: str) -> Child:
        limits = self._limits
        home = make_scratch(limits, "python")
        memory = str(limits.python_rss_mb_max << 20)
        return await Child.start(
            lambda control, tickets: [
                *(interpreter, "-I", PROGRAM, str(control), str(tickets), memory)
            ],
            env=bare_environment(limits.environment, home),
            home=home,
            terms=Terms(
                answer_bytes_max=limits.result_bytes_max,
                runs_max=limits.python_runs_max,
                bounds=bounds_of(limits, 0),
            ),
        )


def _asks_beyond(code: str, given: Fields) -> bool:
    """Whether ``main`` has parameters that the input does not give (TL-PY-08)."""
    return not _parameters(code) <= given.keys()


@lru_cache(maxsize=512)
def _parameters(code: str) -> frozenset[str]:
    found = (_PARAMETER.findall(main) for main in _MAIN.findall(code))
    return frozenset(name for names in found for name in names)


def _died(died: ChildDiedError) -> ToolCallError:
    """RT-WRK-14: a child that was killed or ran out of memory."""
    code = died.exit_code
    how = ""
    if code is not None:
        how = f" (signal {-code})" if code < 0 else f" (exit code {code})"
    return ToolCallError(
        ToolFailure(
            kind="process",
            code="tool_crashed",
            message=f"the process that ran the code crashed: {died}{how}",
        )
    )


def _result(answer: Answer, stdout: Capture, stderr: Capture) -> ToolResult:
    out, err = stdout.text(), stderr.text()
    helpers: Fields = {"py": {"exception": None, "traceback": None}, "exit_code": 0}
    for key, text in (("stdout", out), ("stderr", err)):
        if text:
            helpers[key] = text[-OUTPUT_HELPER_MAX:]
    if answer.failure is not None:
        raise _failed(answer.failure, out, err, helpers)
    if answer.exit is not None and answer.exit != 0:
        raise ToolCallError(
            ToolFailure(
                kind="process",
                code=f"EXIT_{answer.exit}",
                message=f"Python script exited with code {answer.exit}",
            ),
            data={"stdout": out, "stderr": err},
            helpers={**helpers, "exit_code": answer.exit},
        )
    if answer.value:
        return ToolResult(data=_value(answer), helpers=helpers)
    return ToolResult(data=_printed(stdout, stderr, out, err), helpers=helpers)


def _value(answer: Answer) -> JSON:
    try:
        value: JSON = decode_json(answer.value)
    except (DecodeError, RecursionError) as error:
        text = f"the result is no JSON that can be read: {error}"
        raise ToolCallError(ToolFailure(kind="json", message=text)) from error
    return value


def _printed(stdout: Capture, stderr: Capture, out: str, err: str) -> JSON:
    """The outputs, or the one JSON document printed (TL-PY-07 (4), TL-PY-09)."""
    if out.lstrip()[:1] in ("{", "["):
        try:
            document: JSON = decode_json(out)
        except (DecodeError, RecursionError):
            pass
        else:
            return document
    data: Fields = {"stdout": out, "stderr": err}
    if stdout.truncated or stderr.truncated:
        data["truncated"] = True
    return data


def _failed(fault: Fault, out: str, err: str, helpers: Fields) -> ToolCallError:
    if fault.kind == "configuration":
        return configuration(fault.message)
    name, trace = fault.exception, fault.traceback
    return ToolCallError(
        ToolFailure(
            kind="exception",
            code=name,
            message=fault.message,
            retryable=fault.retryable,
        ),
        data={"stdout": out, "stderr": err, "exception": name, "traceback": trace},
        helpers={
            **helpers,
            "exit_code": 1,
            "py": {"exception": name, "traceback": trace[-TRACEBACK_MAX:]},
        },
    )
