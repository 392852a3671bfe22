"""One connection to the broker: its state, its pulse, and requests over one inbox.

Reconnects for ever with jittered back-off. Whoever must act on a change of state
registers for it; callbacks are plain functions, called in order of registration.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import structlog
from nats.aio.client import Server

from noetl_worker.bus.nats.client import DirectClient, Handler
from noetl_worker.bus.nats.wire import NO_RESPONDERS, Reply, publish_frame, status_of
from noetl_worker.bus.topology import (
    BROKER_VERSION_MIN,
    BusSettings,
    Servers,
    split_urls,
)
from state_builder.errors import SettingsError, UnavailableError
from state_builder.ports import Observer

PULSE_S = 0.25
"""How often deadlines are looked at."""

log = structlog.get_logger(__name__)


class Connection:
    """A connected client and what its users share.

    Attributes:
        connected: messages sent now reach the broker, as far as anybody knows.
        reconnects: how often the connection was made anew.
        name: unique among all connections.
        alive_at: when this process last had the loop, by the loop's clock.
        heard_at: when the broker last said anything, as of the last pulse.
    """

    def __init__(self, settings: BusSettings, observer: Observer) -> None:
        self.settings = settings
        self.observer = observer
        self.client = DirectClient()
        self.connected = False
        self.reconnects = 0
        self.loop = asyncio.get_running_loop()
        self.alive_at = self.heard_at = self.loop.time()
        self._heard = 0
        self._on_state: list[Callable[[bool], None]] = []
        self._on_pulse: list[Callable[[float], None]] = []
        self._pulse_handle: asyncio.TimerHandle | None = None
        self._up = asyncio.Event()
        self._last_error = "no answer"
        self.name = ""
        self._inbox = ""
        self._tokens = itertools.count(1)
        self._replies: dict[bytes, Callable[[Reply], None]] = {}

    async def open(self) -> None:
        """Connect.

        Raises:
            UnavailableError: no broker answered in time; the last reason is named.
            SettingsError: unusable address, or a broker that is too old.
        """
        settings = self.settings
        servers = split_urls(settings.urls, settings.user, settings.password)
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await self._connect(servers)
            self._check_version()
        except TimeoutError as error:
            await self.client.abandon()
            raise UnavailableError(
                f"no NATS server at {', '.join(servers.urls)} within "
                f"{settings.connect_timeout_s:g} s: {self._last_error}"
            ) from error
        except SettingsError:
            await self.client.abandon()
            raise
        self._inbox = self.client.new_inbox()
        self.name = self._inbox.rpartition(".")[2]
        self.client.listen(f"{self._inbox}.*", self._answered)
        self.connected = True
        self._up.set()
        self.observer.gauge("noetl_bus_connected", 1.0)
        self._beat()
        log.info("bus.connected", servers=servers.urls)

    async def close(self) -> None:
        """Send what was written, then leave; afterwards nothing is answered."""
        if self._pulse_handle is not None:
            self._pulse_handle.cancel()
        self.client.write_now()
        self.connected = False
        await self.client.close()
        for answer in list(self._replies.values()):
            answer(Reply(b"", NO_RESPONDERS, b""))
        self._replies.clear()
        log.info("bus.closed")

    def on_state(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call back with True after a reconnect and False after a disconnect."""
        self._on_state.append(callback)
        return lambda: self._on_state.remove(callback)

    def on_pulse(self, callback: Callable[[float], None]) -> Callable[[], None]:
        """Call back with the loop's time a few times a second; returns how to stop."""
        self._on_pulse.append(callback)
        return lambda: self._on_pulse.remove(callback)

    def new_inbox(self) -> str:
        """A subject nobody else uses."""
        return self.client.new_inbox()

    def listen(self, subject: str, handler: Handler) -> int:
        """See :meth:`DirectClient.listen`."""
        return self.client.listen(subject, handler)

    def mute(self, sid: int, linger_s: float = 0.0) -> None:
        """Stop a subscription; its handler gets what still arrives in ``linger_s``."""
        self.client.mute(sid)
        if linger_s:
            self.loop.call_later(linger_s, self.client.forget, sid)
        else:
            self.client.forget(sid)

    def send(self, frame: bytes) -> bool:
        """Send a frame at the end of this turn; False when there is no connection."""
        return self.client.write_soon(frame)

    def expect(self, answer: Callable[[Reply], None]) -> tuple[bytes, str]:
        """A token and the reply subject whose messages go to ``answer``."""
        token = b"%d" % next(self._tokens)
        self._replies[token] = answer
        return token, f"{self._inbox}.{token.decode()}"

    def unexpect(self, token: bytes) -> None:
        """Ignore further answers under this token."""
        self._replies.pop(token, None)

    async def request(
        self, frame_for: Callable[[str], bytes], timeout_s: float
    ) -> Reply:
        """Send what ``frame_for`` makes of a reply subject; the first answer.

        Raises:
            UnavailableError: not connected, or no answer in time: whether the message
                arrived is not known.
        """
        answer: asyncio.Future[Reply] = self.loop.create_future()

        def answered(reply: Reply) -> None:
            if not answer.done():
                answer.set_result(reply)

        token, reply_subject = self.expect(answered)
        try:
            if not self.send(frame_for(reply_subject)):
                raise UnavailableError("not connected to the NATS server")
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise UnavailableError(
                f"no answer from the NATS server within {timeout_s:g} s"
            ) from error
        finally:
            self.unexpect(token)

    async def ask(self, subject: str, payload: bytes, timeout_s: float) -> Reply:
        """A request without headers; see :meth:`request`."""
        return await self.request(
            lambda reply: publish_frame(subject, payload, reply), timeout_s
        )

    async def wait_up(self) -> None:
        """Until there is a connection."""
        await self._up.wait()

    async def _connect(self, servers: Servers) -> None:
        await self.client.connect(
            servers.urls,
            user=servers.user or None,
            password=servers.password or None,
            name=self.settings.client_name,
            error_cb=self._failed,
            disconnected_cb=self._went_down,
            reconnected_cb=self._came_up,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            # Typed as whole seconds, used as what it is: the pause between tries.
            reconnect_time_wait=0.2,  # type: ignore[arg-type]
            connect_timeout=max(1, int(self.settings.connect_timeout_s / 2)),
            reconnect_to_server_handler=self._next_server,
            ping_interval=10,
            max_outstanding_pings=2,
            pending_size=0,  # keep nothing across a reconnect
        )

    def _answered(
        self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        del reply
        answer = self._replies.get(subject[len(self._inbox) + 1 :])
        if answer is not None:
            answer(Reply(data, status_of(headers), headers or b""))

    def _beat(self) -> None:
        now = self.loop.time()
        heard = self.client.heard
        if heard != self._heard:
            # Some time since the last look: the start of that time is the safe guess.
            self._heard, self.heard_at = heard, self.alive_at
        for callback in tuple(self._on_pulse):
            callback(now)
        self.alive_at = now
        self._pulse_handle = self.loop.call_later(PULSE_S, self._beat)

    def _check_version(self) -> None:
        version = self.client.connected_server_version
        found = (int(version.major), int(version.minor), int(version.patch))
        if found < BROKER_VERSION_MIN:
            raise SettingsError(
                f"NATS server {'.'.join(map(str, found))} is too old: "
                f"{'.'.join(map(str, BROKER_VERSION_MIN))} or newer is needed"
            )

    def _next_server(
        self, servers: list[Server], info: dict[str, Any]
    ) -> tuple[Server | None, float]:
        """The server tried least often, after a jittered, doubling pause."""
        del info
        server = min(servers, key=lambda each: each.reconnects)
        ceiling = min(
            self.settings.reconnect_wait_max_s, 0.05 * 2 ** min(server.reconnects, 10)
        )
        # Jitter only spreads clients over time; nothing is derived from it.
        return server, random.uniform(ceiling / 2, ceiling)

    async def _failed(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        # Who is refused is cut off right after: the refusal is what people must know.
        refused = "authorization" in self._last_error.lower()
        if text != self._last_error and not (refused and "reset" in text):
            self._last_error = text
            log.warning("bus.failed", error=text)

    async def _went_down(self) -> None:
        self.client.discard_unsent()
        if not self.connected:
            return
        self.connected = False
        self._up.clear()
        self.observer.gauge("noetl_bus_connected", 0.0)
        log.warning("bus.disconnected")
        for callback in tuple(self._on_state):
            callback(False)

    async def _came_up(self) -> None:
        self.connected = True
        self.reconnects += 1
        self._last_error = "no answer"
        self.observer.gauge("noetl_bus_connected", 1.0)
        self.observer.count("noetl_bus_reconnects_total")
        log.info("bus.reconnected", reconnects=self.reconnects)
        for callback in tuple(self._on_state):
            callback(True)
        self._up.set()
