"""The data folder: where everything of a stack lives, and who holds it.

The holder is whoever has the lock file locked with the kernel, so a process that was
killed holds nothing: a stale lock cannot exist. What is written in the file only tells
others whom to ask.
"""

from __future__ import annotations

import fcntl
import json
import os
from base64 import b64encode
from pathlib import Path
from typing import IO

import anyio

from noetl_worker.dev.child import StackError

CLEANUP_S = 15.0
SECRET_BYTES = 32
CHECK_EVERY_S = 0.05


class DataFolder:
    """A data folder held by this process from ``take`` until ``release``."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: IO[str] | None = None

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def lock_fd(self) -> int:
        """The lock; whoever inherits it holds the folder too."""
        return self._held().fileno()

    async def take(self) -> None:
        """Make the folder when it is missing, and hold it.

        Raises:
            StackError: another process holds it (names its pid), or no access.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise StackError(
                f"data folder {self.path} cannot be used: {error.strerror}"
            ) from error
        with anyio.move_on_after(CLEANUP_S):
            # A holder that was killed leaves a guard that is still ending its children.
            while not _locked(lock) and not _alive(_holder(lock)):  # noqa: ASYNC110 - locks have no events
                await anyio.sleep(CHECK_EVERY_S)
        if not _locked(lock):
            holder = _holder(lock)
            owner = "another process" if holder is None else f"process {holder}"
            lock.close()
            raise StackError(
                f"data folder {self.path} is in use by {owner}; "
                "stop that one, or choose another folder with --data"
            )
        self._lock = lock
        self.describe({})
        self._rotate_logs()

    def secret(self, name: str) -> str:
        """32 random bytes in base64, made once and kept for the owner's eyes alone."""
        folder = self.path / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name
        if not path.exists():
            text = b64encode(os.urandom(SECRET_BYTES)).decode()
            part = folder / f"{name}.part"
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            part.replace(path)
        return path.read_text()

    def describe(self, addresses: dict[str, str]) -> None:
        """Write who holds the folder and where its servers answer."""
        lock = self._held()
        lock.truncate(0)
        json.dump({"pid": os.getpid(), **addresses}, lock, indent=2)
        lock.flush()

    def release(self) -> None:
        """Let go; the file stays, for removing it would race with the next taker."""
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _held(self) -> IO[str]:
        assert self._lock is not None, "take() comes first"
        return self._lock

    def _rotate_logs(self) -> None:
        """Keep the logs of the run before as ``*.log.1``, no older ones."""
        for log in self.logs.glob("*.log"):
            log.replace(log.with_suffix(".log.1"))


def _locked(lock: IO[str]) -> bool:
    """Try to hold the lock; True when it is ours."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: IO[str]) -> int | None:
    """Process id in the file; None while the holder has not written it yet."""
    lock.seek(0)
    try:
        return int(json.load(lock)["pid"])
    except (ValueError, KeyError, TypeError):
        return None


def _alive(pid: int | None) -> bool:
    if pid is None:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, as somebody else
    return True
