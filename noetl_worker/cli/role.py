"""The roles as commands: each runs one process of the fleet until SIGTERM.

Everything they are told comes from the environment (``noetl settings`` lists it), so
that a container, a unit file and the dev stack configure them alike.
"""

from __future__ import annotations

from typing import cast

import anyio

from noetl_worker.cli.exits import ExitCode
from noetl_worker.settings import environment


def server() -> int:
    """Run the HTTP edge until SIGTERM. Configured by the environment."""
    return run_one("server")


def system() -> int:
    """Run a system worker until SIGTERM. Configured by the environment."""
    return run_one("system")


def worker() -> int:
    """Run a tool worker until SIGTERM. Configured by the environment."""
    return run_one("worker")


def materializer() -> int:
    """Run a materializer until SIGTERM. Configured by the environment."""
    return run_one("materializer")


def run_one(role: str) -> int:
    """Run a role in this process."""
    from noetl_worker.dev import Role
    from noetl_worker.roles import run_role

    anyio.run(
        run_role,
        cast(Role, role),
        environment(),
        backend_options={"use_uvloop": True},
    )
    return ExitCode.OK
