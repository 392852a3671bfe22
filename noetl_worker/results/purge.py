"""Removes stored values nobody will ask for any more (TL-RR-54, RT-LIM-5, RT-HSK-1).

Values of an execution go some time after its end, those of a longer scope later or
never. So does what a worker stored and died before the log named it: it lies beside
the rest. What belongs to an execution without a row goes once the execution is old.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from msgspec import MsgspecError, Struct

from noetl_worker.results.values import Values
from state_builder.errors import NoetlError, UnavailableError
from state_builder.ids import snowflake_unix_ms
from state_builder.ports import Clock, Observer
from state_builder.records import timestamp
from state_builder.values import ResultRows, ResultStore

log = structlog.get_logger(__name__)

ROWS_AT_ONCE: Final = 5_000
EXECUTIONS_AT_ONCE: Final = 500
_OWNER: Final = re.compile(r"/execution=(\d+)/")


class PurgeSettings(Struct, frozen=True, kw_only=True):
    """When values go.

    Attributes:
        keep_s: after the end of the execution, scopes ``step`` and ``execution``.
        workflow_keep_s: the same of scope ``workflow``; ``permanent`` stays.
    """

    keep_s: float = 86_400.0
    workflow_keep_s: float = 7 * 86_400.0


class Purger:
    """Looks at every store now and then.

    ``rows_until`` tells the Unix time up to which all that was logged has its rows:
    that an execution has none says nothing of a later one.
    """

    def __init__(
        self,
        stores: list[ResultStore],
        values: Values,
        rows: ResultRows,
        rows_until: Callable[[], Awaitable[float]],
        ports: tuple[Clock, Observer],
        settings: PurgeSettings | None = None,
    ) -> None:
        self._stores = stores
        self._values = values
        self._rows = rows
        self._rows_until = rows_until
        self._clock, self._observer = ports
        self._settings = settings or PurgeSettings()

    async def purge(self) -> int:
        """One look; how many objects went."""
        removed = 0
        # Bytes first: a row whose bytes are gone is found again, the reverse never.
        expired = await self._rows.expired(ROWS_AT_ONCE)
        for row in expired:
            await self._values.drop(row.object_key)
            removed += 1
        await self._rows.forget([row.result_id for row in expired])
        self._count("expired", removed)
        began_before = await self._rows_until() - self._settings.keep_s
        for store in self._stores:
            removed += await self._purge(store, began_before)
        if removed:
            log.info("results.purged", objects=removed)
        return removed

    async def _purge(self, store: ResultStore, began_before: float) -> int:
        owned: dict[str, list[str]] = defaultdict(list)
        for key in await store.keys("noetl/"):
            found = _OWNER.search(key)
            if found is not None and _began(found.group(1)) < began_before:
                owned[found.group(1)].append(key)
        ids = list(owned)
        removed = 0
        for start in range(0, len(ids), EXECUTIONS_AT_ONCE):
            some = ids[start : start + EXECUTIONS_AT_ONCE]
            over = await self._rows.unneeded(some, self._settings.keep_s)
            long_over = await self._rows.unneeded(some, self._settings.workflow_keep_s)
            for execution_id in over:
                for key in owned[execution_id]:
                    removed += await self._went(store, key, execution_id in long_over)
        self._count("ended", removed)
        return removed

    async def _went(self, store: ResultStore, key: str, long_over: bool) -> bool:
        """Remove an object if it goes; one nobody can read keeps no other."""
        try:
            goes = await self._goes(store, key, long_over)
        except UnavailableError:
            raise
        except (NoetlError, MsgspecError) as error:
            log.warning(
                "results.unreadable", store=store.tier, key=key, reason=str(error)
            )
            return False
        if goes:
            await store.delete(key)
        return goes

    async def _goes(self, store: ResultStore, key: str, long_over: bool) -> bool:
        opened = await store.open(key)
        about = {"scope": ""} if opened is None else opened.info.about
        expires_at = about.get("expires_at", "")
        if expires_at and expires_at <= timestamp(self._clock.now()):
            return True
        scope = about.get("scope", "execution")
        return scope != "permanent" and (long_over or scope != "workflow")

    def _count(self, reason: str, amount: int) -> None:
        if amount:
            self._observer.count("noetl_results_purged_total", amount, reason=reason)


def _began(execution_id: str) -> float:
    """When its id was made, Unix seconds; never for what is no execution's id."""
    number = int(execution_id)
    return snowflake_unix_ms(number) / 1000 if number < 1 << 63 else float("inf")
