"""Leading a shard group: lock, position, pipeline; and again after any trouble.

Whatever goes wrong, the way on is the same: forget what is in memory, wait, ask the
tables where they stand, and read from there. The lag is measured by a task of its own,
so that a loop that stands still is seen (RT-MAT-7).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

import anyio
import structlog

from materializer.daemon.pipeline import Pipeline, Stored
from materializer.errors import LifeError, RowError
from state_builder.errors import (
    ConflictError,
    LostDataError,
    NoetlError,
    UnavailableError,
)
from state_builder.ids import Shard
from state_builder.ports import Clock, EventLog, LogInfo, LogMessage, Observer
from state_builder.rows import Position, RowStore, RowWriter

log = structlog.get_logger(__name__)

CONSUMER = "noetl_materializer"
"""Label of the lag, the name existing alerts use."""


@dataclass(frozen=True, kw_only=True)
class MaterializerSettings:
    """One materializer.

    Attributes:
        group: name of the shard group; its position and its lock.
        shards: the group's shards; None for all.
        stream: the log's name, for metrics.
        batch_max: most messages per transaction.
        pause_s: rest after a read that gave less than that.
        backoff_first_s, backoff_max_s: wait after an error, doubling.
        lag_poll_s: how often the lag is measured.
        fault_fail_first: fail that many batches, to test the way back.
    """

    group: str = "all"
    shards: tuple[Shard, ...] | None = None
    stream: str = "noetl_events"
    batch_max: int = 200
    pause_s: float = 0.025
    backoff_first_s: float = 2.0
    backoff_max_s: float = 30.0
    lag_poll_s: float = 5.0
    fault_fail_first: int = 0


@dataclass(frozen=True, kw_only=True)
class MaterializerPorts:
    """What a materializer may touch.

    Attributes:
        settle: called when the log is not the one the position belongs to; see
            :func:`materializer.generation.settle_life`.
    """

    log: EventLog
    rows: RowStore
    clock: Clock
    observer: Observer
    settle: Callable[[], Awaitable[object]]


class Materializer:
    """Copies the log into the tables until it is told to stop.

    Attributes:
        position: where the tables stand, as far as this process knows.
        durable: the same as of the last measurement, and safe from any crash of the
            database.
        leading: this process writes; false while another one does.
        pending: log messages after the position, as last measured; with a group of
            shards those of other groups are counted too.
    """

    def __init__(
        self, ports: MaterializerPorts, settings: MaterializerSettings
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._faults_left = settings.fault_fail_first
        self._backoff_s = settings.backoff_first_s
        self.position: Position | None = None
        self.durable: Position | None = None
        self.leading = False
        self.pending = 0

    async def run(self, stop: anyio.Event) -> None:
        """Materialize until ``stop``.

        A batch on its way then is stored or rolled back as a whole, whichever; who
        leads next goes on from the position.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._measure_for_ever)
            tasks.start_soon(self._lead_for_ever)
            await stop.wait()
            tasks.cancel_scope.cancel()

    async def _lead_for_ever(self) -> None:
        while True:
            try:
                await self._lead()
            except* (
                UnavailableError,
                ConflictError,
                LostDataError,
                RowError,
            ) as errors:
                self._blame(errors)
            finally:
                self.leading = False
            delay = self._backoff_s
            self._backoff_s = min(delay * 2, self._settings.backoff_max_s)
            await self._ports.clock.sleep(delay)

    async def _lead(self) -> None:
        async with self._ports.rows.lead(self._settings.group) as writer:
            self.position = await self._agree(writer)
            self.leading = True
            log.info(
                "materializer.leading",
                group=self._settings.group,
                generation=self.position.generation,
                position=self.position.sequence,
            )
            pipeline = Pipeline(
                writer,
                self.position,
                batch_max=self._settings.batch_max,
                rest=partial(self._ports.clock.sleep, self._settings.pause_s),
                on_write=self._fail_if_told,
                on_stored=self._note,
            )
            await pipeline.run(self._follow)

    def _follow(self, after: int) -> AsyncIterator[list[LogMessage]]:
        # Leases are read too, although they become no rows: the position passes them,
        # so a log that was read to its end has a lag of nothing.
        return self._ports.log.follow(self._settings.shards, after=after, leases=True)

    async def _agree(self, writer: RowWriter) -> Position:
        """The position, once it belongs to the life the log is in."""
        for last_try in (False, True):
            found = await self._ports.log.info()
            position = await writer.position(found.generation)
            if (
                position.generation == found.generation
                and position.sequence <= found.last_sequence
            ):
                return position
            if not last_try:
                await self._ports.settle()
        raise LifeError(
            f"the log ends at {found.last_sequence} of generation {found.generation}, "
            f"the rows at {position.sequence} of generation {position.generation}"
        )

    def _fail_if_told(self) -> None:
        if self._faults_left > 0:
            self._faults_left -= 1
            raise UnavailableError(
                "told to fail by NOETL_MATERIALIZER_FAULT_FAIL_FIRST"
            )

    def _note(self, stored: Stored) -> None:
        self.position = stored.position
        self._backoff_s = self._settings.backoff_first_s
        projected, batch = stored.projected, stored.projected.batch
        count = self._ports.observer.count
        repeated = projected.repeated + len(batch.events) - stored.new
        changed = len(batch.executions) + len(batch.execution_changes)
        count("noetl_worker_materializer_drained_total", stored.messages)
        count("noetl_worker_materializer_acked_total", stored.messages)
        count("noetl_worker_materializer_projected_total", stored.new)
        count("noetl_events_materialized_total", stored.new)
        count("noetl_projection_advanced_total", changed)
        if repeated:
            count("noetl_worker_materializer_duplicates_total", repeated)
        if projected.ignored:
            count("noetl_worker_materializer_ignored_total", projected.ignored)
        if stored.cleaned:
            count("noetl_worker_materializer_cleaned_total", stored.cleaned)
        if batch.quarantined:
            apart = len(batch.quarantined)
            count("noetl_worker_materializer_quarantined_total", apart)

    async def _measure_for_ever(self) -> None:
        while True:
            try:
                await self._measure()
            except UnavailableError as error:
                log.warning("materializer.lag_unknown", error=str(error))
            await self._ports.clock.sleep(self._settings.lag_poll_s)

    async def _measure(self) -> None:
        found = await self._ports.log.info()
        try:
            positions = await self._ports.rows.durable_positions()
            self.durable = positions.get(self._settings.group, self.durable)
        except UnavailableError:
            # The lag climbs from the position last known: that is what shows.
            log.warning("materializer.tables_away", group=self._settings.group)
        known = self.position if self.leading else self.durable or self.position
        after = known.sequence if known is not None else 0
        self.pending = max(found.last_sequence - after, 0)
        oldest_s = await self._age(max(after + 1, found.first_sequence), found)
        gauge = self._ports.observer.gauge
        labels = {"stream": self._settings.stream, "consumer": CONSUMER}
        gauge("noetl_worker_nats_consumer_pending", self.pending, **labels)
        gauge("noetl_worker_nats_consumer_oldest_seconds", oldest_s, **labels)

    async def _age(self, sequence: int, found: LogInfo) -> float:
        """Seconds since the message was stored; 0 when there is none."""
        if sequence > found.last_sequence:
            return 0.0
        message = await self._ports.log.read(sequence)
        if message is None:
            return 0.0
        return max(self._ports.clock.now() - message.stored_at, 0.0)

    def _blame(self, errors: BaseExceptionGroup[NoetlError]) -> None:
        self._ports.observer.count("noetl_worker_materializer_project_errors_total")
        for error in _leaves(errors):
            log.warning(
                "materializer.interrupted",
                code=error.code,
                error=str(error),
                retry_s=self._backoff_s,
            )


def _leaves(errors: BaseExceptionGroup[NoetlError]) -> Iterator[NoetlError]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
