"""A web server that always answers the same: ``python -m bench.web PORT``.

As little work for each request as there can be, so that callers are what is measured.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

_BODY = b'{"value": 42}'
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class Answering(asyncio.Protocol):
    """Answers as many requests without a body as there are in what came."""

    def __init__(self) -> None:
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller is there."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Requests end with an empty line."""
        *requests, self._rest = (self._rest + data).split(b"\r\n\r\n")
        if requests and self._transport is not None:
            self._transport.write(_ANSWER * len(requests))


async def serve(port: int) -> None:
    """Answer for ever."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
