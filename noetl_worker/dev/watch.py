"""Our end of the guard: tells it which children to end should we die.

The guard is a process in a session of its own; see ``guard`` for what it does with
what it is told. Without it a killed stack would leave its servers running.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from noetl_worker.dev import guard


class Watch:
    """Notes to the guard; opened with ``start``, closed with ``quit``."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, lock_fd: int) -> None:
        """Start the guard; it shares the lock of the data folder until it is done."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(guard.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lock_fd,),
        )

    def add(self, pid: int, stop_signal: int) -> None:
        """A child was started; this is how it is asked to end."""
        self._tell(f"+{pid} {stop_signal}\n")

    def remove(self, pid: int) -> None:
        """A child has ended."""
        self._tell(f"-{pid}\n")

    def quit(self) -> None:
        """The stack ends in good order: the guard has nothing to do."""
        if self._process is None:
            return
        self._tell("quit\n")
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process = None

    def _tell(self, line: str) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        # A guard somebody killed guards nothing; the stack itself goes on.
        with suppress(BrokenPipeError):
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
