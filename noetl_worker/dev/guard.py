"""A guard that outlives its parent: ends the children of a stack that was killed.

Run as a script with ``python -I -S guard.py``; imports the standard library's cheapest
modules only. It reads ``+<pid> <signal>`` and ``-<pid>`` from its standard input, and
``quit`` before an orderly end. When the input ends without that word the parent is
dead: every child still listed gets its signal, and SIGKILL after a grace. It inherits
the lock of the data folder, so nobody takes the folder before that is done.
"""

import os
import signal
import sys
import time

GRACE_S = 8.0
CHECK_EVERY_S = 0.05


def alive(pid: int) -> bool:
    """Whether a process of that id runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except (ProcessLookupError, PermissionError):
        return False
    except FileNotFoundError:
        # Gone in between, unless this system has no /proc to look at.
        return not os.path.isdir("/proc/self")


def send(pid: int, number: int) -> None:
    """Signal a process group, as every child leads one."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def end(children: dict[int, int]) -> None:
    """Ask every child to end, wait, and kill what is left."""
    for pid, number in children.items():
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
    deadline = time.monotonic() + GRACE_S
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(CHECK_EVERY_S)
    for pid in children:
        send(pid, signal.SIGKILL)


def main() -> None:
    """Follow the parent's notes until it says goodbye or falls silent."""
    children: dict[int, int] = {}
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            return
        if words and words[0].startswith("+"):
            children[int(words[0])] = int(words[1])
        elif words:
            children.pop(-int(words[0]), None)
    end(children)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    main()
