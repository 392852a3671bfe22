"""The housekeeper: what stays open for long, and why (RT-HSK-3). It ends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from state_builder.ports import Clock, Observer
from state_builder.stores import RowReader, Waiting

log = structlog.get_logger(__name__)

LONG_S = 3600.0
"""An execution that is open for longer is shown."""

REASONS = ("unclaimed", "running", "parked", "other")


@dataclass(frozen=True, kw_only=True)
class HousekeeperPorts:
    """What the housekeeper may touch."""

    rows: RowReader
    clock: Clock
    observer: Observer


class Housekeeper:
    """Looks at what is open."""

    def __init__(self, ports: HousekeeperPorts) -> None:
        self._ports = ports
        self._told: dict[str, int] = {}

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
