"""The whole fleet as processes of this machine, held by one object.

Order of starting: data folder, then broker and database side by side, then every role
at once; of stopping: workers (they finish what they run), system workers, materializer,
server, broker, database. Readiness is always an answer of the process itself.
"""

from __future__ import annotations

import signal as signals
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, get_args

import anyio

from noetl_worker.dev.broker import broker_spec
from noetl_worker.dev.child import Command, StackError
from noetl_worker.dev.folder import DataFolder
from noetl_worker.dev.net import LOOPBACK, claim_port, free_ports, http_status
from noetl_worker.dev.postgres import PLAYGROUND_DATABASE, Cluster
from noetl_worker.dev.service import Report, Service, ServiceSpec, Surroundings
from noetl_worker.dev.watch import Watch

Role: TypeAlias = Literal["server", "system", "worker", "materializer"]

STOP_ORDER: Final[tuple[Role, ...]] = ("worker", "system", "materializer", "server")
_READS_DATABASE: Final = frozenset[Role]({"server", "materializer"})
_READY_PATHS: Final[Mapping[Role, str]] = {"server": "/api/health"}


def _silent(message: str) -> None:
    del message


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What a stack looks like.

    Attributes:
        data: folder everything lives in; made when missing, kept at the end.
        environ: environment the roles inherit; ours is laid over it.
        env: settings laid over ours, for every role.
        port, nats_port, postgres_port: 0 takes any free one.
        replicas: processes of each role to start with.
        sync_interval: when the broker syncs to disk, ``always`` or a duration.
        restarts: start a role again that crashed after it was ready.
        ready_timeout_s: most a process may take to become ready.
        stop_grace_s: most a role may take to end in good order.
        report: told in words about crashes and restarts.
    """

    data: Path
    environ: Mapping[str, str]
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    nats_port: int = 0
    postgres_port: int = 0
    replicas: Mapping[Role, int] = field(
        default_factory=lambda: dict.fromkeys(get_args(Role), 1)
    )
    sync_interval: str = "2m"
    restarts: bool = True
    ready_timeout_s: float = 60.0
    stop_grace_s: float = 15.0
    report: Report = _silent


class Stack:
    """A running fleet; an async context manager, ready when entered."""

    def __init__(self, options: StackOptions) -> None:
        self.options = options
        self.folder = DataFolder(options.data)
        self._watch = Watch()
        self._exit = AsyncExitStack()
        self._roles: dict[Role, list[Service]] = {role: [] for role in get_args(Role)}
        self._beside: list[Service] = []
        self._port = 0
        self._nats_port = 0
        self._cluster: Cluster
        self._around: Surroundings
        self._nats: Service | None = None
        self._postgres: Service | None = None

    async def __aenter__(self) -> Self:
        await self.folder.take()
        self._exit.callback(self.folder.release)
        try:
            await self._start()
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._exit.aclose()

    @property
    def server_url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def nats_url(self) -> str:
        return f"nats://{LOOPBACK}:{self._nats_port}"

    @property
    def postgres_dsn(self) -> str:
        """The platform's database, over TCP."""
        return self._cluster.dsn()

    @property
    def demo_dsn(self) -> str:
        """A database for playbooks to work on, over TCP."""
        return self._cluster.dsn(PLAYGROUND_DATABASE)

    def pages(self, role: Role, index: int = 0) -> str:
        """Where a role answers for its health and its metrics."""
        env = self._roles[role][index].spec.command.env
        bind = env.get("WORKER_METRICS_BIND") or f"{LOOPBACK}:{env['NOETL_PORT']}"
        return f"http://{bind}"

    def log(self, role: Role, index: int = 0) -> Path:
        """Where a role's output goes."""
        return self.folder.logs / f"{_name(role, index)}.log"

    def pids(self) -> dict[str, int]:
        """Process ids of everything that runs, by name."""
        return {one.name: one.pid for one in self._services() if one.pid is not None}

    async def wait_ready(self) -> None:
        """Wait until every process that should run is ready.

        Raises:
            StackError: one of them is not and will not be; with the end of its log.
        """
        await _all_of(
            partial(service.wait_ready, self.options.ready_timeout_s)
            for service in self._services()
            if service.wanted
        )

    async def start_role(
        self,
        role: Role,
        index: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start one more process of a role, or the one of that index again.

        Returns its index when it is ready. ``env`` is laid over its settings; it has
        no effect on a process that was started before.
        """
        services = self._roles[role]
        if index is None:
            index = len(services)
            services.append(self._service(self._role_spec(role, index, env or {})))
        await services[index].start()
        await services[index].wait_ready(self.options.ready_timeout_s)
        return index

    async def start_beside(self, name: str, argv: Sequence[str]) -> int:
        """Start a program of the user's own and return the port it listens on.

        ``{port}`` in its arguments becomes a free port; ready is when HTTP answers
        there. It stops with the stack.
        """
        port = free_ports(1)[0]

        async def probe() -> bool:
            return await http_status(port, "/") is not None

        command = Command(
            name=name,
            argv=[word.replace("{port}", str(port)) for word in argv],
            env=dict(self.options.environ),
            log=self.folder.logs / f"{name}.log",
        )
        service = self._service(ServiceSpec(command=command, probe=probe))
        self._beside.append(service)
        await self._start_ready(service)
        return port

    async def stop_role(self, role: Role, index: int = 0) -> None:
        """End one process in good order."""
        await self._roles[role][index].stop()

    async def kill(
        self,
        role: Role,
        index: int = 0,
        signal: int = signals.SIGKILL,
        *,
        restart: bool = False,
    ) -> None:
        """Signal one process and wait until it is gone; ``restart`` starts it again."""
        await self._roles[role][index].kill(signal, restart=restart)

    def pause(self, role: Role, index: int = 0) -> None:
        """Freeze one process where it stands."""
        self._roles[role][index].send(signals.SIGSTOP)

    def resume(self, role: Role, index: int = 0) -> None:
        """Let a frozen process go on."""
        self._roles[role][index].send(signals.SIGCONT)

    async def kill_nats(self) -> None:
        """Kill the broker as a crash would; it stays away."""
        await _started(self._nats).kill(signals.SIGKILL, restart=False)

    async def start_nats(self) -> None:
        """Start the broker again on the same port and store."""
        await self._start_ready(_started(self._nats))

    async def restart_nats(self) -> None:
        """Kill the broker as a crash would, and start it again."""
        await self.kill_nats()
        await self.start_nats()

    async def stop_postgres(self) -> None:
        """End the database as an administrator would."""
        await _started(self._postgres).stop()

    async def start_postgres(self) -> None:
        """Start the database again on the same port."""
        await self._start_ready(_started(self._postgres))

    async def mend(self) -> None:
        """Let frozen processes go on and start what is down; ready when this returns.

        Raises:
            StackError: a process does not become ready.
        """
        services = self._services()
        for service in services:
            service.send(signals.SIGCONT)
        below = [one for one in (self._nats, self._postgres) if one is not None]
        for some in (below, [one for one in services if one not in below]):
            await _all_of(partial(self._start_ready, service) for service in some)

    def destroy(self) -> None:
        """Kill every process at once; what was acknowledged is still on disk."""
        for service in self._services():
            service.destroy()

    async def _start(self) -> None:
        options = self.options
        self._port = claim_port(options.port, "the server", "--port")
        self._nats_port = claim_port(options.nats_port, "NATS", "--nats-port")
        postgres_port = claim_port(
            options.postgres_port, "PostgreSQL", "--postgres-port"
        )
        bare = {"PATH": options.environ.get("PATH", ""), "LC_ALL": "C"}
        self._cluster = Cluster(self.folder, postgres_port, bare)
        self._watch.start(self.folder.lock_fd)
        self._exit.callback(self._watch.quit)
        tasks = await self._exit.enter_async_context(anyio.create_task_group())
        self._exit.callback(tasks.cancel_scope.cancel)
        self._around = Surroundings(
            tasks=tasks,
            watch=self._watch,
            report=options.report,
            restarts=options.restarts,
        )
        self._exit.push_async_callback(self._stop_all)
        nats = broker_spec(self.folder, self._nats_port, options.sync_interval, bare)
        self._nats = self._service(nats)
        await _all_of(
            [partial(self._start_ready, self._nats), self._start_postgres_first]
        )
        await _all_of(
            partial(self.start_role, role)
            for role, count in options.replicas.items()
            for _ in range(count)
        )
        self.folder.describe(
            {
                "server_url": self.server_url,
                "nats_url": self.nats_url,
                "postgres_dsn": self.postgres_dsn,
                "demo_dsn": self.demo_dsn,
            }
        )

    async def _start_postgres_first(self) -> None:
        await self._cluster.ensure()
        self._postgres = self._service(self._cluster.spec())
        await self._start_ready(self._postgres)

    async def _start_ready(self, service: Service) -> None:
        await service.start()
        await service.wait_ready(self.options.ready_timeout_s)

    def _service(self, spec: ServiceSpec) -> Service:
        return Service(spec, self._around)

    def _role_spec(self, role: Role, index: int, env: Mapping[str, str]) -> ServiceSpec:
        port = self._port if role == "server" and index == 0 else free_ports(1)[0]
        path = _READY_PATHS.get(role, "/readyz")

        async def probe() -> bool:
            return await http_status(port, path) == 200

        return ServiceSpec(
            command=Command(
                name=_name(role, index),
                argv=[sys.executable, "-m", "noetl_worker", role],
                env=self._role_env(role, port) | dict(env),
                log=self.log(role, index),
            ),
            probe=probe,
            stop_grace_s=self.options.stop_grace_s,
        )

    def _role_env(self, role: Role, port: int) -> dict[str, str]:
        env = {
            "LOG_FORMAT": "text",
            "NOETL_SHUTDOWN_GRACE_SECS": str(self.options.stop_grace_s * 2 / 3),
            "NOETL_ALLOW_SQL_ENDPOINT": "true",
            **self._secrets(role),
            **self.options.environ,
            "PYTHONUNBUFFERED": "1",
            "NATS_URL": self.nats_url,
            "NOETL_SERVER_URL": self.server_url,
        }
        if role == "server":
            env |= {"NOETL_HOST": LOOPBACK, "NOETL_PORT": str(port)}
        else:
            env["WORKER_METRICS_BIND"] = f"{LOOPBACK}:{port}"
        if role in _READS_DATABASE:
            env["NOETL_DATABASE_URL"] = self._cluster.socket_dsn()
        return env | dict(self.options.env)

    def _secrets(self, role: Role) -> dict[str, str]:
        """What this stack's roles share; each is told only what it needs."""
        found = {}
        if role == "server":
            found["NOETL_ENCRYPTION_KEY"] = self.folder.secret("encryption_key")
        if role != "materializer":
            found["NOETL_INTERNAL_API_TOKEN"] = self.folder.secret("internal_token")
        return found

    def _services(self) -> list[Service]:
        roles = [one for role in STOP_ORDER for one in self._roles[role]]
        return (
            roles
            + self._beside
            + [one for one in (self._nats, self._postgres) if one is not None]
        )

    async def _stop_all(self) -> None:
        with anyio.CancelScope(shield=True):
            for role in STOP_ORDER:
                await _all_of(service.stop for service in self._roles[role])
            await _all_of(service.stop for service in self._beside)
            for service in (self._nats, self._postgres):
                if service is not None:
                    await service.stop()


def _name(role: Role, index: int) -> str:
    return role if index == 0 else f"{role}-{index}"


def _started(service: Service | None) -> Service:
    if service is None:
        raise StackError("the stack is not running: use it as a context manager")
    return service


async def _all_of(jobs: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Run jobs side by side; the first that fails ends the others and is raised."""
    failures: list[StackError] = []

    async def attempt(job: Callable[[], Awaitable[object]]) -> None:
        try:
            await job()
        except StackError as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(attempt, job)
    if failures:
        raise failures[0]
