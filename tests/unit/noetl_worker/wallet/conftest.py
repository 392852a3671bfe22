"""A wallet and a web server for the tests of this room."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from keychain_cases import ENV
from wallet_world import World, wallet_world
from web_server import WebServer, web_server


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with wallet_world(providers=ENV) as found:
        yield found


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server
