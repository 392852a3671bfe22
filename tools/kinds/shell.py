"""``shell``: command lines, each in a process group of its own (TL §3.2)."""

from __future__ import annotations

import re
import time
from typing import ClassVar, Final

import anyio
from anyio import to_thread

from state_builder.errors import LimitExceededError
from state_builder.records import JSON, ToolFailure, encode_json
from state_builder.redact import mask_text
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.files import directory, make_scratch, remove_scratch
from tools.doors.process import Finished, bare_environment, bounds_of, run
from tools.errors import ToolCallError, configuration
from tools.fields import (
    Fields,
    boolean_of,
    environment_of,
    first_of,
    map_of,
    text_of,
    texts_of,
)

ENTRY_TIMEOUT_S: Final = 600.0
"""Time of one entry where nobody says otherwise (TL-SH-02)."""

PREVIEW_MAX: Final = 120

OUTPUT_HELPER_MAX: Final = 4096
"""Characters of an output that later rules see beside the data."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]")


class Shell(Tool):
    """Runs ``<shell> -c <entry>`` for each entry until one fails."""

    kind: ClassVar[str] = "shell"

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits

    def validate(self, config: Fields) -> Fields:
        """``cmds`` (list of texts), ``shell``, ``env``, ``capture``, ``cwd``."""
        key, _ = first_of(config, ("cmds", "commands", "cmd", "command"))
        entries = texts_of(config, key)
        if not entries or not all(entry.strip() for entry in entries):
            raise configuration(f"{key}: an empty command cannot run")
        if any("\0" in entry for entry in entries):
            raise configuration(f"{key}: a command cannot contain NUL")
        result: Fields = {
            "cmds": list(entries),
            "shell": text_of(config, "shell") or "/bin/sh",
            "env": {**_arguments(map_of(config, "input")), **environment_of(config)},
            "capture": boolean_of(config, "capture", True),
        }
        cwd = text_of(config, "cwd")
        if cwd is not None:
            result["cwd"] = cwd
        return result

    def default_timeout_s(self, config: Fields) -> float | None:
        """Each entry has its own time, so all together have the sum."""
        entries = config["cmds"]
        assert isinstance(entries, list)
        return ENTRY_TIMEOUT_S * len(entries)

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The data of TL-SH-03; a failed entry is an error that keeps it."""
        entries, env = config["cmds"], config["env"]
        assert isinstance(entries, list) and isinstance(env, dict)
        home = await to_thread.run_sync(make_scratch, self._limits, "shell")
        given = config.get("cwd")
        report = _Report()
        try:
            cwd = home
            if isinstance(given, str):
                cwd = directory(given, self._limits, field="cwd")
            variables = bare_environment(
                self._limits.environment,
                home,
                call.trace | {name: str(value) for name, value in env.items()},
            )
            own_time = call.timeout_s == self.default_timeout_s(config)
            limit = ENTRY_TIMEOUT_S if own_time else call.timeout_s
            for entry in entries:
                started = time.monotonic()
                with anyio.fail_after(limit):
                    finished = await run(
                        [str(config["shell"]), "-c", str(entry)],
                        env=variables,
                        cwd=cwd,
                        bounds=bounds_of(self._limits, self._limits.shell_rss_mb_max),
                        capture=config["capture"] is True,
                    )
                report.add(str(entry), finished, time.monotonic() - started)
                if finished.code:
                    break
        except TimeoutError:
            raise _late(limit) from None
        except LimitExceededError as error:
            failure = ToolFailure(kind="limit", code=error.limit, message=str(error))
            raise ToolCallError(failure) from error
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(remove_scratch, home)
        return report.result()


def _arguments(inputs: Fields) -> dict[str, JSON]:
    """Step input as ``NOETL_ARG_<NAME>`` (TL-SH-06)."""
    found: dict[str, JSON] = {}
    for key, value in inputs.items():
        text = value if isinstance(value, str) else encode_json(value).decode()
        if "\0" in text:
            raise configuration(f"input.{key} contains NUL")
        found[f"NOETL_ARG_{_NOT_IN_NAMES.sub('_', key).upper()}"] = text
    return found


class _Report:
    """Collects what the entries did."""

    def __init__(self) -> None:
        self._commands: list[JSON] = []
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self._seconds = 0.0
        self._code = 0
        self._truncated = False

    def add(self, entry: str, finished: Finished, seconds: float) -> None:
        """One entry that ran."""
        stdout, stderr = finished.stdout.text(), finished.stderr.text()
        self._commands.append(
            {
                "cmd_preview": mask_text(entry[:PREVIEW_MAX]),
                "exit_code": finished.code,
                "returncode": finished.code,
                "stdout": stdout,
                "stderr": stderr,
                "duration_ms": round(seconds * 1000, 3),
            }
        )
        self._stdout.append(stdout)
        self._stderr.append(stderr)
        self._seconds += seconds
        self._code = finished.code
        cut = finished.stdout.truncated or finished.stderr.truncated
        self._truncated = self._truncated or cut

    def result(self) -> ToolResult:
        """The data, or the error of the entry that failed (TL-SH-04)."""
        stdout, stderr = "".join(self._stdout), "".join(self._stderr)
        data: Fields = {
            "exit_code": self._code,
            "returncode": self._code,
            "stdout": stdout,
            "stderr": stderr,
            "commands": self._commands,
            "duration_ms": round(self._seconds * 1000, 3),
            "text": stdout,
        }
        if self._truncated:
            data["truncated"] = True
        helpers: Fields = {
            "exit_code": self._code,
            "stdout": stdout[-OUTPUT_HELPER_MAX:],
            "stderr": stderr[-OUTPUT_HELPER_MAX:],
        }
        if self._code:
            failure = ToolFailure(
                kind="process",
                code=f"EXIT_{self._code}",
                message=f"Command exited with code {self._code}",
            )
            raise ToolCallError(failure, data=data, helpers=helpers)
        return ToolResult(data=data, helpers=helpers)


def _late(limit: float) -> ToolCallError:
    kind, code = Shell.timeout_as
    text = f"Execution timed out after {limit:g} seconds"
    return ToolCallError(
        ToolFailure(kind=kind, code=code, message=text, retryable=True)
    )
