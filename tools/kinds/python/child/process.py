"""The process that runs user code: what is put back between runs, its bounds."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what signal itself wraps
import builtins
import ctypes
import os
import signal
import sys
import termios
import threading
import time
from fcntl import ioctl

SET_SUBREAPER = 36
POLL_S = 0.0005
EMPTY = bytes(4)

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


class Baseline:
    """The state of the process that every run starts from."""

    def __init__(self) -> None:
        self.environ = os.environ
        # What is under the mapping: comparing it decodes nothing.
        self.raw = vars(os.environ)["_data"]
        self.variables = dict(self.raw)
        self.cwd = os.getcwd()
        self.path = list(sys.path)
        self.handlers = [_signal.getsignal(number) for number in HANDLED_SIGNALS]
        self.builtins = dict(vars(builtins))
        self.streams = (sys.stdin, sys.stdout, sys.stderr)
        self.recursion = sys.getrecursionlimit()
        self.outputs = (os.dup(1), os.dup(2))

    def flush(self) -> None:
        """Mend what we need ourselves, and send what was printed on its way."""
        names = vars(builtins)
        if names != self.builtins:
            # Between these two lines there is no vars() either.
            names.clear()
            names.update(self.builtins)
        sys.stdin, sys.stdout, sys.stderr = self.streams
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()

    def printed(self) -> bool:
        """Is something in the outputs that the parent has not taken yet?"""
        return any(
            ioctl(output, termios.FIONREAD, EMPTY) != EMPTY for output in self.outputs
        )

    def wait_taken(self) -> None:
        """Until the parent took what the last run printed, so that it knows whose."""
        while self.printed():
            time.sleep(POLL_S)

    def restore(self) -> None:
        """Put back what a run changed; cheap where it changed nothing."""
        sys.path[:] = self.path
        sys.argv = [""]
        sys.setrecursionlimit(self.recursion)
        os.environ = self.environ  # noqa: B003 - the object itself may be another
        if self.raw != self.variables:
            self.environ.clear()
            for name, text in self.variables.items():
                self.environ[os.fsdecode(name)] = os.fsdecode(text)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip(HANDLED_SIGNALS, self.handlers, strict=True):
            # The function below the public one, which makes an enum of every answer.
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        self._clean_directory()

    def _clean_directory(self) -> None:
        os.chdir(self.cwd)
        with os.scandir(self.cwd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    import shutil  # takes longer than the rest of this file

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


def limit_memory(size: int) -> None:
    """Bound the address space of this process (TL-PY-15)."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def adopt_orphans() -> None:
    """Become the parent of whatever a run leaves behind, so that it is seen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_SUBREAPER, 1, 0, 0, 0)
