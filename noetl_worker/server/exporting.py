"""An execution's log as a transcript: from the log itself, or from rows where trimmed.

What comes from the log is the very bytes that were appended. What comes from rows was
made again: the head says ``source: rows``, so whoever replays it compares meaning, not
bytes. Lines are sent as they are read; a transcript without its end is torn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from itertools import groupby
from typing import Final

from msgspec import Raw

from noetl_worker.server.catalog import Catalog
from noetl_worker.server.history import History
from noetl_worker.server.hub import closing
from noetl_worker.server.live import Live
from noetl_worker.server.ports import ServerPorts
from noetl_worker.server.rebuilt import event_of_view
from state_builder.errors import LostDataError, UnavailableError
from state_builder.ids import event_position, shard_of
from state_builder.ports import CatalogEntry, LogInfo, LogMessage
from state_builder.records import Record, encode_json
from state_builder.stores import EventFilter, EventView
from state_builder.transcript import (
    FORMAT,
    FORMAT_VERSION,
    End,
    Gathering,
    Head,
    RecordLine,
    encode_line,
    playbook_line,
)

PAGE: Final = 500


class Exporter:
    """Writes transcripts."""

    def __init__(
        self,
        ports: ServerPorts,
        catalog: Catalog,
        live: Live,
        history: History,
        shard_count: int,
    ) -> None:
        self._ports = ports
        self._catalog = catalog
        self._live = live
        self._history = history
        self._shard_count = shard_count

    async def lines(self, execution_id: str) -> AsyncIterator[bytes]:
        """The transcript of an execution and of all it started, up to now.

        Raises:
            NotFoundError: unknown execution.
            UnavailableError: log or rows cannot be read; lines may have been given.
        """
        await self._live.facts(execution_id)
        info = await self._ports.log.info()
        generation, after = await self._start(execution_id, info)
        trimmed = after is None
        yield encode_line(
            Head(
                format=FORMAT,
                v=FORMAT_VERSION,
                execution_id=execution_id,
                generation=generation,
                through=info.last_sequence,
                shard=shard_of(execution_id, self._shard_count),
                shard_count=self._shard_count,
                source="rows" if trimmed else "log",
            )
        )
        gathering = Gathering(execution_id)
        if after is None:
            # Rows end where the log after them begins.
            after = await self._ports.rows.materialized()
            for line in _lines(await self._tree(execution_id), generation):
                for catalog_id in gathering.add(line):
                    yield await self._playbook(catalog_id)
                yield encode_line(line)
        reach = await self._reach(execution_id)
        async for message in self._from_log(execution_id, after, info):
            entries, found = gathering.take(message)
            for catalog_id in entries:
                yield await self._playbook(catalog_id)
            for line in found:
                yield encode_line(line)
            if gathering.over and message.sequence >= reach:
                break
        yield encode_line(End(records=gathering.records))

    async def _playbook(self, catalog_id: str) -> bytes:
        row = await self._catalog.row("", None, catalog_id)
        return encode_line(
            playbook_line(
                CatalogEntry(
                    catalog_id=row.catalog_id,
                    path=row.path,
                    version=row.version,
                    kind=row.kind,
                    content=row.content,
                )
            )
        )

    async def _start(self, execution_id: str, info: LogInfo) -> tuple[int, int | None]:
        """In which generation it began, and after which sequence of the log.

        None when that was trimmed, or is in another life of the log.
        """
        started = self._history.started(execution_id)
        if not started:
            wanted = EventFilter(limit=1, ascending=True)
            first = (await self._ports.rows.events(execution_id, wanted)).events
            if first:
                generation, started, _ = event_position(int(first[0].event_id))
                if generation != info.generation:
                    return generation, None
            else:
                # Not a row yet, so it is behind all rows.
                started = await self._ports.rows.materialized() + 1
        there = started >= info.first_sequence
        return info.generation, started - 1 if there else None

    async def _reach(self, execution_id: str) -> int:
        """Up to where rows know of it: facts may follow its end."""
        row = await self._ports.rows.execution(execution_id)
        return 0 if row is None else event_position(int(row.head_event_id))[1]

    async def _from_log(
        self, execution_id: str, after: int, info: LogInfo
    ) -> AsyncIterator[LogMessage]:
        """The messages of its shard, which is the shard of all it started (§4)."""
        after = max(after, info.first_sequence - 1)
        if after >= info.last_sequence:
            return
        shard = shard_of(execution_id, self._shard_count)
        batches = self._ports.log.follow(None, after=after, leases=True)
        try:
            async with closing(batches):
                async for message in _until(info.last_sequence, batches):
                    if message.shard == shard and message.kind != "lease":
                        yield message
        except LostDataError as error:
            raise UnavailableError(str(error)) from error

    async def _tree(self, execution_id: str) -> list[EventView]:
        """Every event of an execution and of all it started."""
        found: list[EventView] = []
        waiting, seen = [execution_id], {execution_id}
        while waiting:
            async for view in self._events(waiting.pop()):
                found.append(view)
                child = event_of_view(view).child
                if child and child not in seen:
                    seen.add(child)
                    waiting.append(child)
        return found

    async def _events(self, execution_id: str) -> AsyncIterator[EventView]:
        after = 0
        while True:
            wanted = EventFilter(since=after, limit=PAGE, ascending=True)
            page = await self._ports.rows.events(execution_id, wanted)
            for view in page.events:
                # ``since`` may match an event once more (RT-EXN-11).
                if int(view.event_id) > after:
                    after = int(view.event_id)
                    yield view
            if len(page.events) < PAGE:
                return


async def _until(
    last: int, batches: AsyncIterator[list[LogMessage]]
) -> AsyncIterator[LogMessage]:
    """Messages one by one, up to a sequence."""
    async for batch in batches:
        for message in batch:
            if message.sequence <= last:
                yield message
        if batch[-1].sequence >= last:
            return


def _lines(views: Iterable[EventView], generation: int) -> Iterable[RecordLine]:
    """Rows in the records they came in, in log order."""

    def place(view: EventView) -> tuple[int, int, str]:
        lived, sequence, _ = event_position(int(view.event_id))
        return lived, sequence, view.execution_id

    ordered = sorted(views, key=lambda view: int(view.event_id))
    for (lived, sequence, execution_id), inside in groupby(ordered, place):
        own = list(inside)
        record = Record(
            execution_id=execution_id, events=[event_of_view(view) for view in own]
        )
        yield RecordLine(
            sequence=sequence,
            index=event_position(int(own[0].event_id))[2],
            stored_at=own[0].created_at.timestamp(),
            record=Raw(encode_json(record)),
            generation=None if lived == generation else lived,
        )
