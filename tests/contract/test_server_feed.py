"""The lifecycle feed of gateways (RT-API-20)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from server_edge import Fleet, event, running_edge

from noetl_worker.listener import Address, Listener
from noetl_worker.server import create_feed

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def feed_of(fleet: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    """The feed on a port of its own."""
    stop = anyio.Event()
    address = Address(host="127.0.0.1", port=0)
    listener = Listener(create_feed(fleet.edge), address, drain_s=1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.run, stop)
        url = f"http://127.0.0.1:{listener.port}"
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield client
        stop.set()


async def told(
    client: httpx.AsyncClient, count: int, when: Any = None, **request: Any
) -> list[tuple[int, dict[str, Any]]]:
    """So many frames: their ids and events. ``when`` is awaited once connected."""
    found: list[tuple[int, dict[str, Any]]] = []
    number = 0
    async with client.stream("GET", "/feed", **request) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        with anyio.fail_after(10):
            async for line in answer.aiter_lines():
                if line.startswith(":") and when is not None:
                    now, when = when, None
                    await now()
                if line.startswith("id: "):
                    number = int(line[4:])
                if line.startswith("data: "):
                    payload = json.loads(line[6:])["payload"]
                    found.append((number, json.loads(payload)))
                if len(found) == count:
                    return found
    raise AssertionError(f"the feed ended after {found}")


async def write(fleet: Fleet) -> None:
    """Two executions: a step each, the first one ends."""
    exit_a = event("step.exit", "a", result={"status": "ok", "context": {"n": 1}})
    await fleet.append("701", event("step.enter", "a"), exit_a)
    await fleet.append("702", event("step.exit", "b"))
    await fleet.append("701", event("playbook.completed", status="COMPLETED"))


async def test_the_feed_tells_all_executions_and_goes_on_after_a_cursor() -> None:
    """RT-API-20: ids only rise, ``Last-Event-ID`` wins over ``cursor``."""
    async with running_edge() as fleet, feed_of(fleet) as client:
        await write(fleet)
        everything = await told(client, 3, params={"shard": "0", "cursor": "0"})
        cursor = str(everything[0][0])
        later = await told(client, 2, params={"cursor": cursor})
        resumed = await told(
            client, 1, headers={"last-event-id": str(later[0][0])}, params={"cursor": 0}
        )
    ids = [number for number, _ in everything]
    assert ids == sorted(set(ids))
    shown = [(e["execution_id"], e["event_type"]) for _, e in everything]
    assert shown == [
        ("701", "step.exit"),
        ("702", "step.exit"),
        ("701", "playbook.completed"),
    ]
    first = everything[0][1]
    assert (first["node_name"], first["event_id"]) == ("a", cursor)
    assert first["result"]["context"] == {"n": 1}
    assert everything[2][1]["status"] == "COMPLETED"
    assert later == everything[1:]
    assert resumed == everything[2:]


async def test_without_a_cursor_the_feed_begins_now() -> None:
    async with running_edge() as fleet, feed_of(fleet) as client:
        await fleet.append("700", event("step.exit", "before"))
        found = await told(client, 3, when=lambda: write(fleet))
    assert {e["execution_id"] for _, e in found} == {"701", "702"}


@pytest.mark.parametrize("query", ["shard=1", "cursor=x", "cursor=-1"])
async def test_what_is_no_place_of_the_feed_is_refused(query: str) -> None:
    async with running_edge() as fleet, feed_of(fleet) as client:
        answer = await client.get(f"/feed?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"]
