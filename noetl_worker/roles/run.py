"""Which function runs which role; the role's library is imported when it runs."""

from __future__ import annotations

import gc
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

GC_YOUNG_OBJECTS: Final = 25_000
"""New objects that are looked at together for cycles."""


async def run_role(role: str, environ: Mapping[str, str]) -> None:
    """Run one role until a signal.

    Raises:
        SettingsError: no such role, or settings that cannot be used.
    """
    if role not in ROLES:
        raise SettingsError(f"role {role!r}: use one of {', '.join(ROLES)}")
    process = open_process(role, environ)
    module = import_module(ROLES[role])
    _calm_collector()
    await module.run(process)


def _calm_collector() -> None:
    """Let the collector look at what is made, less often, and never at the program.

    A batch of messages is thousands of short-lived objects; with the defaults each
    batch costs dozens of collections, the large ones over every module and plan.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_OBJECTS, 20, 20)
