"""Live streams: what happened, then what happens, once and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from msgspec.json import decode
from server_edge import PLAYBOOK, Fleet, event, running_edge

from noetl_worker.client import ClientOptions, NoetlClient
from noetl_worker.listener import Address, Listener
from noetl_worker.server import create_app, streams
from noetl_worker.server.streams import END_ONLY, HEARTBEAT
from state_builder.errors import NotFoundError

pytestmark = pytest.mark.anyio

PATIENCE_S = 10.0


async def started(fleet: Fleet) -> str:
    await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
    return await fleet.start()


def frame(chunk: bytes) -> list[dict[str, Any]]:
    """The events of some frames."""
    found = []
    for part in chunk.decode().split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in part.splitlines()
            if not line.startswith(":")
        )
        if "data" in fields:
            found.append({**fields, "data": decode(fields["data"])})
    return found


async def told(frames: AsyncIterator[bytes], count: int) -> list[dict[str, Any]]:
    """The next events of a stream."""
    found: list[dict[str, Any]] = []
    with anyio.fail_after(PATIENCE_S):
        while len(found) < count:
            found += frame(await anext(frames))
    return found


async def rest(frames: AsyncIterator[bytes]) -> list[dict[str, Any]]:
    """Every event until the stream ends."""
    with anyio.fail_after(PATIENCE_S):
        return [event async for chunk in frames for event in frame(chunk)]


async def test_history_comes_first_then_events_as_they_are_logged() -> None:
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.append(eid, event("step.enter", "start"))
        frames = fleet.edge.streams.frames(eid, 0)
        past = await told(frames, 2)
        await fleet.append(eid, event("step.exit", "start"), event("note.taken"))
        await fleet.append("77", event("note.taken"))
        await fleet.append(eid, event("playbook.completed"))
        coming = await rest(frames)
    everything = past + coming
    assert [e["event"] for e in everything] == [
        "playbook_started",
        "step.enter",
        "step.exit",
        "note.taken",
        "playbook.completed",
    ]
    ids = [int(e["id"]) for e in everything]
    assert ids == sorted(set(ids))
    links = [e["data"]["prev_event_id"] for e in everything]
    assert links == [None, *(e["id"] for e in everything[:-1])]
    assert all(e["data"]["catalog_id"].isdecimal() for e in everything)


async def test_a_client_may_ask_for_some_types_and_always_gets_the_end() -> None:
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.append(eid, event("step.enter", "start"))
        frames = fleet.edge.streams.frames(eid, 0, frozenset({"step.enter"}))
        past = await told(frames, 1)
        await fleet.append(eid, event("step.exit", "start"), event("note.taken"))
        await fleet.append(eid, event("playbook.completed"))
        coming = await rest(frames)
        everything = await rest(fleet.edge.streams.frames(eid, 0))
        the_end = await rest(fleet.edge.streams.frames(eid, 0, frozenset({"terminal"})))
    assert [e["event"] for e in past + coming] == ["step.enter", "playbook.completed"]
    assert [e["event"] for e in the_end] == ["playbook.completed"]
    # A link leads to the event before, told or not.
    assert coming[-1]["data"] == the_end[-1]["data"] == everything[-1]["data"]


@pytest.mark.parametrize(
    "events", [("step.exit", "playbook.completed"), ("playbook.completed",)]
)
@pytest.mark.parametrize("heard", [True, False])
async def test_who_waits_for_the_end_alone_is_told_it_once(
    events: tuple[str, ...], heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the owner's signal was lost: who waits looks for itself."""
    monkeypatch.setattr(streams, "END_AGAIN_S", 0.05)
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.append(eid, event("step.enter", "start"))
        frames = fleet.edge.streams.frames(eid, 0, END_ONLY)
        assert await anext(frames) == b"retry: 1000\n\n"
        assert await anext(frames) == HEARTBEAT
        place = await fleet.append(eid, *map(event, events))
        if heard:
            fleet.bus.signals.ended(eid, place)
        coming = await rest(frames)
        everything = await rest(fleet.edge.streams.frames(eid, 0))
    assert [e["event"] for e in coming] == ["playbook.completed"]
    assert coming[-1]["data"] == everything[-1]["data"]


async def test_a_client_that_comes_back_misses_nothing_and_sees_nothing_twice() -> None:
    """RT-IDX: resumed by the id of the last event seen."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        for number in range(5):
            await fleet.append(eid, event(f"note.n{number}"))
        first = fleet.edge.streams.frames(eid, 0)
        seen = await told(first, 3)
        await first.aclose()
        await fleet.append(eid, event("playbook.completed"))
        again = await rest(fleet.edge.streams.frames(eid, int(seen[-1]["id"])))
    total = [e["event"] for e in seen + again]
    assert total == [
        "playbook_started",
        *(f"note.n{number}" for number in range(5)),
        "playbook.completed",
    ]


async def test_what_is_materialized_comes_from_rows_and_the_rest_from_the_log() -> None:
    """A server that knows nothing of the start tells the same story."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.append(eid, event("step.enter", "start"))
        await fleet.materialize()
        await fleet.append(eid, event("step.exit", "start"))
        await fleet.append(eid, event("playbook.completed"))
        near = await rest(fleet.edge.streams.frames(eid, 0))
        fleet.edge.live._facts.clear()
        fleet.edge.streams._history._starts.clear()
        far = await rest(fleet.edge.streams.frames(eid, 0))
    assert [e["event"] for e in far] == [
        "playbook_started",
        "step.enter",
        "step.exit",
        "playbook.completed",
    ]
    assert [e["id"] for e in far] == [e["id"] for e in near]
    for one, other in zip(far, near, strict=True):
        assert one["data"] == other["data"]


async def test_two_servers_tell_the_same_stream() -> None:
    """RT-AFF-5: no correctness-relevant state in server memory."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        streams = [fleet.edge.streams.frames(eid, 0) for _ in range(3)]
        past = [await told(frames, 1) for frames in streams]
        await fleet.append(eid, event("playbook.completed"))
        coming = [await rest(frames) for frames in streams]
    assert past[0] == past[1] == past[2]
    assert coming[0] == coming[1] == coming[2]
    assert [e["event"] for e in coming[0]] == ["playbook.completed"]


async def test_a_quiet_stream_says_that_it_lives() -> None:
    async with running_edge(stream_heartbeat_s=0.01) as fleet:
        eid = await started(fleet)
        frames = fleet.edge.streams.frames(eid, 0)
        await told(frames, 1)
        with anyio.fail_after(PATIENCE_S):
            assert await anext(frames) == b": heartbeat\n\n"
        await frames.aclose()
        assert fleet.edge.hub._listeners == {}


async def test_a_reader_too_far_behind_is_told_and_let_go() -> None:
    """Bounded buffers: nobody waits for the slowest (RT-OBS-4: and it is counted)."""
    async with running_edge(stream_events_max=3) as fleet:
        eid = await started(fleet)
        frames = fleet.edge.streams.frames(eid, 0)
        await told(frames, 1)
        other = await fleet.edge.hub.join(eid)
        for number in range(5):
            await fleet.append(eid, event(f"note.n{number}"))
        with anyio.fail_after(PATIENCE_S):
            while not other.closed:
                await other.wait(PATIENCE_S)
                await anyio.sleep(0)
        chunks = [chunk async for chunk in frames]
        page = (await fleet.http.get("/metrics")).text
    assert chunks[-1].startswith(b": closed (slow)")
    assert 'noetl_streams_dropped_total{reason="slow"} 2.0' in page


async def test_a_stopping_server_ends_its_streams() -> None:
    """RT-WRK-22: an open stream does not hold up the shutdown."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        frames = fleet.edge.streams.frames(eid, 0)
        await told(frames, 1)
        fleet.stop.set()
        assert await rest(frames) == []


async def test_a_log_that_cannot_be_followed_ends_the_stream_with_a_reason() -> None:
    async with running_edge() as fleet:
        eid = await started(fleet)
        fleet.bus.disconnect()
        frames = fleet.edge.streams.frames(eid, 0)
        fleet.edge.hub.join_s = 0.01
        with anyio.fail_after(PATIENCE_S):
            chunks = [chunk async for chunk in frames]
        fleet.bus.reconnect()
    assert chunks[-1].startswith(b": unavailable")


async def test_an_events_route_streams_where_a_stream_is_accepted() -> None:
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.append(eid, event("playbook.completed"))
        headers = {"accept": "text/event-stream"}
        answer = await fleet.http.get(f"/api/executions/{eid}/events", headers=headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = frame(answer.content)
        over = await fleet.http.get(
            f"/api/executions/{eid}/stream",
            headers={"last-event-id": events[-1]["id"]},
        )
    assert [e["event"] for e in events] == ["playbook_started", "playbook.completed"]
    assert over.status_code == 204


@asynccontextmanager
async def served(fleet: Fleet) -> AsyncIterator[NoetlClient]:
    """The same edge behind a real socket, and a client of it."""
    listener = Listener(create_app(fleet.edge), Address(host="127.0.0.1", port=0))
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.run, stop)
        options = ClientOptions(url=f"http://127.0.0.1:{listener.port}")
        async with NoetlClient(options) as client:
            yield client
        stop.set()


async def test_the_client_follows_to_the_end_over_a_real_socket() -> None:
    async with running_edge() as fleet, served(fleet) as client:
        await client.register(PLAYBOOK)
        eid = str((await client.execute("tests/hello"))["execution_id"])
        seen = []
        with anyio.fail_after(PATIENCE_S):
            async for found in client.stream(eid):
                seen.append(found.type)
                if found.type == "playbook_started":
                    await fleet.append(eid, event("playbook.completed"))
        assert seen == ["playbook_started", "playbook.completed"]
        with pytest.raises(NotFoundError, match="not known"):
            await anext(client.stream("5"))


async def test_the_client_comes_back_after_the_last_event_it_saw() -> None:
    """A connection that breaks costs nothing but a moment."""
    async with running_edge() as fleet, served(fleet) as client:
        await client.register(PLAYBOOK)
        eid = str((await client.execute("tests/hello"))["execution_id"])
        seen = []
        with anyio.fail_after(PATIENCE_S):
            async for found in client.stream(eid):
                seen.append(found.type)
                if found.type == "playbook_started":
                    fleet.edge.hub._close_all("interrupted")
                    await fleet.append(eid, event("note.taken"))
                elif found.type == "note.taken":
                    await fleet.append(eid, event("playbook.completed"))
    assert seen == ["playbook_started", "note.taken", "playbook.completed"]
