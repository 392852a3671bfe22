"""Tests of tools import what they share by name."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from web_server import WebServer, web_server

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
async def server() -> AsyncIterator[WebServer]:
    """A server of the web that answers what a test tells it."""
    async with web_server() as found:
        yield found
