"""The HTTP server of a process: uvicorn in our own event loop.

Knows sockets and shutdown, not routes. Signals are the role's business, so uvicorn
installs no handlers; stopping waits for requests at hand and then for nobody.
"""

from __future__ import annotations

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket
from typing import cast

import anyio
import structlog
import uvicorn
from litestar.types import ASGIApp
from uvicorn._types import ASGIApplication

from state_builder.errors import SettingsError

log = structlog.get_logger(__name__)

BACKLOG = 2048
KEEP_ALIVE_S = 75


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen; port 0 takes a free one.

    Attributes:
        cert, key, client_ca: files for TLS; a client authority asks clients for theirs.
    """

    host: str
    port: int
    cert: str = ""
    key: str = ""
    client_ca: str = ""


def parse_address(text: str, port: int) -> Address:
    """``host:port``, ``:port`` or ``host`` as an address. Raises SettingsError."""
    host, colon, number = text.strip().rpartition(":")
    if not colon or number.endswith("]"):
        host, number = text.strip(), str(port)
    if not number.isdecimal() or int(number) > 65535:
        raise SettingsError(f"address {text!r}: use host:port")
    return Address(host=host.strip("[]") or "0.0.0.0", port=int(number))


class Listener:
    """One listening socket and the server behind it.

    The socket is open when the constructor returns, so a port that is taken is known
    before anything else starts.
    """

    def __init__(self, app: ASGIApp, address: Address, drain_s: float = 10.0) -> None:
        self._socket = _listen(address)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            cast(ASGIApplication, app),
            loop="none",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(drain_s) or 1,
            ssl_certfile=address.cert or None,
            ssl_keyfile=address.key or None,
            ssl_ca_certs=address.client_ca or None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if address.client_ca else ssl.CERT_NONE,
        )
        self._server = _Server(config)

    async def run(self, stop: anyio.Event) -> None:
        """Serve until ``stop``; then finish requests at hand."""
        host, port = self._socket.getsockname()[:2]
        log.info("listener.opened", host=host, port=port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end, stop)
            # The socket is handed over: uvicorn closes it when it stops.
            await self._server.serve(sockets=[self._socket])
            tasks.cancel_scope.cancel()
        if not self._server.started:
            raise SettingsError(f"the HTTP application on port {port} did not start")
        log.info("listener.closed", port=port)

    def close(self) -> None:
        """Give up the socket of a listener that was never run."""
        self._socket.close()

    async def _end(self, stop: anyio.Event) -> None:
        await stop.wait()
        self._server.should_exit = True


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _listen(address: Address) -> socket:
    family = AF_INET6 if ":" in address.host else AF_INET
    opened = socket(family, SOCK_STREAM)
    try:
        opened.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        opened.bind((address.host, address.port))
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise SettingsError(
            f"cannot listen on {address.host}:{address.port}: {error.strerror}; "
            "choose another port or stop what uses it"
        ) from error
    opened.setblocking(False)
    return opened
