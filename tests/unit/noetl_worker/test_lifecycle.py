"""The life of a role: ids, readiness, and stopping in order (style 3.14)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable

import anyio
import pytest

from noetl_worker.lifecycle import (
    Readiness,
    SnowflakeIds,
    machine_number,
    run_role,
)
from state_builder.ids import Shard, shard_of, snowflake_unix_ms

pytestmark = pytest.mark.anyio

NOW_S = 1_750_000_000.0


def works_until_stopped(done: list[str], name: str) -> Callable[..., Awaitable[None]]:
    async def daemon(stop: anyio.Event) -> None:
        await stop.wait()
        done.append(name)

    return daemon


async def test_a_signal_stops_the_role_in_order() -> None:
    """RT-WRK-20: readiness goes first, then daemons finish, exit is clean."""
    readiness = Readiness()
    done: list[str] = []
    seen: list[bool] = []

    async def watcher(stop: anyio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        await anyio.sleep(0)
        seen.append(readiness.ready)

    daemons = {"work": works_until_stopped(done, "work"), "watch": watcher}
    with anyio.fail_after(5):
        await run_role("worker", daemons, readiness=readiness, grace_s=5)
    assert done == ["work"]
    assert seen == [False]
    assert readiness.reasons() == {"process": "stopping"}


async def test_a_role_is_ready_only_while_it_runs() -> None:
    readiness = Readiness()
    assert readiness.reasons() == {"process": "starting"}

    async def daemon(stop: anyio.Event) -> None:
        while not readiness.ready:
            await anyio.sleep(0)

    with anyio.fail_after(5):
        await run_role("worker", {"d": daemon}, readiness=readiness, grace_s=1)
    assert not readiness.ready


async def test_one_failing_daemon_stops_the_others_and_is_raised() -> None:
    done: list[str] = []

    async def broken(stop: anyio.Event) -> None:
        raise ValueError("broken on purpose")

    daemons = {"work": works_until_stopped(done, "work"), "broken": broken}
    with anyio.fail_after(5), pytest.raises(ValueError, match="on purpose"):
        await run_role("worker", daemons, readiness=Readiness(), grace_s=5)
    assert done == ["work"]


async def test_work_beyond_the_grace_is_cancelled() -> None:
    cancelled: list[str] = []

    async def stubborn(stop: anyio.Event) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append("stubborn")
            raise

    stop = anyio.Event()
    stop.set()
    with anyio.fail_after(5):
        await run_role(
            "worker", {"s": stubborn}, readiness=Readiness(), grace_s=0.01, stop=stop
        )
    assert cancelled == ["stubborn"]


async def test_a_second_signal_exits_at_once() -> None:
    """RT-WRK-20."""
    program = (
        "import anyio, os, signal\n"
        "from noetl_worker.lifecycle import Readiness, run_role\n"
        "async def stubborn(stop):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await stop.wait()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await anyio.sleep_forever()\n"
        "anyio.run(lambda: run_role('worker', {'s': stubborn},"
        " readiness=Readiness(), grace_s=60))\n"
    )
    with anyio.fail_after(20):
        process = await anyio.run_process([sys.executable, "-c", program], check=False)
    assert process.returncode == 128 + signal.SIGTERM


def test_readiness_asks_its_checks_each_time() -> None:
    readiness = Readiness()
    readiness.clear("process")
    state = {"shards": "0 of 16 rehydrated"}
    readiness.watch("shards", lambda: state["shards"])
    assert readiness.reasons() == {"shards": "0 of 16 rehydrated"}
    state["shards"] = ""
    assert readiness.ready


def test_snowflakes_grow_and_never_repeat_on_a_standing_clock() -> None:
    """RT-EVT-10, RT-EVT-12: 4,096 a millisecond, then the next one is borrowed."""
    ids = SnowflakeIds(7, lambda: NOW_S, first=4090)
    minted = [int(ids.mint()) for _ in range(10_000)]
    assert len(set(minted)) == len(minted)
    assert {(value >> 12) & 0x3FF for value in minted} == {7}
    assert [value >> 22 for value in minted] == sorted(value >> 22 for value in minted)
    assert snowflake_unix_ms(minted[-1]) == int(NOW_S * 1000) + 2


def test_a_clock_that_goes_back_is_not_followed() -> None:
    """RT-EVT-12."""
    times = iter([NOW_S, NOW_S - 60, NOW_S + 1])
    ids = SnowflakeIds(1, lambda: next(times))
    stamps = [snowflake_unix_ms(int(ids.mint())) for _ in range(3)]
    assert stamps == [int(NOW_S * 1000)] * 2 + [int(NOW_S * 1000) + 1000]


def test_ids_can_be_minted_onto_a_shard() -> None:
    ids = SnowflakeIds(1, lambda: NOW_S)
    assert {shard_of(ids.mint_on(Shard(5), 16), 16) for _ in range(20)} == {5}


def test_the_machine_number_is_stable_for_a_host() -> None:
    """RT-EVT-10."""
    assert machine_number(12) == 12
    first = machine_number(None, "pod-1")
    assert first == machine_number(None, "pod-1")
    assert 0 <= first < 1024
    assert first != machine_number(None, "pod-2")
