"""The process that runs user code: what is put back between runs, its bounds."""

from __future__ import annotations

import builtins
import ctypes
import os
import shutil
import signal
import sys
import threading

SET_SUBREAPER = 36

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
        self.environ = dict(os.environ)
        self.cwd = os.getcwd()
        self.path = list(sys.path)
        self.handlers = [signal.getsignal(number) for number in HANDLED_SIGNALS]
        self.builtins = dict(vars(builtins))
        self.streams = (sys.stdin, sys.stdout, sys.stderr)
        self.recursion = sys.getrecursionlimit()

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

    def restore(self) -> None:
        """Put back what a run changed; cheap where it changed nothing."""
        sys.path[:] = self.path
        sys.argv = [""]
        sys.setrecursionlimit(self.recursion)
        if dict(os.environ) != self.environ:
            os.environ.clear()
            os.environ.update(self.environ)
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


def limit_memory(size: int) -> None:
    """Bound the address space of this process (TL-PY-15)."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def adopt_orphans() -> None:
    """Become the parent of whatever a run leaves behind, so that it is seen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_SUBREAPER, 1, 0, 0, 0)
