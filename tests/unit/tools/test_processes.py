"""What a tool's processes see, what they may use, and that all of them end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from calls import call, context, failure, refusal, until

from tools.contract import ToolLimits
from tools.doors import groups
from tools.doors.process import Bounds, bare_environment, run
from tools.errors import ToolCallError
from tools.kinds.python import Python
from tools.kinds.shell import Shell

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> ToolLimits:
    groups.guard()
    root = str(tmp_path_factory.mktemp("data"))
    return ToolLimits(
        data_dir=root,
        processes_max=20,
        python_children_max=2,
        output_bytes_max=100_000,
        python_rss_mb_max=512,
        shell_rss_mb_max=512,
    )


@pytest.fixture
async def python(limits: ToolLimits) -> AsyncIterator[Python]:
    tool = Python(limits)
    yield tool
    await tool.close()


@pytest.fixture
def shell(limits: ToolLimits) -> Shell:
    return Shell(limits)


def running(mark: str) -> list[str]:
    """Live processes whose command line has this word."""
    return [line for line in _command_lines() if mark in line]


def _command_lines() -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                yield Path(f"/proc/{name}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # gone meanwhile


async def test_code_sees_nothing_of_the_worker(
    python: Python, limits: ToolLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TL-SEC-06: neither its environment nor its files, by any way."""
    monkeypatch.setenv("NOETL_INTERNAL_API_TOKEN", "very-secret")
    code = """
found = dict(os.environ)
def tried(path):
    try:
        return open(path, 'rb').read().decode('latin-1')
    except OSError as error:
        return type(error).__name__
descriptors = sorted(
    os.readlink(f'/proc/self/fd/{n}').partition(':')[0]
    for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')
)
parent = os.getppid()
result = {
    'names': sorted(found), 'descriptors': descriptors,
    'environ': tried(f'/proc/{parent}/environ'),
    'memory': tried(f'/proc/{parent}/mem'),
    'capabilities': tried('/proc/self/status').partition('CapEff:')[2].split()[0],
}
"""
    result = await call(python, limits, code=code)
    assert isinstance(result.data, dict)
    assert result.data["names"] == ["HOME", "LANG", "PATH", "TMPDIR", "TZ"]
    assert result.data["descriptors"] == ["/dev/null", *["pipe"] * 4, *["socket"] * 2]
    assert result.data["environ"] == result.data["memory"] == "PermissionError"
    assert int(str(result.data["capabilities"]), 16) == 0


async def test_a_command_sees_nothing_of_the_worker(
    shell: Shell, limits: ToolLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TL-SEC-06, TL-SH-06, TL-SH-08."""
    monkeypatch.setenv("NATS_URL", "nats://u:very-secret@h")
    result = await call(
        shell,
        limits,
        cmds=["env | cut -d= -f1 | sort | tr '\\n' ' '", "cat; ls -A | wc -l"],
        env={"MINE": 1},
        input={"who is": {"a": 1}},
    )
    assert isinstance(result.data, dict)
    names = result.data["commands"][0]["stdout"].split()  # type: ignore[index, call-overload]
    assert set(names) == {
        *("HOME", "LANG", "MINE", "NOETL_ARG_WHO_IS", "PATH", "TMPDIR", "TZ"),
        *("PWD",),
    } - ({"PWD"} - set(names))
    assert result.data["commands"][1]["stdout"] == "0\n"  # type: ignore[index, call-overload]


def test_the_environment_of_a_tool_is_its_own() -> None:
    found = bare_environment({"PATH": "/p"}, "/home", {"A": "1"})
    assert found == {
        "PATH": "/p",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": "/home",
        "TMPDIR": "/home",
        "A": "1",
    }


async def test_a_run_leaves_nothing_for_the_next(
    python: Python, limits: ToolLimits
) -> None:
    """TL-PY-03: globals, environment, files, paths, builtins, signals, streams."""
    dirt = """
import builtins, signal, sys, threading
os.environ['DIRT'] = '1'
open('dirt', 'w').write('x')
sys.path.insert(0, '/dirt')
builtins.len = lambda x: 42
builtins.dirt = 1
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 30)
sys.setrecursionlimit(50_000)
sys.stdout = None
dirt = 1
result = os.getpid()
"""
    look = """
import signal, sys
result = [os.environ.get('DIRT'), os.listdir('.'), '/dirt' in sys.path, len([1]),
          'dirt' in globals(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
          sys.getrecursionlimit(), os.getpid()]
print('seen')
"""
    pid = (await call(python, limits, code=dirt)).data
    result = await call(python, limits, code=look)
    assert result.data == [None, [], False, 1, False, True, 1000, pid]
    assert result.helpers["stdout"] == "seen\n"


LEAVES = {
    "a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    "a process": "import subprocess\nsubprocess.Popen(['sleep', '7001'])",
    "an escaped process": "import subprocess\nsubprocess.Popen(['sh', '-c', 'setsid sleep 7001 & exit 0'], start_new_session=True).wait()",
    "a closed output": "import sys\nsys.stdout.close()",
}  # fmt: skip


@pytest.mark.parametrize("what", LEAVES)
async def test_a_child_that_keeps_something_is_replaced(
    python: Python, limits: ToolLimits, what: str
) -> None:
    """TL-PY-03, TL-LIM-02: and what it kept is gone."""
    end = "\nresult = os.getpid()"
    first = (await call(python, limits, code=LEAVES[what] + end)).data
    second = (await call(python, limits, code=end)).data
    assert first != second
    await until(lambda: not running("sleep 7001"))


CRASHES: dict[str, tuple[str, str]] = {
    "killed": ("os.kill(os.getpid(), 9)", r"crashed: it ended \(signal 9\)"),
    "left at once": ("os._exit(3)", r"crashed: it ended \(exit code 3\)"),
    "segment": ("import ctypes\nctypes.string_at(0)", r"signal 11"),
    "lies": ("import socket\nfor n in range(3, 300):\n    try: os.write(n, b'\\0\\0\\0\\2{}')\n    except OSError: pass", "its answer cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("how", CRASHES)
async def test_a_crash_is_the_calls_own(
    python: Python, limits: ToolLimits, how: str
) -> None:
    """Others run on, and the next call has a fresh child."""
    code, words = CRASHES[how]
    found: list[ToolCallError] = []
    others: list[Any] = []

    async def crash() -> None:
        found.append(await refusal(python, limits, code=code))

    async def other() -> None:
        code = "import time\ntime.sleep(0.2)\nresult = 1"
        others.append((await call(python, limits, code=code)).data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        tasks.start_soon(crash)
    error = found[0].failure
    assert (error.kind, error.code) == ("process", "tool_crashed")
    with pytest.raises(ToolCallError, match=words):
        raise found[0]
    assert others == [1]
    assert (await call(python, limits, code="result = 2")).data == 2


async def test_memory_is_bounded(
    python: Python, shell: Shell, limits: ToolLimits
) -> None:
    """TL-PY-15."""
    error = await failure(python, limits, code="result = len(bytearray(1 << 30))")
    assert (error.kind, error.code) == ("exception", "MemoryError")
    command = f"{sys.executable} -c 'bytearray(1 << 30)'"
    hungry = await refusal(shell, limits, cmd=command)
    assert isinstance(hungry.data, dict)
    assert "MemoryError" in str(hungry.data["stderr"])


BOMB = "b() { b | b & }; b; sleep 9"


@pytest.mark.parametrize("kind", ["python", "shell"])
async def test_a_fork_bomb_is_ended(
    python: Python, shell: Shell, limits: ToolLimits, kind: str
) -> None:
    if kind == "shell":
        error = await failure(shell, limits, cmd=BOMB)
    else:
        code = "import time\nfor _ in range(9): os.fork()\ntime.sleep(7002)"
        error = await failure(python, limits, code=code)
    assert (error.kind, error.code) == ("limit", "processes_max")
    assert "more than 20 processes" in error.message
    await until(lambda: not running("sleep 9"))
    assert (await call(python, limits, code="result = 1")).data == 1


async def test_endless_output_is_cut_and_costs_nobody_else(
    python: Python, shell: Shell, limits: ToolLimits
) -> None:
    """TL-LIM-04, TL-LIM-03: the loop is free meanwhile."""
    latest = 0.0

    async def endless() -> None:
        await call(shell, limits, cmd="yes 7003")

    async def printing() -> None:
        await call(python, limits, code="while True: print('x' * 1000)")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(endless)
        tasks.start_soon(printing)
        for _ in range(50):
            before = anyio.current_time()
            await anyio.sleep(0.01)
            latest = max(latest, anyio.current_time() - before - 0.01)
        tasks.cancel_scope.cancel()
    assert latest < 0.25
    await until(lambda: not running("yes 7003"))
    result = await call(shell, limits, cmd="head -c 200000 /dev/zero | tr '\\0' x")
    assert isinstance(result.data, dict)
    assert len(str(result.data["stdout"])) == 100_000
    assert result.data["truncated"] is True
    result = await call(python, limits, code="print('x' * 200_000)")
    assert isinstance(result.data, dict) and result.data["truncated"] is True


HANGS = {
    "a process in the group": "sleep 7004 & wait",
    "one that ignores the question": "trap '' TERM; sleep 7004; sleep 7004",
    "one that left the group": "setsid sleep 7004 & wait",
    "a daemon": "(setsid sh -c 'sleep 7004 & sleep 7004' &) ; sleep 7004",
}


@pytest.mark.parametrize("what", HANGS)
async def test_cancelling_ends_everything_that_was_started(
    shell: Shell, limits: ToolLimits, what: str
) -> None:
    """TL-LIM-02, TL-SH-01, TL-INT-05."""
    async with anyio.create_task_group() as tasks:

        async def hang() -> None:
            await call(shell, limits, cmd=HANGS[what])

        tasks.start_soon(hang)
        await until(lambda: running("sleep 7004"))
        tasks.cancel_scope.cancel()
    await until(lambda: not running("sleep 7004"))
    assert os.listdir(Path(limits.data_dir) / "scratch") == []


async def test_a_command_that_is_over_leaves_no_process(
    shell: Shell, limits: ToolLimits
) -> None:
    started = anyio.current_time()
    result = await call(
        shell, limits, cmd="sleep 7005 & setsid sleep 7005 & sleep 0.1; echo done"
    )
    assert isinstance(result.data, dict) and result.data["stdout"] == "done\n"
    await until(lambda: not running("sleep 7005"))
    assert anyio.current_time() - started < 5


async def test_a_program_that_is_just_starting_is_not_taken_for_a_stray(
    tmp_path: Path,
) -> None:
    """Ends of some calls and starts of others overlap all the time."""
    bounds = Bounds(output_bytes_max=100, processes_max=9)
    env = bare_environment({}, str(tmp_path))

    async def short() -> None:
        argv = ["/bin/sh", "-c", "echo ok"]
        finished = await run(argv, env=env, cwd=str(tmp_path), bounds=bounds)
        assert (finished.code, finished.stdout.text()) == (0, "ok\n")

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(short)


async def test_a_timeout_of_python_ends_its_child(
    python: Python, limits: ToolLimits
) -> None:
    """TL-LIM-02: also code that never gives way."""
    config = python.validate({"code": "while True: pass"})
    with anyio.move_on_after(0.3) as scope:
        await python.run(config, context(limits))
    assert scope.cancelled_caught
    assert (await call(python, limits, code="result = 1")).data == 1


async def test_a_result_that_is_too_large_is_refused(limits: ToolLimits) -> None:
    """TL-LIM-04."""
    small = ToolLimits(data_dir=limits.data_dir, result_bytes_max=1000)
    python = Python(small)
    error = await failure(python, small, code="result = 'x' * 2000")
    assert (error.kind, error.code) == ("limit", "result_bytes_max")
    assert "at most 1,000 are allowed" in error.message
    await python.close()


def test_signals_to_a_group_that_is_gone_are_no_error() -> None:
    groups.signal_group(2**22 - 1, signal.SIGTERM)
