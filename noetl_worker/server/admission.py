"""Whether new work is let in: room, lag, backlog (RT-LIM-6 to 8).

A daemon looks every second; asking costs nothing. While the broker is away nothing is
refused here: the append itself will tell.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import anyio
import structlog

from noetl_worker.server.ports import EdgeSettings, ServerPorts
from state_builder.errors import LogFullError, UnavailableError

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
LAG_EVERY_S: Final = 5.0
POOLS_MAX: Final = 1000
FULL_AT: Final = 0.8
"""Share of the log's room from which on starts and external facts are refused (§4)."""


class BusyError(UnavailableError):
    """There is too much to do already; ask again later."""

    code = "busy"


class _Backlog(NamedTuple):
    pending: int
    asked_at: float


class Admission:
    """What stands against letting in new work."""

    def __init__(self, ports: ServerPorts, settings: EdgeSettings) -> None:
        self._ports = ports
        self._lag_max_s = settings.retention_s / 4
        self._full = ""
        self._lag = ""
        self._generation: int | None = None
        self._pending_max = settings.server.pending_commands_max
        self._backlogs: dict[str, _Backlog] = {}

    def check_start(self) -> None:
        """Raises LogFullError or UnavailableError when no execution may start."""
        self.check_fact()
        if self._lag:
            raise UnavailableError(self._lag)

    async def check_pool(self, pool: str) -> None:
        """Raises BusyError when more commands wait for the pool than may (RT-LIM-7).

        The backlog is looked at once a second: many starts at once may exceed it.
        """
        if not self._pending_max:
            return
        now = self._ports.clock.monotonic()
        known = self._backlogs.get(pool)
        if known is None or now - known.asked_at >= LOOK_EVERY_S:
            pending = (await self._ports.commands.progress(pool)).pending
            if len(self._backlogs) >= POOLS_MAX:
                self._backlogs.clear()
            known = self._backlogs[pool] = _Backlog(pending, now)
        if known.pending > self._pending_max:
            name = "NOETL_MAX_PENDING_COMMANDS"
            self._ports.observer.count("noetl_limit_hits_total", limit=name)
            raise BusyError(
                f"{known.pending:,} commands wait for pool '{pool}', more than {name} "
                f"({self._pending_max:,}): start it later"
            )

    def check_fact(self) -> None:
        """Raises LogFullError when the log takes no facts from outside."""
        if self._full:
            raise LogFullError(self._full)

    async def generation(self) -> int:
        """Which of its lives the log is in. Raises UnavailableError."""
        if self._generation is None:
            self._generation = (await self._ports.log.info()).generation
        return self._generation

    async def run(self, stop: anyio.Event) -> None:
        """Look at log and rows until ``stop``."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            await stop.wait()
            tasks.cancel_scope.cancel()

    async def _watch(self) -> None:
        clock = self._ports.clock
        lag_at = 0.0
        while True:
            try:
                await self._look_at_log()
                if clock.monotonic() >= lag_at:
                    lag_at = clock.monotonic() + LAG_EVERY_S
                    await self._look_at_rows()
            except UnavailableError as error:
                log.debug("admission.unknown", reason=str(error))
            await clock.sleep(LOOK_EVERY_S)

    async def _look_at_log(self) -> None:
        info = await self._ports.log.info()
        self._generation = info.generation
        used = info.bytes / info.bytes_max if info.bytes_max > 0 else 0.0
        text = ""
        if used >= FULL_AT:
            text = f"the log is {used:.0%} full: nothing new until it is trimmed"
        if bool(text) != bool(self._full):
            log.warning("admission.changed", full=bool(text), used=round(used, 3))
        self._full = text

    async def _look_at_rows(self) -> None:
        """How old the first message is that has no rows yet."""
        materialized = await self._ports.rows.materialized()
        message = await self._ports.log.read(materialized + 1)
        lag_s = self._ports.clock.now() - message.stored_at if message else 0.0
        text = ""
        if lag_s > self._lag_max_s:
            text = f"rows are {lag_s:.0f} s behind the log: no execution is started"
        if bool(text) != bool(self._lag):
            log.warning("admission.changed", lagging=bool(text), lag_s=round(lag_s))
        self._lag = text
