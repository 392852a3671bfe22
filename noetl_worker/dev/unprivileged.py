"""Become an account without rights, then become another program.

Run as a script with ``python -I -S unprivileged.py UID GID -- program arguments…``, by
root, for programs that refuse to run as root. Should the account be unable to reach
the program or its files (a project under a home folder nobody else may enter), the
program keeps one ability of root, that of passing permission checks on files (Linux's
``CAP_DAC_OVERRIDE``); the alternative would be to open those folders to everybody.
"""

import ctypes
import os
import sys

CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2


def reaches(path: str) -> bool:
    """Whether this process may pass through every folder on the way to a path."""
    return os.access(path, os.X_OK)


def become(uid: int, gid: int) -> None:
    """Change to the account, with no group of root left."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def check(answer: int) -> None:
    """Raise what the kernel said no with."""
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def keep_file_access(uid: int, gid: int) -> None:
    """Change to the account and keep the ability to pass file permission checks."""
    kernel = ctypes.CDLL(None, use_errno=True)
    check(kernel.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    become(uid, gid)
    bit = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    check(kernel.capset(ctypes.byref(header), ctypes.byref(sets)))
    check(kernel.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0))


def can_reach(uid: int, gid: int, paths: list[str]) -> bool:
    """Whether the account reaches every path; asked in a child that becomes it."""
    child = os.fork()
    if child == 0:
        become(uid, gid)
        os._exit(0 if all(map(reaches, paths)) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(argv: list[str]) -> None:
    """Parse, change, replace this process."""
    uid, gid, program = int(argv[1]), int(argv[2]), argv[4:]
    paths = [program[0]]
    if "-D" in program:
        paths.append(program[program.index("-D") + 1])
    os.umask(0o077)
    if can_reach(uid, gid, paths):
        become(uid, gid)
    else:
        try:
            keep_file_access(uid, gid)
        except (OSError, AttributeError) as error:
            sys.exit(
                f"{program[0]} may not run as root, and uid {uid} cannot reach "
                f"{' and '.join(paths)} ({error}). Run as an ordinary user, or move "
                "the project to a folder everybody may enter."
            )
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv)
