"""The command queue's promises, on both adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
from bus_fleet import Bus, Fleet, command, names, records, take

from state_builder.errors import SettingsError
from state_builder.ids import Shard
from state_builder.ports import Delivery

pytestmark = pytest.mark.anyio


async def close(*streams: AsyncIterator[list[Delivery]]) -> None:
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]


async def until_pending(bus: Bus, expected: tuple[int, int], pool: str = "p") -> None:
    """Wait for the consumer to know what was said."""
    with anyio.fail_after(10):
        while (await bus.commands.progress(pool))[1:3] != expected:
            await asyncio.sleep(0.01)


async def test_a_pool_gets_its_own_commands_once(fleet: Fleet) -> None:
    """RT-NATS-2, RT-NATS-41: with their place in the log."""
    bus = await fleet.bus()
    await bus.log.append(Shard(0), records("fact"), message_id="fact")
    await command(bus, "other", "q")
    sequence = await command(bus, "mine", "p", shard=2)
    stream = bus.commands.pull(["p"], 4)
    (delivery,) = await take(stream, 1)
    assert names([delivery]) == ["mine"]
    assert (delivery.sequence, delivery.shard) == (sequence, Shard(2))
    assert (delivery.count, delivery.pool) == (1, "p")
    delivery.ack()
    await until_pending(bus, (0, 0))
    later = await command(bus, "later", "p")
    (delivery,) = await take(stream, 1)
    assert delivery.sequence == later
    await close(stream)


async def test_never_more_unfinished_than_slots(fleet: Fleet) -> None:
    """RT-WRK: two workers share what is there, none takes more than it can run."""
    bus, other = await fleet.bus(), await fleet.bus()
    for number in range(4):
        await command(bus, str(number), "p")
    one, two = bus.commands.pull(["p"], 2), other.commands.pull(["p"], 2)
    got = [await take(one, 2), await take(two, 2)]
    assert sorted(names(got[0] + got[1])) == ["0", "1", "2", "3"]
    assert [len(each) for each in got] == [2, 2]
    for number in range(4, 40):
        await command(bus, str(number), "p")
    running = got[0]
    done = 0
    while done < 36:
        assert len(running) <= 2
        running.pop(0).ack()
        done += 1
        if not running or done < 34:
            running += await take(one, 1)
    await close(one, two)


async def test_one_slot_takes_one_after_the_other(fleet: Fleet) -> None:
    bus = await fleet.bus()
    for number in range(20):
        await command(bus, str(number), "p")
    stream = bus.commands.pull(["p"], 1)
    seen = []
    for _ in range(20):
        (delivery,) = await take(stream, 1)
        seen += names([delivery])
        delivery.ack()
    assert seen == [str(number) for number in range(20)]
    await close(stream)


async def test_a_nak_brings_it_back_after_its_delay(fleet: Fleet) -> None:
    """RT-NATS-43."""
    bus = await fleet.bus(ack_wait_s=30.0)
    await command(bus, "a", "p")
    stream = bus.commands.pull(["p"], 1)
    (first,) = await take(stream, 1)
    started = fleet.elapsed()
    first.nak(0.5)
    again = asyncio.ensure_future(take(stream, 1))
    for _ in range(5):
        await asyncio.sleep(0)
        assert not again.done()
        fleet.pass_time(0.1)
    fleet.pass_time(0.1)
    (second,) = await again
    assert fleet.elapsed() - started >= 0.5
    assert (second.count, second.sequence) == (2, first.sequence)
    second.ack()
    await until_pending(bus, (0, 0))
    await close(stream)


async def test_a_terminated_command_is_gone(fleet: Fleet) -> None:
    """RT-NATS-42."""
    bus = await fleet.bus()
    await command(bus, "a", "p")
    stream = bus.commands.pull(["p"], 1)
    (delivery,) = await take(stream, 1)
    delivery.term()
    await until_pending(bus, (0, 0))
    await close(stream)


async def test_silence_for_the_ack_wait_hands_it_to_another(fleet: Fleet) -> None:
    """RT-NATS-45: and the first worker's late word does not remove it."""
    slow, other = await fleet.bus(), await fleet.bus()
    await command(slow, "a", "p")
    one, two = slow.commands.pull(["p"], 1), other.commands.pull(["p"], 1)
    (late,) = await take(one, 1)
    again = asyncio.ensure_future(take(two, 1))
    await asyncio.sleep(0)
    fleet.pass_time(1.1)
    (taken,) = await again
    assert taken.count == 2
    late.in_progress()
    late.ack()
    await until_pending(other, (0, 1))
    await close(one)
    taken.nak(0.1)
    back = asyncio.ensure_future(take(two, 1))
    await asyncio.sleep(0)
    fleet.pass_time(0.2)
    (third,) = await back
    assert third.count == 3
    third.ack()
    await until_pending(other, (0, 0))
    await close(two)


async def test_signs_of_life_keep_it(fleet: Fleet) -> None:
    """RT-NATS-42: in progress starts the deadline anew, as often as needed."""
    bus, other = await fleet.bus(), await fleet.bus()
    await command(bus, "a", "p")
    one = bus.commands.pull(["p"], 1)
    (delivery,) = await take(one, 1)
    two = other.commands.pull(["p"], 1)
    again = asyncio.ensure_future(take(two, 1))
    for _ in range(8):
        if fleet.kind == "nats":
            await asyncio.sleep(0.3)  # real time has to pass: twice the ack wait
        fleet.pass_time(0.3)
        await asyncio.sleep(0)
        delivery.in_progress()
    assert not again.done()
    delivery.ack()
    await until_pending(bus, (0, 0))
    again.cancel()
    await close(one)


async def test_a_redelivery_takes_the_slot_of_the_first(fleet: Fleet) -> None:
    """Design §5: a worker that gets what it is running adopts the new delivery."""
    bus = await fleet.bus()
    await command(bus, "a", "p")
    stream = bus.commands.pull(["p"], 2)
    (first,) = await take(stream, 1)
    again = asyncio.ensure_future(take(stream, 1))
    await asyncio.sleep(0)
    fleet.pass_time(1.1)
    (second,) = await again
    assert second.sequence == first.sequence
    first.ack()  # says nothing any more, and frees nothing
    await until_pending(bus, (0, 1))
    await command(bus, "b", "p")
    (other,) = await take(stream, 1)
    second.ack()
    other.ack()
    await until_pending(bus, (0, 0))
    for text in "cd":
        await command(bus, text, "p")
    assert sorted(names(await take(stream, 2))) == ["c", "d"]
    await close(stream)


async def test_closing_gives_back_what_was_not_handed_over(fleet: Fleet) -> None:
    """RT-WRK-6: long before the ack wait would; what was handed over can finish."""
    bus, other = await fleet.bus(ack_wait_s=600.0), await fleet.bus(ack_wait_s=600.0)
    for number in range(6):
        await command(bus, str(number), "p")
    one = bus.commands.pull(["p"], 6)
    handed = await anext(one)
    await until_pending(bus, (0, 6))
    for number in range(6, 9):
        await command(bus, str(number), "p")
    handed[0].ack()
    await close(one)
    two = other.commands.pull(["p"], 9)
    rest = asyncio.ensure_future(take(two, 9 - len(handed)))
    for _ in range(3):
        await asyncio.sleep(0)
        fleet.pass_time(1.0)
    taken = await rest
    assert len({delivery.sequence for delivery in taken}) == 9 - len(handed)
    for delivery in handed + taken:
        delivery.ack()
    await until_pending(bus, (0, 0))
    await close(two)


async def test_two_pools_share_the_slots(fleet: Fleet) -> None:
    """`NOETL_WORKER_POOL` is a list; an idle pool does not starve the busy one."""
    bus = await fleet.bus()
    stream = bus.commands.pull(["p", "q"], 4)
    await command(bus, "first", "q")
    (first,) = await take(stream, 1)
    first.ack()
    for number in range(30):
        await command(bus, str(number), "p")
    seen = []
    while len(seen) < 30:
        batch = await take(stream, 1)
        assert len(batch) <= 4
        seen += names(batch)
        for delivery in batch:
            assert delivery.pool == "p"
            delivery.ack()
    assert seen == [str(number) for number in range(30)]
    await close(stream)


async def test_view_start_is_where_the_log_ended(fleet: Fleet) -> None:
    """RT-NATS-44: what is at or before it may have been finished by others."""
    bus = await fleet.bus()
    old = await command(bus, "old", "p")
    stream = bus.commands.pull(["p"], 2)
    (before,) = await take(stream, 1)
    assert before.sequence == old <= await bus.commands.view_start()
    await command(bus, "new", "p")
    (after,) = await take(stream, 1)
    assert after.sequence > await bus.commands.view_start()
    await close(stream)


async def test_pending_counts_what_waits_and_what_runs(fleet: Fleet) -> None:
    """RT-WRK-15: before any worker made the consumer, too."""
    bus = await fleet.bus()
    for number in range(3):
        await command(bus, str(number), "p")
    await command(bus, "other", "q")
    assert (await bus.commands.progress("p"))[1:3] == (3, 0)
    stream = bus.commands.pull(["p"], 1)
    await take(stream, 1)
    await until_pending(bus, (2, 1))
    assert (await bus.commands.progress("q"))[1:3] == (1, 0)
    await close(stream)


@pytest.mark.parametrize("pool", ["", "UPPER", "a.b", "-x", "x" * 41, "a b", "*"])
async def test_a_bad_pool_name_is_refused(fleet: Fleet, pool: str) -> None:
    """RT-NATS-2: where it is used, before anything is sent."""
    bus = await fleet.bus()
    with pytest.raises(SettingsError):
        bus.commands.pull([pool], 1)
    if pool:
        with pytest.raises(SettingsError):
            await bus.log.append(Shard(0), records("a"), message_id="a", pool=pool)
    assert (await bus.log.info()).last_sequence == 0


async def test_a_worker_needs_a_pool_and_a_slot(fleet: Fleet) -> None:
    bus = await fleet.bus()
    with pytest.raises(SettingsError):
        bus.commands.pull([], 1)
    with pytest.raises(SettingsError):
        bus.commands.pull(["p"], 0)
