"""Broadcasts and questions, on both adapters."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from bus_fleet import Fleet

from state_builder.ids import Shard
from state_builder.records import JSON

pytestmark = pytest.mark.anyio

Question = dict[str, JSON]


async def test_every_worker_hears_of_an_ended_execution(fleet: Fleet) -> None:
    """RT-NATS-33."""
    workers = [await fleet.bus() for _ in range(2)]
    heard: list[list[str]] = [[], []]
    for worker, ids in zip(workers, heard, strict=True):
        await worker.signals.on_cancelled(ids.append)
        await worker.log.info()  # the broker knows the listener now
    await workers[0].signals.cancelled("7421")
    with anyio.fail_after(10):
        while heard != [["7421"], ["7421"]]:
            await asyncio.sleep(0.001)


async def test_every_server_is_told_where_an_end_is(fleet: Fleet) -> None:
    servers = [await fleet.bus() for _ in range(2)]
    heard: list[list[tuple[str, int]]] = [[], []]
    for server, ends in zip(servers, heard, strict=True):
        await server.signals.on_ended(
            lambda eid, sequence, ends=ends: ends.append((eid, sequence))  # type: ignore[misc]
        )
        await server.log.info()
    servers[0].signals.ended("7421", 12)
    with anyio.fail_after(10):
        while heard != [[("7421", 12)], [("7421", 12)]]:
            await asyncio.sleep(0.001)


async def test_an_owner_answers_questions_about_its_shard(fleet: Fleet) -> None:
    """RT-NATS-30: at the same time, and in any order."""
    owner, asker = await fleet.bus(), await fleet.bus()
    release = asyncio.Event()

    async def answer(question: Question) -> Question | None:
        if question["n"] == 0:
            await release.wait()
        release.set()
        return {"twice": [question, question]}

    stop = await owner.signals.answer(Shard(1), answer)
    await owner.log.info()
    answers = await asyncio.gather(
        *(asker.signals.ask(Shard(1), {"n": n, "é": None}, 10) for n in range(5))
    )
    for n, each in enumerate(answers):
        assert each == {"twice": [{"n": n, "é": None}] * 2}
    await stop()
    await owner.log.info()
    assert await asker.signals.ask(Shard(1), {"n": 1}, 10) is None


async def test_nobody_there_is_no_answer_at_once(fleet: Fleet) -> None:
    """RT-NATS-30: far sooner than the time allowed."""
    bus = await fleet.bus()
    with anyio.fail_after(5):
        assert await bus.signals.ask(Shard(3), {}, 3600) is None


async def test_silence_lasts_until_the_asker_gives_up(fleet: Fleet) -> None:
    """Design §4: an owner that may not answer says nothing, another may."""
    owner, other, asker = [await fleet.bus() for _ in range(3)]

    async def silent(question: Question) -> Question | None:
        return None

    async def fails(question: Question) -> Question | None:
        raise RuntimeError("not today")

    async def knows(question: Question) -> Question | None:
        return {"by": "other"}

    await owner.signals.answer(Shard(2), silent)
    await owner.signals.answer(Shard(2), fails)
    await owner.log.info()
    started = fleet.elapsed()
    asking = asyncio.ensure_future(asker.signals.ask(Shard(2), {}, 0.3))
    for _ in range(4):
        await asyncio.sleep(0)
        fleet.pass_time(0.1)
    assert await asking is None
    assert fleet.elapsed() - started >= 0.3
    await other.signals.answer(Shard(2), knows)
    await other.log.info()
    assert await asker.signals.ask(Shard(2), {}, 10) == {"by": "other"}
