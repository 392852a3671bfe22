"""Processes: started in a group of their own, with a bare environment, always ended.

The only room that starts programs. Whatever a caller does, cancellation included, the
whole group is gone when a call returns (TL-LIM-02).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, Process

from state_builder.records import ToolFailure
from tools.errors import ToolCallError

GRACE_S: Final = 2.0
"""Time between asking a group to end and killing it."""

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
    try:
        return await anyio.open_process(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except OSError as error:
        raise ToolCallError(
            ToolFailure(
                kind="configuration",
                message=f"cannot start {argv[0]}: {error.strerror or error}",
            )
        ) from error


def signal_group(pid: int, number: int) -> None:
    """Send a signal to everybody in the group that ``pid`` leads."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


async def end_group(process: Process) -> None:
    """End a program and everything it started: ask, wait, kill (TL-LIM-02)."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            signal_group(process.pid, signal.SIGTERM)
            with anyio.move_on_after(GRACE_S):
                await process.wait()
        # Whoever is left ignored the question or lost its leader.
        signal_group(process.pid, signal.SIGKILL)
        await process.aclose()


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    output_bytes_max: int,
    capture: bool = True,
) -> Finished:
    """Run a program to its end and keep what it says."""
    kept = output_bytes_max if capture else 0
    stdout, stderr = Capture(kept), Capture(kept)
    process = await start(
        argv, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_drain, process.stdout, stdout)
            tasks.start_soon(_drain, process.stderr, stderr)
            code = await process.wait()
            # Outputs end when their last holder is gone. Who left the group as well
            # is not waited for.
            signal_group(process.pid, signal.SIGKILL)
            tasks.cancel_scope.deadline = anyio.current_time() + GRACE_S
    finally:
        await end_group(process)
    return Finished(128 - code if code < 0 else code, stdout, stderr)


async def _drain(stream: ByteReceiveStream, into: Capture) -> None:
    async for chunk in stream:
        into.take(chunk)
