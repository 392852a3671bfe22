"""What already happened in one execution: rows as far as they are, then the log.

The materializer's position is asked before the row, so the log after it holds all that
the row lacks (RT-NATS-30). The stretch between is normally a few messages; where it is
longer than :data:`TAIL_MAX` the answer is 503 with the reason, never a long silence.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import anyio

from noetl_worker.server.hub import Logged, closing, events_of
from state_builder.errors import LostDataError, UnavailableError
from state_builder.ids import event_position, shard_of
from state_builder.ports import EventLog, LogInfo
from state_builder.stores import (
    EventFilter,
    EventView,
    ExecutionView,
    RowReader,
)

TAIL_MAX: Final = 100_000
"""Messages of the log that are read for one answer."""

STARTS_KEPT: Final = 20_000
PAGE: Final = 500
READ_S: Final = 10.0


class Known(NamedTuple):
    """An execution as rows and log tell it.

    Attributes:
        row: None while nothing is materialized.
        tail: events after the row's head, in order.
    """

    row: ExecutionView | None
    tail: list[Logged]


class History:
    """Reads past events. Remembers where executions started here began in the log."""

    def __init__(self, log: EventLog, rows: RowReader, shard_count: int) -> None:
        self._log = log
        self._rows = rows
        self._shard_count = shard_count
        self._starts: OrderedDict[str, int] = OrderedDict()
        self._latest: OrderedDict[str, int] = OrderedDict()

    def note_start(self, execution_id: str, sequence: int) -> None:
        """An execution's genesis is at this place."""
        _remember(self._starts, execution_id, sequence)
        _remember(self._latest, execution_id, sequence)

    def started(self, execution_id: str) -> int:
        """The place of its genesis, 0 when it was not started here lately."""
        return self._starts.get(execution_id, 0)

    def note_append(self, execution_id: str, sequence: int) -> None:
        """This server appended something to the execution."""
        if sequence > self._latest.get(execution_id, 0):
            _remember(self._latest, execution_id, sequence)

    def latest(self, execution_id: str) -> int:
        """The last place this server appended to; 0 when it did not (§4, answers)."""
        return self._latest.get(execution_id, 0)

    async def known(self, execution_id: str) -> Known:
        """The row, and every event after its head.

        Raises:
            UnavailableError: neither rows nor a short stretch of the log can say.
        """
        info = await self._log.info()
        try:
            materialized = await self._rows.materialized()
            row = await self._rows.execution(execution_id)
        except UnavailableError:
            if execution_id not in self._starts:
                raise
            materialized, row = 0, None
        after = max(materialized, self._starts.get(execution_id, 1) - 1)
        head = 0 if row is None else int(row.head_event_id)
        tail = await self.read(execution_id, after, info)
        return Known(row, [logged for logged in tail if logged.event_id > head])

    async def read(self, execution_id: str, after: int, until: LogInfo) -> list[Logged]:
        """An execution's events in the log after a sequence, up to ``until``'s last."""
        last = until.last_sequence
        after = max(after, until.first_sequence - 1)
        if after >= last:
            return []
        if last - after > TAIL_MAX:
            raise UnavailableError(
                f"rows are {last - after} messages behind the log; "
                "ask again when the materializer has caught up"
            )
        found: list[Logged] = []
        try:
            with anyio.fail_after(READ_S):
                await self._collect(execution_id, after, until, found)
        except TimeoutError:
            raise UnavailableError("the log cannot be read right now") from None
        except LostDataError as error:
            raise UnavailableError(str(error)) from error
        return found

    async def _collect(
        self, execution_id: str, after: int, until: LogInfo, found: list[Logged]
    ) -> None:
        shard = shard_of(execution_id, self._shard_count)
        batches = self._log.follow(None, after=after, leases=True)
        async with closing(batches):
            async for batch in batches:
                for message in batch:
                    if message.sequence > until.last_sequence:
                        return
                    if message.shard == shard:
                        found += events_of(message, execution_id, until.generation)
                if batch[-1].sequence >= until.last_sequence:
                    return

    async def since(
        self, execution_id: str, after: int, joined: LogInfo
    ) -> AsyncIterator[EventView | Logged]:
        """Events after an event id, oldest first, up to a place in the log.

        From the log alone where the start is known or the id is a recent place in it;
        from rows and then the log otherwise.
        """
        place = self.place(execution_id, after, joined.generation)
        if place is None or not _near(place, joined):
            materialized = await self._rows.materialized()
            async for view in self._rows_since(execution_id, after):
                after = int(view.event_id)
                yield view
            place = materialized
        for logged in await self.read(execution_id, place, joined):
            if logged.event_id > after:
                yield logged

    def place(self, execution_id: str, after: int, generation: int) -> int | None:
        """The sequence after which the log lacks nothing that follows ``after``.

        None when the start is not known here, or the id is of another life of the log.
        """
        place = self._starts.get(execution_id, 0) - 1
        if after:
            life, sequence, _ = event_position(after)
            if life != generation:
                return None
            place = max(place, sequence - 1)
        return None if place < 0 else place

    async def _rows_since(
        self, execution_id: str, after: int
    ) -> AsyncIterator[EventView]:
        while True:
            wanted = EventFilter(since=after, limit=PAGE, ascending=True)
            page = await self._rows.events(execution_id, wanted)
            for view in page.events:
                # ``since`` matches as a double may have been rounded.
                if int(view.event_id) > after:
                    after = int(view.event_id)
                    yield view
            if len(page.events) < PAGE:
                return


def _near(place: int, until: LogInfo) -> bool:
    """The log still has all after this place, and it is not much."""
    return until.first_sequence - 1 <= place >= until.last_sequence - TAIL_MAX // 10


def _remember(kept: OrderedDict[str, int], execution_id: str, sequence: int) -> None:
    kept[execution_id] = sequence
    kept.move_to_end(execution_id)
    if len(kept) > STARTS_KEPT:
        kept.popitem(last=False)
