"""Exit codes, and which error ends with which; scripts may rely on the numbers."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from state_builder.errors import (
    ConflictError,
    InvalidError,
    LimitExceededError,
    NoetlError,
    NotFoundError,
    RefusedError,
    SettingsError,
    UnavailableError,
)


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    """Done; of an execution: COMPLETED."""
    FAILED = 1
    """The execution ended FAILED; of a check: it found errors."""
    USAGE = 2
    """Wrong arguments, options or settings."""
    INVALID = 3
    """A document or request that was refused for what it says."""
    NOT_FOUND = 4
    """No such execution, playbook or version."""
    UNAVAILABLE = 5
    """The server, or a part of the stack, is away."""
    CANCELLED = 6
    """The execution ended CANCELLED."""
    REFUSED = 7
    """Not allowed, or somebody else got there first."""
    INTERNAL = 70
    """A fault of ours."""
    INTERRUPTED = 130
    """Ctrl-C: stopped looking; what was started goes on."""


_BY_ERROR: Final[tuple[tuple[type[NoetlError], ExitCode], ...]] = (
    (SettingsError, ExitCode.USAGE),
    (NotFoundError, ExitCode.NOT_FOUND),
    (InvalidError, ExitCode.INVALID),
    (LimitExceededError, ExitCode.INVALID),
    (UnavailableError, ExitCode.UNAVAILABLE),
    (ConflictError, ExitCode.REFUSED),
    (RefusedError, ExitCode.REFUSED),
)

_BY_STATUS: Final = {
    "COMPLETED": ExitCode.OK,
    "FAILED": ExitCode.FAILED,
    "CANCELLED": ExitCode.CANCELLED,
}


class UsageError(InvalidError):
    """An argument or option that cannot be used."""

    code = "usage"


def exit_code_of(error: NoetlError) -> ExitCode:
    """The exit code an error ends a command with."""
    if isinstance(error, UsageError):
        return ExitCode.USAGE
    for kind, code in _BY_ERROR:
        if isinstance(error, kind):
            return code
    return ExitCode.INTERNAL


def exit_code_of_status(status: str) -> ExitCode:
    """The exit code of a finished execution."""
    return _BY_STATUS.get(status.upper(), ExitCode.FAILED)
