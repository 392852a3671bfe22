"""Which function runs which role; the role's library is imported when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from noetl_worker.roles.process import open_process
from state_builder.errors import SettingsError

ROLES: Final = {
    "server": "noetl_worker.roles.server",
    "system": "noetl_worker.roles.system",
    "worker": "noetl_worker.roles.worker",
    "materializer": "noetl_worker.roles.materializer",
}
"""Role → the module whose ``run`` is the role."""


async def run_role(role: str, environ: Mapping[str, str]) -> None:
    """Run one role until a signal.

    Raises:
        SettingsError: no such role, or settings that cannot be used.
    """
    if role not in ROLES:
        raise SettingsError(f"role {role!r}: use one of {', '.join(ROLES)}")
    process = open_process(role, environ)
    await import_module(ROLES[role]).run(process)
