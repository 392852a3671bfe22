"""Groups of processes: who is in one, who got out of it, how all of them end.

A tool's program leads a session of its own. What leaves that session and loses its
parent becomes a child of this process (a *subreaper*), where it is found and ended:
nothing a tool started outlives its call. Linux tells all this in ``/proc``; elsewhere
only the group itself is known.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Final, NamedTuple

_SET_DUMPABLE: Final = 4
_SET_SUBREAPER: Final = 36

NICENESS: Final = 10
"""Of programs that run to their end."""

ROUNDS_MAX: Final = 10
"""Looks for strays whose parents were strays themselves."""

SEEN_S: Final = 0.1
"""How long one look at all processes serves everybody who counts."""


class Kin(NamedTuple):
    """A process as ``/proc`` tells of it."""

    pid: int
    dead: bool
    parent: int
    session: int


class _Known:
    """What this process knows of those it started."""

    def __init__(self) -> None:
        self.leaders: set[int] = set()
        self.starting = 0
        self.owed = False
        self.seen_at = float("-inf")
        self.seen: list[Kin] = []


_known = _Known()


def guard() -> None:
    """Shut this process off from what it starts; call once, when a worker begins.

    Its memory, environment and descriptors cannot be read through ``/proc`` by programs
    of the same user (TL-SEC-06), and strays come to it.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
        libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0)


@contextmanager
def starting() -> Iterator[Callable[[int], None]]:
    """While a program is started; tell the pid of the leader it became.

    A program that was forked and is not known yet looks like a stray, so nobody is
    ended meanwhile.
    """
    _known.starting += 1
    try:
        yield _known.leaders.add
    finally:
        _known.starting -= 1
        if _known.owed and not _known.starting:
            _known.owed = False
            end_strays()


def leave(pid: int) -> None:
    """A leader's program is over: whoever still belongs to it is ended."""
    signal_group(pid, signal.SIGKILL)
    _known.leaders.discard(pid)
    end_strays()


def signal_group(pid: int, number: int) -> None:
    """Send a signal to everybody in the group that ``pid`` leads."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def give_way(pid: int) -> None:
    """Let this process go before a group, however many are in it."""
    with suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PGRP, pid, NICENESS)


def members(leader: int) -> int:
    """How many processes are in the session of a leader, or stem from it."""
    now = monotonic()
    if now - _known.seen_at > SEEN_S:
        _known.seen, _known.seen_at = list(_processes()), now
    family = {leader}
    for kin in _known.seen:
        # Children have larger numbers than their parents, but for a wrap now and then.
        if kin.session == leader or kin.parent in family:
            family.add(kin.pid)
    return len(family)


def end_strays() -> None:
    """End children of ours that belong to no program we know."""
    if _known.starting:
        _known.owed = True
        return
    ours, own_session = os.getpid(), os.getsid(0)
    for _ in range(ROUNDS_MAX):
        strays = [
            kin
            for kin in _processes()
            if kin.parent == ours and kin.session not in (own_session, *_known.leaders)
        ]
        for kin in strays:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(kin.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(kin.pid, os.WNOHANG)
        if all(kin.dead for kin in strays):
            return


def _processes() -> Iterator[Kin]:
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return
    for name in names:
        if not name.isdecimal():
            continue
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            # The name of the program is in parentheses and may hold anything.
            fields = file.read().rpartition(b")")[2].split()
            yield Kin(int(name), fields[0] == b"Z", int(fields[1]), int(fields[3]))
