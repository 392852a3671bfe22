"""Opaque bytes under a name, on both adapters."""

from __future__ import annotations

import asyncio

import pytest
from bus_fleet import Fleet

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("size", [0, 1, 131_072, 131_073, 5_000_000])
async def test_what_was_put_is_what_is_got(
    fleet: Fleet, unique_name: str, size: int
) -> None:
    """RT-NATS buckets: of any size, chunked below the message limit."""
    bus, other = await fleet.bus(), await fleet.bus()
    data = bytes(number * 7 % 251 for number in range(1000)) * (size // 1000 + 1)
    await bus.blobs(unique_name).put("a name/é", data[:size])
    assert await other.blobs(unique_name).get("a name/é") == data[:size]


async def test_missing_is_none(fleet: Fleet, unique_name: str) -> None:
    bus = await fleet.bus()
    blobs = bus.blobs(unique_name)
    assert await blobs.get("a") is None
    assert await blobs.names("") == []
    await blobs.delete("a")
    await blobs.put("b", b"x")
    assert await blobs.get("a") is None


async def test_the_same_name_again_replaces(fleet: Fleet, unique_name: str) -> None:
    bus = await fleet.bus()
    blobs = bus.blobs(unique_name)
    await blobs.put("a", b"first" * 100_000)
    await blobs.put("a", b"second")
    assert await blobs.get("a") == b"second"
    assert await blobs.names("") == ["a"]


async def test_names_are_listed_by_prefix_and_deleted(
    fleet: Fleet, unique_name: str
) -> None:
    bus = await fleet.bus()
    blobs = bus.blobs(unique_name)
    listed = ["shard-1/2", "shard-1/10", "shard-2/1", "x"]
    await asyncio.gather(*(blobs.put(name, b"1") for name in listed))
    assert await blobs.names("shard-1/") == ["shard-1/10", "shard-1/2"]
    await blobs.delete("shard-1/10")
    assert await blobs.names("") == ["shard-1/2", "shard-2/1", "x"]
    assert await blobs.get("shard-1/10") is None


async def test_buckets_are_apart(fleet: Fleet, unique_name: str) -> None:
    bus = await fleet.bus()
    await bus.blobs(f"{unique_name}_a").put("n", b"a")
    await bus.blobs(f"{unique_name}_b").put("n", b"b")
    assert await bus.blobs(f"{unique_name}_a").get("n") == b"a"
