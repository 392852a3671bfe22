"""The housekeeper: what stays open for long, and why (RT-HSK-3). It ends nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import structlog

from state_builder.errors import UnavailableError
from state_builder.ports import Clock, Observer
from state_builder.stores import RowReader, Waiting

log = structlog.get_logger(__name__)

LONG_S = 3600.0
"""An execution that is open for longer is shown."""

REASONS = ("unclaimed", "running", "parked", "other")


@dataclass(frozen=True, kw_only=True)
class HousekeeperPorts:
    """What the housekeeper may touch.

    Attributes:
        alone: held while it looks, by one process of all.
    """

    rows: RowReader
    alone: Callable[[], AbstractAsyncContextManager[object]]
    clock: Clock
    observer: Observer


class Housekeeper:
    """Looks at what is open until it is told to stop."""

    def __init__(self, ports: HousekeeperPorts, look_s: float = 30.0) -> None:
        self._ports = ports
        self._look_s = look_s
        self._told: dict[str, int] = {}

    async def run(self, stop: anyio.Event) -> None:
        """Look every now and then until ``stop``."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_for_ever)
            await stop.wait()
            tasks.cancel_scope.cancel()

    async def _look_for_ever(self) -> None:
        while True:
            try:
                async with self._ports.alone():
                    await self.look()
            except UnavailableError as error:
                log.warning("housekeeper.waits", reason=str(error))
            await self._ports.clock.sleep(self._look_s)

    async def look(self) -> None:
        """Show what is open for long. Raises UnavailableError."""
        before = datetime.fromtimestamp(self._ports.clock.now() - LONG_S, UTC)
        waiting = await self._ports.rows.waiting_executions(before)
        found = {one.reason: one for one in waiting}
        for reason in REASONS:
            one = found.get(reason, Waiting(reason, 0, ""))
            self._ports.observer.gauge(
                "noetl_executions_waiting", one.executions, reason=reason
            )
            if one.executions > self._told.get(reason, 0):
                log.warning(
                    "executions.waiting",
                    reason=reason,
                    executions=one.executions,
                    oldest=one.oldest,
                    hint=f"noetl status {one.oldest} names what it waits for",
                )
            self._told[reason] = one.executions
