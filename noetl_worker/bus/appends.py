"""Joining appends: calls that are ready in the same turn share a message (RT-NATS-5).

Order is kept: a call joins only the youngest message of its shard, and only when both
carry the same fence and neither is a command. Every call's records are in exactly one
message. Measured as a factor of three to four under load; costs nothing when idle.
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from dataclasses import dataclass, field

from noetl_worker.bus.topology import BusSettings, check_pool
from state_builder.errors import LimitExceededError, NoetlError, RecordError
from state_builder.ids import Shard, digest_of
from state_builder.ports import Appended
from state_builder.records import Record, encode_append

EVENTS_MAX = 1000
"""Events in one message, the limit of design §9."""

HEADERS_BYTES_MAX = 4096
"""Room kept for headers inside the broker's message limit."""


@dataclass(slots=True, kw_only=True)
class AppendCall:
    """One call of ``EventLog.append`` and the promise made to its caller.

    Attributes:
        repeats: promises of further calls under the same id while this one is open.
    """

    shard: Shard
    records: list[Record]
    message_id: str
    epoch: int
    pool: str
    events: int
    done: Future[Appended]
    repeats: list[Future[Appended]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Outgoing:
    """One message ready to be sent, for one or more calls."""

    shard: Shard
    epoch: int
    pool: str
    message_id: str
    data: bytes
    calls: list[AppendCall]


class AppendQueue:
    """Calls not yet made into messages, and the promises of all unfinished ones."""

    def __init__(self, settings: BusSettings) -> None:
        self._settings = settings
        self._waiting: list[AppendCall] = []
        self._open: dict[str, AppendCall] = {}

    def add(
        self,
        shard: Shard,
        records: list[Record],
        *,
        message_id: str,
        epoch: int,
        pool: str,
    ) -> Future[Appended]:
        """Take a call; the same id again shares the fate of the one still open."""
        done: Future[Appended] = get_running_loop().create_future()
        try:
            if pool:
                check_pool(pool)
            events = count_events(records)
        except NoetlError as error:
            break_promise(done, error)
            return done
        first = self._open.get(message_id)
        if first is not None:
            first.repeats.append(done)
            return done
        call = AppendCall(
            shard=shard,
            records=records,
            message_id=message_id,
            epoch=epoch,
            pool=pool,
            events=events,
            done=done,
        )
        self._open[message_id] = call
        self._waiting.append(call)
        return done

    def take(self) -> list[Outgoing]:
        """Everything waiting, as messages in the order of the calls."""
        groups: list[list[AppendCall]] = []
        youngest: dict[Shard, list[AppendCall]] = {}
        for call in self._waiting:
            group = youngest.get(call.shard)
            if group is not None and self._joins(group, call):
                group.append(call)
            else:
                youngest[call.shard] = group = [call]
                groups.append(group)
        self._waiting.clear()
        return [message for group in groups for message in self._encode(group)]

    def fulfil(self, message: Outgoing, appended: Appended) -> None:
        """Tell every caller where its records are."""
        for call in message.calls:
            self._open.pop(call.message_id, None)
            if not call.done.done():
                call.done.set_result(appended)
            for done in call.repeats:
                if not done.done():
                    done.set_result(Appended(appended.sequence, True))

    def fail(self, calls: list[AppendCall], error: NoetlError) -> None:
        """Tell every caller why its records are not stored."""
        for call in calls:
            self._open.pop(call.message_id, None)
            for done in (call.done, *call.repeats):
                break_promise(done, error)

    def _joins(self, group: list[AppendCall], call: AppendCall) -> bool:
        first = group[0]
        if first.pool or call.pool or first.epoch != call.epoch:
            return False
        records = sum(len(member.records) for member in group) + len(call.records)
        events = sum(member.events for member in group) + call.events
        return records <= self._settings.pack_records_max and events <= EVENTS_MAX

    def _encode(self, calls: list[AppendCall]) -> list[Outgoing]:
        """One message, or several when together they would be too large."""
        first = calls[0]
        if len(calls) == 1:
            records, message_id = first.records, first.message_id
        else:
            records = [record for call in calls for record in call.records]
            message_id = pack_id([call.message_id for call in calls])
        try:
            data = encode(records)
        except RecordError as error:
            if len(calls) == 1:
                self.fail(calls, error)
                return []
            return self._halves(calls)
        if len(calls) > 1 and len(data) > self._settings.pack_bytes_max:
            return self._halves(calls)
        return [
            Outgoing(
                shard=first.shard,
                epoch=first.epoch,
                pool=first.pool,
                message_id=message_id,
                data=data,
                calls=calls,
            )
        ]

    def _halves(self, calls: list[AppendCall]) -> list[Outgoing]:
        half = len(calls) // 2
        return self._encode(calls[:half]) + self._encode(calls[half:])


def encode(records: list[Record]) -> bytes:
    """The bytes of one message.

    Raises:
        RecordError: a value no JSON can hold, such as half a surrogate pair.
    """
    try:
        return encode_append(records)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RecordError(f"append cannot be written as JSON: {error}") from error


def pack_id(message_ids: list[str]) -> str:
    """The message id of a shared message: a digest of all ids in order."""
    text = "\n".join(message_ids)
    return f"pack:{digest_of(text)}{digest_of(text[::-1])}"


def count_events(records: list[Record]) -> int:
    """How many events there are in these records.

    Raises:
        RecordError: nothing to append, or a record without events.
        LimitExceededError: more than one message may have.
    """
    counts = [len(record.events) for record in records]
    if not counts or not all(counts):
        raise RecordError("append without records, or a record without events")
    total = sum(counts)
    if total > EVENTS_MAX:
        raise LimitExceededError(
            "append_events", f"append of {total} events, at most {EVENTS_MAX} fit"
        )
    return total


def check_size(data: bytes, limit: int) -> None:
    """Refuse what does not fit in a message of ``limit`` bytes.

    Raises:
        LimitExceededError: names both sizes; nothing was sent.
    """
    room = limit - HEADERS_BYTES_MAX
    if len(data) > room:
        raise LimitExceededError(
            "message_bytes",
            f"append of {len(data)} bytes, at most {room} fit in a message: put large "
            "values into the result store",
        )


def break_promise(done: Future[Appended], error: NoetlError) -> None:
    """Break a promise with an error that its caller may, but need not, look at."""
    if not done.done():
        done.set_exception(error)
        # A caller that learned it from another append does not await the rest; asking
        # for the exception keeps asyncio from logging it as never retrieved.
        done.exception()
