"""Read, project, write: three stages, one batch apart.

This process decodes the next batch while the database stores the one before. A batch
is what is there, up to a bound: one message when the log is quiet, full ones when it
is not. Between the two the reader rests after every read that gave less than a batch:
a transaction for each message would cost the machine more than running the step did.

A row the tables refuse ends the pipeline; its batch is then stored by halves, each in
a transaction of its own with the position left where it is, down to the one event at
fault, which is set apart with its bytes. Halves already stored are recognised by their
heads, so a crash in between repeats nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec.structs import replace

from materializer.errors import RowError
from materializer.projection import Entry, Projected, Projector, decode_messages
from state_builder.ports import LogMessage
from state_builder.records import encode_json
from state_builder.rows import Position, RowWriter

log = structlog.get_logger(__name__)

_READ_AHEAD = 4
_REASON_MAX = 500


class Stored(NamedTuple):
    """What one transaction added.

    Attributes:
        new: event rows that were not there before.
    """

    position: Position
    messages: int
    cleaned: int
    new: int
    projected: Projected


class _Prepared(NamedTuple):
    entries: Sequence[Entry]
    projected: Projected
    messages: int
    cleaned: int


class Pipeline:
    """Follows the log for one writer, from one position on.

    ``rest`` waits a moment, for more to come.
    """

    def __init__(
        self,
        writer: RowWriter,
        position: Position,
        *,
        batch_max: int,
        rest: Callable[[], Awaitable[None]],
        on_write: Callable[[], None],
        on_stored: Callable[[Stored], None],
    ) -> None:
        self._writer = writer
        self._position = position
        self._batch_max = batch_max
        self._rest = rest
        self._on_write = on_write
        self._on_stored = on_stored
        self._projector = Projector(position.generation)

    async def run(
        self, follow: Callable[[int], AsyncIterator[list[LogMessage]]]
    ) -> None:
        """Write what ``follow(after)`` yields, for ever.

        Raises, alone or in groups, what reading and writing raise, but for RowError.
        """
        while True:
            refused: list[_Prepared] = []
            read_out, read_in = anyio.create_memory_object_stream[list[LogMessage]](
                _READ_AHEAD
            )
            # Nothing lies between these two: while one batch is being written the next
            # is being projected, and no third has looked at any head.
            done_out, done_in = anyio.create_memory_object_stream[_Prepared](0)
            async with (
                anyio.create_task_group() as stages,
                read_out,
                read_in,
                done_out,
                done_in,
            ):
                stages.start_soon(self._read, follow(self._position.sequence), read_out)
                stages.start_soon(self._project, read_in, done_out)
                async for prepared in done_in:
                    try:
                        await self._write(prepared)
                    except RowError as error:
                        log.warning("batch.refused", error=str(error))
                        refused.append(prepared)
                        stages.cancel_scope.cancel()
            self._projector.forget()
            for prepared in refused:
                await self._isolate(prepared)

    async def _read(
        self,
        messages: AsyncIterator[list[LogMessage]],
        read: MemoryObjectSendStream[list[LogMessage]],
    ) -> None:
        try:
            async for some in messages:
                await read.send(some)
                if len(some) < self._batch_max:
                    await self._rest()
        finally:
            close = getattr(messages, "aclose", None)
            if close is not None:
                with anyio.CancelScope(shield=True):
                    await close()

    async def _project(
        self,
        read: MemoryObjectReceiveStream[list[LogMessage]],
        done: MemoryObjectSendStream[_Prepared],
    ) -> None:
        after = self._position
        async for first in read:
            waiting = list(first)
            while (
                len(waiting) < self._batch_max and read.statistics().current_buffer_used
            ):
                waiting += read.receive_nowait()
            for start in range(0, len(waiting), self._batch_max):
                messages = waiting[start : start + self._batch_max]
                position = after._replace(sequence=messages[-1].sequence)
                decoded = decode_messages(messages)
                await self._learn(decoded.entries)
                projected = self._projector.project(
                    decoded.entries, after=after, position=position
                )
                await done.send(
                    _Prepared(
                        decoded.entries, projected, len(messages), decoded.cleaned
                    )
                )
                after = position

    async def _learn(self, entries: Sequence[Entry]) -> None:
        unknown = self._projector.unknown(entries)
        if unknown:
            self._projector.learn(await self._writer.heads(unknown))

    async def _write(self, prepared: _Prepared) -> None:
        self._on_write()
        batch = prepared.projected.batch
        new = await self._writer.write(batch)
        self._position = batch.position
        self._on_stored(
            Stored(
                batch.position,
                prepared.messages,
                prepared.cleaned,
                new,
                prepared.projected,
            )
        )

    async def _isolate(self, prepared: _Prepared) -> None:
        """Store a refused batch but for the events at fault (RT-MAT-5)."""
        target = prepared.projected.batch.position
        parts = [prepared.entries]
        while parts:
            part = parts.pop()
            try:
                await self._store(part, self._position)
            except RowError as error:
                self._projector.forget()
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    await self._set_apart(part[0], error)
        await self._store([], target, prepared.messages, prepared.cleaned)

    async def _set_apart(self, entry: Entry, error: RowError) -> None:
        log.error(
            "event.quarantined",
            execution_id=str(entry.execution_id),
            sequence=entry.sequence,
            idx=entry.idx,
            reason=str(error),
        )
        data = encode_json(entry.event) if entry.event is not None else entry.data
        reason = str(error)[:_REASON_MAX]
        apart = replace(entry, event=None, fault=reason, data=data)
        await self._store([apart], self._position)

    async def _store(
        self,
        entries: Sequence[Entry],
        position: Position,
        messages: int = 0,
        cleaned: int = 0,
    ) -> None:
        await self._learn(entries)
        projected = self._projector.project(
            entries, after=self._position, position=position
        )
        await self._write(_Prepared(entries, projected, messages, cleaned))
