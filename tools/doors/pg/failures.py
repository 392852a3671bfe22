"""Errors of the driver and of the server as tool errors (TL-ERR-02, TL-ERR-03)."""

from __future__ import annotations

import re
from typing import Final

import asyncpg

from state_builder.records import JSON, ToolFailure
from tools.errors import ToolCallError

EXCERPT_CHARS: Final = 200
"""How much of a statement an error shows (TL-PG-15)."""

UNREACHABLE: Final = "08001"
"""SQLSTATE of a connection that could not be made."""

DRIVER_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
    ValueError,
)
"""What a call into the driver may raise for reasons outside of this program."""

_ARGUMENT: Final = re.compile(r"query argument \$(\d+)")


def failure_of(error: Exception, statement: str = "", index: int = 0) -> ToolCallError:
    """The tool error of a driver's error; it names the place, never a parameter."""
    server = isinstance(error, asyncpg.PostgresError) and bool(
        getattr(error, "severity", None)
    )
    if server:
        return _server_failure(error, statement, index)
    argument = _ARGUMENT.search(str(error))
    if argument:
        number = int(argument.group(1)) - 1
        return bad_parameter(number, "what the statement wants there")
    code = str(getattr(error, "sqlstate", None) or UNREACHABLE)
    if isinstance(error, OSError | TimeoutError) or code.startswith("08"):
        # What an address raises names host and port, never a password.
        text = str(error) or type(error).__name__
        context = f"statement {index}" if statement else "PostgreSQL cannot be reached"
        return _failure("db_connection", code, f"{context}: {text}", retryable=True)
    return _failure("db_error", code, f"statement {index}: {error}")


def bad_parameter(index: int, wanted: str, code: str = "22P02") -> ToolCallError:
    """A parameter that does not fit; its value stays out of the message."""
    return _failure("db_error", code, f"params[{index}] is not {wanted}")


def _server_failure(error: Exception, statement: str, index: int) -> ToolCallError:
    code = str(getattr(error, "sqlstate", ""))
    kind, retryable = _kind(code)
    position = getattr(error, "position", None)
    at = f" at character {position}" if position else ""
    severity = getattr(error, "severity", "ERROR")
    parts = [f"{severity}: {error.args[0]}{at} (SQLSTATE {code})"]
    for name in ("detail", "hint"):
        extra = getattr(error, name, None)
        if extra:
            parts.append(f"{name.upper()}: {extra}")
    excerpt = " ".join(statement.split())[:EXCERPT_CHARS]
    context = f"statement {index} [{excerpt}]" if excerpt else "PostgreSQL refuses"
    text = f"{context}: " + " | ".join(parts)
    found = _failure(kind, code, text, retryable=retryable)
    found.helpers["pg"] = {
        "code": code,
        "sqlstate": code,
        "statement": index,
        "position": int(position) if position else None,
        "constraint": getattr(error, "constraint_name", None),
    }
    return found


def _failure(
    kind: str, code: str, message: str, *, retryable: bool = False
) -> ToolCallError:
    helpers: dict[str, JSON] = {"pg": {"code": code, "sqlstate": code}}
    failure = ToolFailure(
        kind=kind, code=code, message=message, retryable=retryable, source="postgres"
    )
    return ToolCallError(failure, helpers=helpers)


def _kind(code: str) -> tuple[str, bool]:
    if code in ("40001", "40P01"):
        return "db_deadlock", True
    if code in ("57014", "55P03"):
        return "db_timeout", True
    if code[:2] == "08" or code in ("57P01", "57P02", "57P03", "53300"):
        return "db_connection", True
    if code[:2] == "23":
        return "db_constraint", False
    return ("auth", False) if code[:2] == "28" else ("db_error", False)
