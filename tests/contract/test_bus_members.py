"""Heartbeats, on both adapters."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from bus_fleet import Fleet

pytestmark = pytest.mark.anyio


async def test_members_are_alive_until_they_leave(fleet: Fleet) -> None:
    bus, other = await fleet.bus(), await fleet.bus()
    assert await bus.members.alive() == {}
    await bus.members.beat("a", {"shards": [1, 2]})
    await other.members.beat("b.1/é ~=", {"version": None})
    await bus.members.beat("a", {"shards": [3]})
    expected = {"a": {"shards": [3]}, "b.1/é ~=": {"version": None}}
    assert await other.members.alive() == expected
    await other.members.leave("a")
    await other.members.leave("never there")
    assert await bus.members.alive() == {"b.1/é ~=": {"version": None}}


async def test_a_member_without_a_heartbeat_dies(fleet: Fleet) -> None:
    """Design §2: the time to live decides."""
    bus = await fleet.bus()
    started = fleet.elapsed()
    await bus.members.beat("a", {})
    await bus.members.beat("b", {})
    with anyio.fail_after(10):
        while "a" in await bus.members.alive():
            fleet.pass_time(0.1)
            await bus.members.beat("b", {})
            await asyncio.sleep(0.01)
    assert fleet.elapsed() - started >= 1.0
    assert await bus.members.alive() == {"b": {}}
