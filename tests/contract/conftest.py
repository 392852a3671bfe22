"""The fleet every contract test runs on: once in memory, once on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from bus_fleet import Fleet, MemoryFleet, NatsFleet, small_settings
from services import NatsServer


@pytest.fixture(params=["memory", "nats"])
async def fleet(
    request: pytest.FixtureRequest, nats_server: NatsServer, unique_name: str
) -> AsyncIterator[Fleet]:
    kinds = {"memory": MemoryFleet, "nats": NatsFleet}
    fleet = kinds[request.param](small_settings(nats_server, unique_name))
    yield fleet
    await fleet.close()
