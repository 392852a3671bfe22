"""The log's promises, on both adapters."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import anyio
import pytest
from bus_fleet import Fleet, read_all, records, take, texts, texts_of

from state_builder.errors import (
    ConflictError,
    FencedError,
    LimitExceededError,
    LogFullError,
    LostDataError,
    RecordError,
    SettingsError,
    UnavailableError,
)
from state_builder.ids import Shard
from state_builder.records import Event, Record, decode_lease

pytestmark = pytest.mark.anyio

ONE, TWO = Shard(1), Shard(2)


async def test_appends_are_stored_in_the_order_of_the_calls(fleet: Fleet) -> None:
    """RT-NATS-4, RT-NATS-5: per shard, across turns of the loop and kinds of subject."""
    bus = await fleet.bus()
    promises = []
    for number in range(300):
        shard, pool = Shard(number % 3), "" if number % 5 else "shared"
        promises.append(
            bus.log.append(
                shard, records(f"{number}"), message_id=f"m{number}", pool=pool
            )
        )
        if number % 40 == 0:
            await asyncio.sleep(0)
    stored = await asyncio.gather(*promises)
    assert not any(each.duplicate for each in stored)
    for shard in range(3):
        of_shard = [str(number) for number in range(300) if number % 3 == shard]
        messages = await read_all(
            bus, len({s.sequence for s in stored[shard::3]}), shard
        )
        assert texts(messages) == of_shard


async def test_a_repeated_id_is_success_and_stored_once(fleet: Fleet) -> None:
    """RT-NATS-20, RT-NATS-21: the sequence is that of the first."""
    bus, other = await fleet.bus(), await fleet.bus()
    first = await bus.log.append(ONE, records("a"), message_id="same")
    again = await other.log.append(ONE, records("a"), message_id="same")
    third = await other.log.try_append(
        ONE, records("a"), message_id="same", timeout_s=5
    )
    assert (first.duplicate, again.duplicate, third.duplicate) == (False, True, True)
    assert first.sequence == again.sequence == third.sequence
    assert (await bus.log.info()).last_sequence == first.sequence


async def test_a_repeated_id_in_flight_is_stored_once(fleet: Fleet) -> None:
    """RT-NATS-21: even when the first shares its message with others."""
    bus = await fleet.bus()
    calls = [
        bus.log.append(ONE, records(text), message_id=text)
        for text in ["a", "b", "a", "c", "b"]
    ]
    stored = await asyncio.gather(*calls)
    assert texts(await read_all(bus, len({each.sequence for each in stored}))) == [
        *"abc"
    ]
    assert stored[0].sequence == stored[2].sequence
    assert [each.duplicate for each in stored] == [False, False, True, False, True]


@pytest.mark.parametrize("message_id", ["a\r\nNats-Rollup: all", "é", "x" * 3000, " a"])
async def test_any_text_can_be_an_id(fleet: Fleet, message_id: str) -> None:
    """RT-NATS-20: a caller's own event id may hold anything."""
    bus = await fleet.bus()
    first = await bus.log.append(ONE, records("1"), message_id=message_id)
    again = await bus.log.append(ONE, records("1"), message_id=message_id)
    other = await bus.log.append(ONE, records("2"), message_id=message_id + "2")
    assert again == (first.sequence, True)
    assert other.sequence == first.sequence + 1


async def test_a_new_lease_cuts_off_the_old_owner(fleet: Fleet) -> None:
    """RT-NATS-22, RT-NATS-31: what it had pipelined is stored as a prefix, or not."""
    old, new = await fleet.bus(), await fleet.bus()
    epoch = await old.log.take_lease(ONE, "old", "now")

    async def pipeline() -> list[object]:
        calls = []
        for number in range(256):
            calls.append(
                old.log.append(
                    ONE,
                    records(str(number)),
                    message_id=f"d{number}",
                    epoch=epoch,
                    pool="shared",
                )
            )
            await asyncio.sleep(0)
        return list(await asyncio.gather(*calls, return_exceptions=True))

    async with anyio.create_task_group() as tasks:
        outcome: list[object] = []

        async def run() -> None:
            outcome.extend(await pipeline())

        tasks.start_soon(run)
        await asyncio.sleep(0)
        newer = await new.log.take_lease(ONE, "new", "now")
    stored = [i for i, each in enumerate(outcome) if not isinstance(each, Exception)]
    refused = [each for each in outcome if isinstance(each, FencedError)]
    assert len(stored) + len(refused) == 256
    assert stored == list(range(len(stored)))
    assert refused
    final = await new.log.append(ONE, records("new"), message_id="n", epoch=newer)
    messages = await read_all(new, len(stored) + 1, 1)
    assert texts(messages) == [*(str(n) for n in stored), "new"]
    assert messages[-1].sequence == final.sequence


async def test_five_takers_of_a_lease_one_holds_it(fleet: Fleet) -> None:
    """RT-NATS-31: who looks after another has won may win again, later; one holds."""
    takers = [await fleet.bus() for _ in range(5)]
    before = await takers[0].log.take_lease(TWO, "first", "now")
    outcome = await asyncio.gather(
        *(bus.log.take_lease(TWO, f"t{n}", "now") for n, bus in enumerate(takers)),
        return_exceptions=True,
    )
    epochs = [each for each in outcome if isinstance(each, int)]
    conflicts = sum(isinstance(each, ConflictError) for each in outcome)
    assert epochs
    assert len(set(epochs)) + conflicts == 5
    held = max(epochs)
    assert before < min(epochs)
    assert held == await takers[0].log.lease_sequence(TWO)
    message = await takers[0].log.read(held)
    assert message is not None
    assert (message.kind, message.shard) == ("lease", TWO)
    assert decode_lease(message.data).holder == f"t{outcome.index(held)}"
    for epoch in {before, *epochs} - {held}:
        with pytest.raises(FencedError):
            await takers[0].log.append(
                TWO, records("late"), message_id=f"late{epoch}", epoch=epoch
            )


async def test_leases_of_shards_are_independent(fleet: Fleet) -> None:
    """RT-NATS-22: a lease of one shard fences that shard alone."""
    bus = await fleet.bus()
    assert await bus.log.lease_sequence(ONE) == 0
    epoch = await bus.log.take_lease(ONE, "me", "now")
    await bus.log.take_lease(TWO, "other", "now")
    assert await bus.log.append(ONE, records("a"), message_id="a", epoch=epoch)


async def test_a_trimmed_lease_is_no_lease(fleet: Fleet) -> None:
    """Design §2 (f): its rightful owner is refused."""
    bus = await fleet.bus()
    epoch = await bus.log.take_lease(ONE, "me", "now")
    last = await bus.log.append(ONE, records("a"), message_id="a")
    assert await bus.log.trim(last.sequence) == last.sequence - 1
    assert await bus.log.lease_sequence(ONE) == 0
    with pytest.raises(FencedError):
        await bus.log.append(ONE, records("b"), message_id="b", epoch=epoch)


async def test_records_ready_together_share_messages_each_exactly_once(
    fleet: Fleet,
) -> None:
    """RT-NATS-5: packing loses and repeats nothing."""
    bus = await fleet.bus()
    epoch = await bus.log.take_lease(ONE, "me", "now")
    calls = [
        bus.log.append(
            Shard(n % 2), records(str(n)), message_id=f"r{n}", epoch=epoch * (n % 2)
        )
        for n in range(1000)
    ]
    stored = await asyncio.gather(*calls)
    sequences = {each.sequence for each in stored}
    assert len(sequences) < 100
    messages = {m.sequence: m for m in await read_all(bus, len(sequences))}
    assert sorted(texts(list(messages.values())), key=int) == [
        str(n) for n in range(1000)
    ]
    for number, each in enumerate(stored):
        assert str(number) in texts_of(messages[each.sequence].data)


async def test_a_command_has_a_message_of_its_own(fleet: Fleet) -> None:
    """RT-NATS-5: and keeps its place between records of its shard."""
    bus = await fleet.bus()
    stored = await asyncio.gather(
        *(
            bus.log.append(ONE, records(text), message_id=text, pool=pool)
            for text, pool in [("a", ""), ("b", "p"), ("c", "p"), ("d", ""), ("e", "")]
        )
    )
    messages = await read_all(bus, 4)
    assert [texts_of(message.data) for message in messages] == [
        ["a"],
        ["b"],
        ["c"],
        ["d", "e"],
    ]
    assert [m.kind for m in messages] == ["events", "commands", "commands", "events"]
    assert [s.sequence for s in stored] == [1, 2, 3, 4, 4]


async def test_large_records_do_not_share(fleet: Fleet) -> None:
    bus = await fleet.bus()
    large = "x" * 50_000
    stored = await asyncio.gather(
        *(bus.log.append(ONE, records(large), message_id=f"l{n}") for n in range(5))
    )
    assert len({each.sequence for each in stored}) == 5


async def test_too_large_is_refused_and_nothing_stored(fleet: Fleet) -> None:
    """RT-NATS-26, RT-LIM-1: and it does not stop what comes after."""
    bus = await fleet.bus()
    large = records("x" * 1_048_576)
    with pytest.raises(LimitExceededError, match="fit in a message") as caught:
        await bus.log.append(ONE, large, message_id="large")
    assert caught.value.limit == "message_bytes"
    with pytest.raises(LimitExceededError):
        await bus.log.try_append(ONE, large, message_id="large", timeout_s=5)
    appended = await bus.log.append(ONE, records("small"), message_id="small")
    assert appended.sequence == 1


async def test_an_append_has_one_to_a_thousand_events(fleet: Fleet) -> None:
    """RT-NATS-5."""
    bus = await fleet.bus()
    full = Record(execution_id="1", events=[Event(type="note")] * 1001)
    with pytest.raises(LimitExceededError, match="1001 events, at most 1000"):
        await bus.log.append(ONE, [full], message_id="full")
    with pytest.raises(RecordError):
        await bus.log.append(ONE, [], message_id="none")
    with pytest.raises(RecordError):
        await bus.log.append(
            ONE, [Record(execution_id="1", events=[])], message_id="empty"
        )


async def test_follow_goes_on_where_told_and_waits_for_more(fleet: Fleet) -> None:
    bus, other = await fleet.bus(), await fleet.bus()
    for number in range(5):
        await bus.log.append(ONE, records(str(number)), message_id=f"m{number}")
    stream = other.log.follow(None, after=3)
    assert texts(await take(stream, 2)) == ["3", "4"]
    await bus.log.append(TWO, records("later"), message_id="later")
    (later,) = await take(stream, 1)
    assert (later.sequence, later.shard, later.kind) == (6, TWO, "events")
    assert abs(later.stored_at - (await bus.log.read(6)).stored_at) < 0.001  # type: ignore[union-attr]
    await stream.aclose()  # type: ignore[attr-defined]


async def test_readers_get_their_shards_alone(fleet: Fleet) -> None:
    """Owners read events, commands and leases of their shards; others may skip leases."""
    bus = await fleet.bus()
    for number in range(8):
        shard = Shard(number % 4)
        await bus.log.append(shard, records(f"e{number}"), message_id=f"e{number}")
        await bus.log.append(
            shard, records(f"c{number}"), message_id=f"c{number}", pool="p"
        )
    leases = [await bus.log.take_lease(Shard(shard), "me", "now") for shard in range(4)]
    some = bus.log.follow([ONE, TWO], after=0)
    every = bus.log.follow([Shard(n) for n in range(4)], after=0)
    bare = bus.log.follow([ONE], after=0, leases=False)
    got, all_of_it, without = await asyncio.gather(
        take(some, 10), take(every, 20), take(bare, 4)
    )
    assert {message.shard for message in got} == {ONE, TWO}
    assert [m.sequence for m in got if m.kind == "lease"] == leases[1:3]
    assert [message.sequence for message in all_of_it] == list(range(1, 21))
    assert texts(without) == ["e1", "c1", "e5", "c5"]
    for stream in (some, every, bare):
        await stream.aclose()  # type: ignore[attr-defined]


async def test_a_slow_reader_misses_nothing(fleet: Fleet) -> None:
    """More than is held in memory at a time, while more is being appended."""
    bus = await fleet.bus(follow_prefetch=100, follow_batch=30)
    stream = bus.log.follow(None, after=0)
    for number in range(1500):
        call = bus.log.append(
            ONE, records(str(number)), message_id=f"m{number}", pool="p"
        )
    await call
    batches = []
    while sum(map(len, batches)) < 1500:
        batches.append(await anext(stream))
    assert max(map(len, batches)) <= 30
    assert [m.sequence for batch in batches for m in batch] == list(range(1, 1501))
    await stream.aclose()  # type: ignore[attr-defined]


async def test_one_message_can_be_read(fleet: Fleet) -> None:
    bus = await fleet.bus()
    appended = await bus.log.append(TWO, records("a"), message_id="a", pool="p")
    message = await bus.log.read(appended.sequence)
    assert message is not None
    assert (message.shard, message.kind) == (TWO, "commands")
    assert texts_of(message.data) == ["a"]
    assert await bus.log.read(appended.sequence + 1) is None
    assert await bus.log.read(0) is None


async def test_trimming_drops_the_beginning(fleet: Fleet) -> None:
    """RT-LIM-5; a reader that still needs it is told instead of skipping."""
    bus = await fleet.bus()
    for number in range(10):
        await bus.log.append(ONE, records(str(number)), message_id=f"m{number}")
    assert await bus.log.trim(6) == 5
    info = await bus.log.info()
    assert (info.first_sequence, info.last_sequence) == (6, 10)
    assert await bus.log.read(5) is None
    assert texts(await read_all(bus, 5)) == ["5", "6", "7", "8", "9"]
    stream = bus.log.follow(None, after=3)
    with pytest.raises(LostDataError):
        await anext(stream)


async def test_a_full_log_refuses_and_goes_on_after_trimming(fleet: Fleet) -> None:
    """RT-LIM-6: appends wait, those who cannot wait are told, nothing is dropped."""
    bus = await fleet.bus(log_bytes_max=400_000, append_backoff_max_s=0.2)
    text = "x" * 70_000  # too large to share a message
    for number in range(5):
        await bus.log.append(ONE, records(text), message_id=f"m{number}")
    waiting = asyncio.ensure_future(
        bus.log.append(ONE, records(text), message_id="waits")
    )
    behind = asyncio.ensure_future(bus.log.append(ONE, records("b"), message_id="b"))
    with pytest.raises(LogFullError):
        await bus.log.try_append(ONE, records(text), message_id="try", timeout_s=5)
    assert not waiting.done()
    await bus.log.trim(4)
    with anyio.fail_after(10):
        stored = await waiting
        await behind
    assert stored.sequence >= 6
    assert texts(await read_all(bus, 4))[-2:] in (["b", text], [text, "b"])


async def test_a_log_of_other_shards_is_refused(fleet: Fleet) -> None:
    """RT-NATS-10: both numbers are named."""
    await fleet.bus()
    other = await fleet.connect(replace(fleet.settings, shard_count=32))
    for create in (True, False):
        with pytest.raises(SettingsError, match=r"shard_count 4.*configured with 32"):
            await other.ensure_log(create=create)


async def test_other_roles_wait_for_the_log(fleet: Fleet) -> None:
    """RT-NATS-1."""
    waiter = await fleet.connect(fleet.settings)
    with pytest.raises(UnavailableError):
        await waiter.log.info()
    waiting = asyncio.ensure_future(waiter.ensure_log(create=False))
    await asyncio.sleep(0)
    maker = await fleet.connect(fleet.settings)
    made = await maker.ensure_log(create=True)
    with anyio.fail_after(10):
        assert (await waiting).created_at == made.created_at


async def test_the_generation_is_kept_with_the_log(fleet: Fleet) -> None:
    """RT-NATS-36: where every reader finds it."""
    bus, other = await fleet.bus(), await fleet.bus()
    assert (await bus.log.info()).generation == 0
    await bus.set_generation(3)
    assert (await other.log.info()).generation == 3
    assert (await other.ensure_log(create=True)).generation == 3


async def test_a_closed_bus_tells_unfinished_callers(fleet: Fleet) -> None:
    bus = await fleet.connect(fleet.settings)
    promise = bus.log.append(ONE, records("a"), message_id="a")
    await fleet.close()
    with pytest.raises(UnavailableError, match="closed"):
        await promise
