"""Processes: started in a group of their own, with a bare environment, always ended.

The only room that starts programs. Whatever a caller does, cancellation included, the
whole group is gone when a call returns (TL-LIM-02).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, Process

from state_builder.errors import LimitExceededError
from tools.contract import ToolLimits
from tools.doors.groups import give_way, leave, members, signal_group, starting
from tools.errors import configuration

GRACE_S: Final = 2.0
"""Time between asking a group to end and killing it."""

CENSUS_S: Final = 0.2
"""How often the processes of a running tool are counted."""

DISCARD_PAUSE_S: Final = 0.001
"""Pause between pieces of output that nobody keeps: an endless output costs others
nothing."""

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def bare_environment(
    given: Mapping[str, str], home: str, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What a tool's process sees: never the worker's own environment (TL-SEC-06)."""
    return {
        "PATH": SYSTEM_PATH,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": home,
        "TMPDIR": home,
        **given,
        **(extra or {}),
    }


@dataclass
class Capture:
    """The first bytes of an output; the rest is counted and thrown away (TL-LIM-04)."""

    limit: int
    data: bytearray = field(default_factory=bytearray)
    total: int = 0

    def take(self, chunk: bytes) -> None:
        """Keep what still fits."""
        room = self.limit - len(self.data)
        if room > 0:
            self.data += chunk[:room]
        self.total += len(chunk)

    @property
    def truncated(self) -> bool:
        """Whether something was thrown away that should have been kept."""
        return 0 < self.limit < self.total

    def text(self) -> str:
        """What was kept, as UTF-8 with replacement."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True)
class Finished:
    """A program that ran to its end; ``code`` is 128 + s when signal s ended it."""

    code: int
    stdout: Capture
    stderr: Capture


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a program may use.

    Attributes:
        processes_max: at once, itself included.
        memory_bytes_max: address space of each process; 0 = no bound.
    """

    output_bytes_max: int
    processes_max: int
    memory_bytes_max: int = 0

    def around(self, argv: Sequence[str]) -> list[str]:
        """The program with its memory bounded from its first instruction."""
        if not self.memory_bytes_max:
            return list(argv)
        limit = str(self.memory_bytes_max >> 10)
        return ["/bin/sh", "-c", 'ulimit -v "$0" && exec "$@"', limit, *argv]


def bounds_of(limits: ToolLimits, memory_mb: int) -> Bounds:
    """The bounds of a worker's programs."""
    return Bounds(
        output_bytes_max=limits.output_bytes_max,
        processes_max=limits.processes_max,
        memory_bytes_max=memory_mb << 20,
    )


class Census:
    """Counts the processes of a program now and then; too many are killed at once."""

    def __init__(self, leader: int, most: int) -> None:
        self._leader = leader
        self._most = most
        self._timer: asyncio.TimerHandle | None = None
        self._exceeded = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(CENSUS_S, self._again)

    def __exit__(self, *_: object) -> None:
        assert self._timer is not None
        self._timer.cancel()

    def look(self) -> None:
        """Count them now."""
        if members(self._leader) > self._most:
            self._exceeded = True
            signal_group(self._leader, signal.SIGKILL)

    def check(self) -> None:
        """Raise LimitExceededError when there were too many."""
        if self._exceeded:
            raise LimitExceededError(
                "processes_max",
                f"it had more than {self._most} processes at once; all were ended",
            )

    def _again(self) -> None:
        self.look()
        if not self._exceeded:
            self.__enter__()


async def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    pass_fds: tuple[int, ...] = (),
) -> Process:
    """Start a program as the leader of a new group; its stdin is empty.

    Raises ToolCallError of kind ``configuration`` when it cannot be started.
    """
    check_program(argv[0], env)
    try:
        # Cancelled half way, it would have started what nobody knows of.
        with starting() as known, anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                [*_powerless(), *argv],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                pass_fds=pass_fds,
            )
            known(process.pid)
    except OSError as error:
        text = f"cannot start {argv[0]}: {error.strerror or error}"
        raise configuration(text) from error
    return process


def check_program(name: str, env: Mapping[str, str]) -> None:
    """Raise ToolCallError of ``configuration`` for a program that is not there."""
    if shutil.which(name, path=env.get("PATH")) is None:
        raise configuration(f"cannot start {name}: no such program")


@cache
def _powerless() -> tuple[str, ...]:
    """What takes root's capabilities from a program, where we are root.

    With them it could read the worker's environment and anybody's files (TL-SEC-06).
    """
    program = shutil.which("setpriv", path=SYSTEM_PATH)
    if os.geteuid() != 0 or program is None:
        return ()
    return (program, "--bounding-set=-all", "--no-new-privs", "--")


async def end_group(process: Process) -> None:
    """End a program and everything it started: ask, wait, kill (TL-LIM-02)."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            signal_group(process.pid, signal.SIGTERM)
            with anyio.move_on_after(GRACE_S):
                await process.wait()
        # Whoever is left ignored the question, lost its leader or left the group.
        leave(process.pid)
        await process.aclose()


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    bounds: Bounds,
    capture: bool = True,
) -> Finished:
    """Run a program to its end and keep what it says.

    Raises LimitExceededError when it starts too many processes.
    """
    check_program(argv[0], env)
    stdout, stderr = Capture(bounds.output_bytes_max), Capture(bounds.output_bytes_max)
    outlet = subprocess.PIPE if capture else subprocess.DEVNULL
    process = await start(
        bounds.around(argv), env=env, cwd=cwd, stdout=outlet, stderr=outlet
    )
    give_way(process.pid)
    census = Census(process.pid, bounds.processes_max)
    try:
        async with anyio.create_task_group() as tasks:
            for stream, kept in ((process.stdout, stdout), (process.stderr, stderr)):
                if stream is not None:
                    tasks.start_soon(_drain, stream, kept)
            with census:
                code = await process.wait()
            # Outputs end when their last holder is gone. Who left the group as well
            # is not waited for.
            signal_group(process.pid, signal.SIGKILL)
            tasks.cancel_scope.deadline = anyio.current_time() + GRACE_S
    finally:
        await end_group(process)
    census.check()
    return Finished(128 - code if code < 0 else code, stdout, stderr)


async def _drain(stream: ByteReceiveStream, into: Capture) -> None:
    async for chunk in stream:
        into.take(chunk)
        if into.truncated:
            await anyio.sleep(DISCARD_PAUSE_S)
