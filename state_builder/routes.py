"""The server as the roles that are its clients see it: any route, any status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from state_builder.records import JSON


class ServerRoutes(Protocol):
    """The client's way to ask: status and body, whatever the status."""

    async def exchange(
        self,
        method: str,
        path: str,
        body: JSON = None,
        query: Mapping[str, str | int] | None = None,
    ) -> tuple[int, JSON]:
        """Raises UnavailableError when the server cannot be reached."""


class ByteRoutes(ServerRoutes, Protocol):
    """And bytes, as they are."""

    async def put_bytes(self, path: str, data: bytes) -> None:
        """Raises NoetlError, of a refusal too."""
