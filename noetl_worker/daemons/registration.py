"""A tool worker says to the server that it is there, and with which key (RT-WPL).

The public key is what credentials are sealed to (SC-SE-01): a new one at every start,
good for as long as the heartbeats come. The server may be away at any time; whoever
runs without credentials does not notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import anyio
import structlog

from state_builder.errors import UnavailableError
from state_builder.ports import Clock
from state_builder.records import JSON
from state_builder.routes import ServerRoutes

log = structlog.get_logger(__name__)

FAREWELL_S: Final = 2.0
KIND: Final = "worker_pool"


@dataclass(frozen=True, kw_only=True)
class Presence:
    """What a worker says of itself."""

    worker_id: str
    public_key: str
    pools: tuple[str, ...]
    slots: int
    hostname: str = ""
    heartbeat_s: float = 15.0


class Registration:
    """Registers, beats, and says good-bye."""

    def __init__(self, server: ServerRoutes, presence: Presence, clock: Clock) -> None:
        self._server = server
        self._presence = presence
        self._clock = clock

    async def run(self, stop: anyio.Event) -> None:
        """Until ``stop``."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._beat)
            await stop.wait()
            tasks.cancel_scope.cancel()
        with anyio.move_on_after(FAREWELL_S):
            try:
                body: JSON = {"name": self._presence.worker_id, "kind": KIND}
                await self._server.exchange("POST", "/api/worker/pool/deregister", body)
            except UnavailableError:
                log.info("worker.left_unsaid", reason="the server is away")

    async def register(self) -> None:
        """Now. Raises UnavailableError."""
        me = self._presence
        body: JSON = {
            "name": me.worker_id,
            "kind": KIND,
            "status": "ready",
            "hostname": me.hostname,
            "capacity": me.slots,
            "capabilities": {"pools": list(me.pools)},
            "worker_public_key": me.public_key,
        }
        status, _ = await self._server.exchange(
            "POST", "/api/worker/pool/register", body
        )
        if status != HTTPStatus.OK:
            raise UnavailableError(
                f"the server does not register this worker (status {status}): is "
                "NOETL_INTERNAL_API_TOKEN the same on both sides?"
            )

    async def _beat(self) -> None:
        registered = False
        body: JSON = {"name": self._presence.worker_id, "kind": KIND}
        while True:
            try:
                if not registered:
                    await self.register()
                    registered = True
                else:
                    status, _ = await self._server.exchange(
                        "POST", "/api/worker/pool/heartbeat", body
                    )
                    registered = status == HTTPStatus.OK
            except UnavailableError as error:
                log.warning("worker.unregistered", reason=str(error))
            await self._clock.sleep(self._presence.heartbeat_s)
