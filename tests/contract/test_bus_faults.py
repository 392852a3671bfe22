"""The bus on a real server that is killed, wiped, paused, locked or too old."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from bus_fleet import (
    Counting,
    NatsFleet,
    command,
    names,
    read_all,
    records,
    small_settings,
    take,
    texts,
)
from services import NatsServer, free_port
from structlog.testing import capture_logs

from noetl_worker.bus.nats import NatsBus
from noetl_worker.bus.topology import BusSettings
from state_builder.errors import LostDataError, SettingsError, UnavailableError
from state_builder.ids import Shard
from state_builder.ports import Delivery

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
async def fleet(own_nats_server: NatsServer):
    fleet = NatsFleet(small_settings(own_nats_server, "noetl"))
    yield fleet
    await fleet.close()


async def restart(server: NatsServer) -> None:
    await anyio.to_thread.run_sync(server.start)


async def test_a_killed_broker_loses_and_repeats_no_append(
    fleet: NatsFleet, own_nats_server: NatsServer
) -> None:
    """RT-NATS-20, -25: retried in order under the same ids; readers go on."""
    bus, reader = await fleet.bus(append_retry_s=0.5), await fleet.bus()
    epoch = await bus.log.take_lease(Shard(3), "me", "now")
    total = 6000
    promises = []
    seen: list[str] = []
    sequences: list[int] = []

    async def produce() -> None:
        for number in range(total):
            shard = Shard(number % 4)
            promises.append(
                bus.log.append(
                    shard,
                    records(str(number)),
                    message_id=f"m{number}",
                    epoch=epoch if shard == 3 else 0,
                    pool="p" if number % 2 else "",
                )
            )
            if number % 20 == 0:
                await asyncio.sleep(0.001)

    async def follow() -> None:
        async for batch in reader.log.follow(None, after=0, leases=False):
            sequences.extend(message.sequence for message in batch)
            seen.extend(texts(batch))
            if len(seen) == total:
                return

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            tasks.start_soon(follow)
            for threshold in (800, 2500):
                while len(seen) < threshold:
                    await asyncio.sleep(0.001)
                own_nats_server.kill()
                await asyncio.sleep(0.2)
                await restart(own_nats_server)
        await asyncio.gather(*promises)
        while (bus.reconnects, reader.reconnects) != (2, 2):
            await asyncio.sleep(0.001)
    assert sequences == sorted(set(sequences))
    assert sorted(seen, key=int) == [str(number) for number in range(total)]
    for shard in range(4):
        of_shard = [text for text in seen if int(text) % 4 == shard]
        assert of_shard == sorted(of_shard, key=int)


async def test_workers_go_on_after_a_restart_with_a_new_view(
    fleet: NatsFleet, own_nats_server: NatsServer
) -> None:
    """RT-NATS-44: what may have been finished meanwhile is at or before view_start."""
    bus = await fleet.bus()
    stream = bus.commands.pull(["p"], 4)
    await command(bus, "before", "p")
    (running,) = await take(stream, 1)
    before = await bus.commands.view_start()
    own_nats_server.kill()
    last = [
        bus.log.append(Shard(0), records(text), message_id=text, pool="p")
        for text in ("during 1", "during 2")
    ]
    await restart(own_nats_server)
    with anyio.fail_after(20):
        given: dict[str, Delivery] = {"before": running}
        while len(given) < 3:
            # What runs may come again: a killed broker forgets whom it gave it to.
            given |= {names([one])[0]: one for one in await take(stream, 1)}
        stored = [await each for each in last]
    given.pop("before").ack()
    assert list(given) == ["during 1", "during 2"]
    assert await bus.commands.view_start() > before
    for delivery in given.values():
        delivery.ack()
    sequence = await command(bus, "after", "p")
    (after,) = await take(stream, 1)
    assert after.sequence == sequence > stored[-1].sequence
    after.ack()
    with anyio.fail_after(10):
        while (await bus.commands.progress("p"))[1:3] != (0, 0):
            await asyncio.sleep(0.01)
    await stream.aclose()


async def test_a_deleted_consumer_is_made_again(
    fleet: NatsFleet, own_nats_server: NatsServer
) -> None:
    """RT-NATS-40: it starts at the first message, which view_start then covers."""
    bus = await fleet.bus()
    stream = bus.commands.pull(["p"], 4)
    done = await command(bus, "done", "p")
    (delivery,) = await take(stream, 1)
    delivery.ack()
    raw = bus.log._jetstream
    await raw.call(
        "CONSUMER.DELETE.noetl_events.pool_p",
        None,
        type(await raw.stream_info("noetl_events")),
    )
    (again,) = await take(stream, 1)
    assert again.sequence == done <= await bus.commands.view_start()
    again.ack()
    await stream.aclose()


async def test_a_log_that_lost_its_tail_is_told_to_its_reader(
    fleet: NatsFleet, own_nats_server: NatsServer
) -> None:
    """Design §2: sequences have no gaps, so a reader knows."""
    bus = await fleet.bus()
    for number in range(3):
        await bus.log.append(Shard(0), records(str(number)), message_id=f"{number}")
    stream = bus.log.follow(None, after=0)
    await take(stream, 3)
    own_nats_server.kill()
    shutil.rmtree(own_nats_server.directory / "store")
    await restart(own_nats_server)
    maker = await fleet.bus()
    await maker.log.append(Shard(0), records("new life"), message_id="n")
    with anyio.fail_after(20), pytest.raises(LostDataError, match="made anew"):
        await anext(stream)
    with anyio.fail_after(20), pytest.raises(LostDataError, match="ends at 1, but 7"):
        await anext(maker.log.follow(None, after=7))


async def test_a_silent_broker_is_noticed_and_the_reader_goes_on(
    fleet: NatsFleet, own_nats_server: NatsServer
) -> None:
    """A stopped broker sends no heartbeats; afterwards nothing is missing or double."""
    bus = await fleet.bus(heartbeat_s=0.2)
    stream = bus.log.follow(None, after=0)
    await bus.log.append(Shard(0), records("a"), message_id="a")
    assert texts(await take(stream, 1)) == ["a"]
    waiting = asyncio.ensure_future(take(stream, 1))
    os.kill(own_nats_server.pid, signal.SIGSTOP)
    try:
        with capture_logs() as logs, anyio.fail_after(10):
            while not any(entry.get("reason") == "silence" for entry in logs):
                await asyncio.sleep(0.05)
    finally:
        os.kill(own_nats_server.pid, signal.SIGCONT)
    await bus.log.append(Shard(0), records("b"), message_id="b")
    with anyio.fail_after(20):
        assert texts(await waiting) == ["b"]
    assert texts(await read_all(bus, 2)) == ["a", "b"]
    await stream.aclose()


async def test_a_disconnected_server_says_unavailable_in_time(
    fleet: NatsFleet, own_nats_server: NatsServer
) -> None:
    """RT-API-10: who cannot wait is told; the same call later succeeds once."""
    bus = await fleet.bus()
    states: list[bool] = []
    bus.on_state(states.append)
    own_nats_server.kill()
    with anyio.fail_after(10):
        while bus.connected:
            await asyncio.sleep(0.01)
    with anyio.fail_after(3), pytest.raises(UnavailableError, match="not known"):
        await bus.log.try_append(Shard(0), records("a"), message_id="a", timeout_s=0.3)
    with pytest.raises(UnavailableError):
        await bus.log.info()
    with pytest.raises(UnavailableError):
        await bus.members.beat("me", {})
    assert await bus.signals.ask(Shard(0), {}, 0.5) is None
    await restart(own_nats_server)
    with anyio.fail_after(20):
        while not bus.connected:
            await asyncio.sleep(0.01)
        stored = await bus.log.try_append(
            Shard(0), records("a"), message_id="a", timeout_s=10
        )
    assert stored.sequence == 1
    assert states == [False, True]
    assert fleet.observer.gauges["noetl_bus_connected"] == 1.0


async def test_no_broker_is_an_error_that_names_the_address_without_secrets() -> None:
    """RT-NATS-35."""
    port = free_port()
    settings = BusSettings(
        urls=f"nats://me:hunter2@127.0.0.1:{port}", connect_timeout_s=0.5
    )
    with capture_logs() as logs, pytest.raises(UnavailableError) as caught:
        async with NatsBus.connect(settings, Counting()):
            raise AssertionError("connected to nobody")
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "hunter2" not in str(caught.value) + str(logs)


async def test_credentials_of_the_address_are_used_and_overridden(
    tmp_path: Path,
) -> None:
    """RT-NATS-35: and never logged."""
    server = NatsServer(
        tmp_path, 'authorization { users: [{user: "me", password: "hunter2"}] }'
    )
    server.start()
    address = f"127.0.0.1:{server.port}"
    good = BusSettings(urls=f"nats://me:hunter2@{address}", log_bytes_max=10_000_000)
    wrong = BusSettings(urls=f"nats://me:bad@{address}", connect_timeout_s=1.0)
    override = BusSettings(
        urls=f"nats://me:bad@{address}", password="hunter2", connect_timeout_s=1.0
    )
    try:
        with capture_logs() as logs:
            async with AsyncExitStack() as stack:
                for settings in (good, override):
                    bus = await stack.enter_async_context(
                        NatsBus.connect(settings, Counting())
                    )
                    assert bus.connected
            with pytest.raises(UnavailableError, match=r"(?i)authorization"):
                async with NatsBus.connect(wrong, Counting()):
                    pass
        assert "hunter2" not in str(logs)
    finally:
        server.stop()


async def test_an_old_broker_is_refused() -> None:
    """RT-NATS-32: the fence needs 2.12; both versions are named."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"x","version":"2.10.22","headers":true,'
            b'"max_payload":1048576}\r\n'
        )
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        settings = BusSettings(urls=f"nats://127.0.0.1:{port}", connect_timeout_s=2.0)
        with pytest.raises(SettingsError, match=r"2\.10\.22.*2\.12\.0"):
            async with NatsBus.connect(settings, Counting()):
                pass


async def test_settings_that_changed_are_applied_and_nothing_is_lost(
    fleet: NatsFleet,
) -> None:
    """RT-NATS-1, RT-NATS-40: updated, never deleted."""
    bus = await fleet.bus()
    await command(bus, "kept", "p")
    made = await bus.log.info()
    other = await fleet.bus(log_bytes_max=32 * 1024 * 1024, ack_wait_s=7.0)
    changed = await other.log.info()
    assert changed.bytes_max == 32 * 1024 * 1024
    assert (changed.created_at, changed.last_sequence) == (made.created_at, 1)
    for worker in (bus, other):
        stream = worker.commands.pull(["p"], 1)
        (delivery,) = await take(stream, 1)
        delivery.ack()
        await stream.aclose()
        await command(bus, "next", "p")
    consumer = await other.log._jetstream.consumer_info("noetl_events", "pool_p")
    assert consumer is not None
    assert consumer.config["ack_wait"] == 7_000_000_000


async def test_a_log_the_broker_has_no_room_for_is_refused(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    settings = BusSettings(urls=server.url, log_bytes_max=1 << 50)
    try:
        async with NatsBus.connect(settings, Counting()) as bus:
            with pytest.raises(SettingsError, match="disk limits"):
                await bus.ensure_log(create=True)
    finally:
        server.stop()
