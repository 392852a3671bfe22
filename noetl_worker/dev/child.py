"""One child process: how it is started, watched, and ended.

Every child leads a session of its own, so Ctrl-C in a terminal reaches this process
alone and the order of stopping stays ours. Its output goes to one log file. Nothing
here restarts anything; that is ``service``.
"""

from __future__ import annotations

import os
import signal as signals
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import Process

from state_builder.errors import UnavailableError

TAIL_LINES = 20
TAIL_BYTES_MAX = 16 * 1024


class StackError(UnavailableError):
    """The stack cannot do what was asked; the message says what to do about it."""

    code = "stack"


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run.

    Attributes:
        name: how people know the process; also its log's name.
        log: file its output is appended to.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path


class Child:
    """A process that was started and has not been waited for by anybody else."""

    def __init__(self, command: Command, process: Process) -> None:
        self.command = command
        self._process = process

    @classmethod
    async def start(cls, command: Command) -> Child:
        """Start the process.

        Raises:
            StackError: the program does not exist or may not be run.
        """
        command.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with command.log.open("ab") as log:
                process = await anyio.open_process(
                    command.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=command.env,
                    start_new_session=True,
                )
        except OSError as error:
            raise StackError(
                f"{command.name}: cannot run {command.argv[0]}: {error}"
            ) from error
        return cls(command, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal's number when one ended it; None while alive."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit code."""
        return await self._process.wait()

    def send(self, signal: int) -> None:
        """Send a signal to the process alone; one that is gone is left in peace."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal)

    def kill_session(self) -> None:
        """Kill what the process started in its own group and may have left behind."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signals.SIGKILL)

    async def stop(self, signal: int, grace_s: float) -> bool:
        """Ask it to end, kill it after ``grace_s``; True when asking was enough."""
        self.send(signal)
        with anyio.move_on_after(grace_s) as patience:
            await self.wait()
        if patience.cancelled_caught:
            self.send(signals.SIGKILL)
            await self.wait()
        self.kill_session()
        return not patience.cancelled_caught

    def ending(self) -> str:
        """How it ended, in words."""
        code = self.returncode
        if code is None:
            return "is still running"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was ended by {signals.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def tail(self) -> str:
        """The last lines of its log, for error messages."""
        return tail(self.command.log)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last ``lines`` lines of a text file; empty when there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES_MAX))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
