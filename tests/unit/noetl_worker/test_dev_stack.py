"""The dev stack's promises, on real servers but without roles."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import asyncpg
import pytest

from noetl_worker.dev import Stack, StackError, StackOptions
from noetl_worker.dev.child import Child, Command
from noetl_worker.dev.net import claim_port, exchange, free_ports, http_status
from noetl_worker.dev.service import Service, ServiceSpec, Surroundings
from noetl_worker.dev.watch import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def bare(data: Path, **changes: object) -> Stack:
    """A stack of the two servers only."""
    options = {"data": data, "environ": os.environ, "replicas": {}, **changes}
    return Stack(StackOptions(**options))  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most 20 s."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def query(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_what_was_written_is_there_after_a_second_start(tmp_path: Path) -> None:
    async with bare(tmp_path / "d") as stack:
        await query(stack.demo_dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        first = stack.pids()
    assert not any(runs(pid) for pid in first.values())
    async with bare(tmp_path / "d") as stack:
        assert await query(stack.demo_dsn, "SELECT n FROM kept") == 7


async def test_the_platform_database_is_closed_to_playbooks(tmp_path: Path) -> None:
    """RT-ARC-2: what a playbook connects with cannot read the platform's rows."""
    async with bare(tmp_path) as stack:
        assert await query(stack.postgres_dsn, "SELECT current_user") == "noetl"
        foreign = stack.demo_dsn.removesuffix("/demo") + "/noetl"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await query(foreign, "SELECT 1")


async def test_servers_come_back_on_the_same_port(tmp_path: Path) -> None:
    async with bare(tmp_path) as stack:
        before = stack.pids()
        await stack.restart_nats()
        await stack.stop_postgres()
        with pytest.raises(OSError):
            await query(stack.postgres_dsn, "SELECT 1")
        await stack.start_postgres()
        assert await query(stack.postgres_dsn, "SELECT 1") == 1
        port = int(stack.nats_url.rpartition(":")[2])
        assert (await exchange(port, b"")).startswith(b"INFO")
        assert all(stack.pids()[name] != pid for name, pid in before.items())


async def test_a_folder_in_use_names_its_holder(tmp_path: Path) -> None:
    async with bare(tmp_path):
        with pytest.raises(
            StackError, match=rf"in use by process {os.getpid()};.*data"
        ):
            await bare(tmp_path).__aenter__()


async def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"data folder .*file cannot be used"):
        await bare(tmp_path / "file").__aenter__()


async def test_a_taken_port_names_the_option(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} for the server.*--port"):
            await bare(tmp_path, port=port).__aenter__()
    assert claim_port(port, "the server", "--port") == port


def test_a_port_out_of_range_is_one_clear_error() -> None:
    with pytest.raises(StackError, match="port 70000 for NATS cannot be used"):
        claim_port(70000, "NATS", "--nats-port")


async def test_a_killed_stack_leaves_nothing_and_can_start_again(
    tmp_path: Path,
) -> None:
    """The guard ends the children of a stack that was killed with SIGKILL."""
    program = (
        "import anyio, os, pathlib, sys\n"
        "from noetl_worker.dev import Stack, StackOptions\n"
        "async def main():\n"
        "    options = StackOptions(data=pathlib.Path(sys.argv[1]), environ=os.environ,"
        " replicas={})\n"
        "    async with Stack(options) as stack:\n"
        "        print(*stack.pids().values(), flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "d")], stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        pids = [int(pid) for pid in killed.stdout.readline().split()]
        assert len(pids) == 2
        killed.kill()
    async with bare(tmp_path / "d") as stack:
        assert len(stack.pids()) == 2
    await until(lambda: not any(map(runs, pids)))


async def test_the_previous_log_is_kept_once(tmp_path: Path) -> None:
    for _ in range(3):
        async with bare(tmp_path):
            pass
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {
        "nats.log", "nats.log.1", "postgres.log", "postgres.log.1",
    }  # fmt: skip


async def test_sync_always_reaches_the_broker(tmp_path: Path) -> None:
    async with bare(tmp_path, sync_interval="always"):
        assert "sync_interval: always" in (tmp_path / "nats/nats.conf").read_text()


SERVE = (
    "import sys; from http.server import *;"
    "HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler)"
    ".serve_forever()"
)


class Bench:
    """A service of a small HTTP server, and what was reported about it."""

    def __init__(self, tasks: anyio.abc.TaskGroup, log: Path, program: str) -> None:
        self.reports: list[str] = []
        self.port = free_ports(1)[0]
        command = Command(
            name="little",
            argv=[sys.executable, "-c", program, str(self.port)],
            env=dict(os.environ),
            log=log,
        )
        self.service = Service(
            ServiceSpec(command=command, probe=self.probe),
            Surroundings(
                tasks=tasks, watch=Watch(), report=self.reports.append, restarts=True
            ),
        )

    async def probe(self) -> bool:
        return await http_status(self.port, "/") == 200


async def test_a_crash_after_ready_is_reported_and_restarted(tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks, tmp_path / "log", SERVE)
        await bench.service.start()
        await bench.service.wait_ready(20)
        first = bench.service.pid
        bench.service.send(signal.SIGKILL)
        await until(lambda: bench.service.pid not in (first, None))
        await bench.service.wait_ready(20)
        [report] = bench.reports
        assert "little was ended by SIGKILL; starting it again in 0.2 s" in report
        assert "GET / HTTP/1.1" in report, "the log's tail is part of the report"
        await bench.service.stop()
    assert bench.service.pid is None
    assert len(bench.reports) == 1, "a wanted end is no crash"


async def test_a_crash_before_ready_is_final(tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks, tmp_path / "log", "raise SystemExit('no such setting')")
        await bench.service.start()
        with pytest.raises(
            StackError, match=r"(?s)ended with exit code 1.*no such set"
        ):
            await bench.service.wait_ready(20)
    assert bench.service.pid is None


async def test_a_process_that_never_gets_ready_is_one_error(tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks, tmp_path / "log", "import signal; signal.pause()")
        await bench.service.start()
        with pytest.raises(StackError, match="not ready within 0 s"):
            await bench.service.wait_ready(0.2)
        await bench.service.stop()


async def test_a_program_that_does_not_exist_is_one_error(tmp_path: Path) -> None:
    command = Command(name="x", argv=["/nonexistent"], env={}, log=tmp_path / "log")
    with pytest.raises(StackError, match="x: cannot run /nonexistent"):
        await Child.start(command)


async def test_one_that_ignores_the_question_is_killed(tmp_path: Path) -> None:
    deaf = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); signal.pause()"
    )
    command = Command(
        name="deaf", argv=[sys.executable, "-c", deaf], env={}, log=tmp_path / "log"
    )
    child = await Child.start(command)
    await until(lambda: child.tail() == "deaf")
    assert not await child.stop(signal.SIGTERM, 0.1)
    assert child.ending() == "was ended by SIGKILL"
