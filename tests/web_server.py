"""A real HTTP server of a few lines: what it answers is bytes, so it may misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    """A request as it arrived; header names lower-case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class WebServer:
    """Answers by path; remembers requests."""

    port: int = 0
    answers: dict[str, Answer | Callable[[Seen], Answer]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task: Any = asyncio.current_task()
        self.tasks.add(task)
        self.connections += 1
        gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with suppress(*gone):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head, reader, writer)
        self.tasks.discard(task)
        writer.close()
        with suppress(*gone):
            await writer.wait_closed()

    async def close(self) -> None:
        """Hang up on everybody."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        first, *rest = head.decode("latin-1").strip().split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.split(": ", 1) for line in rest)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        seen = Seen(method, target, headers, body)
        self.seen.append(seen)
        answer = self.answers.get(seen.path, echo)
        if callable(answer) and answer is not echo and not _streams(answer):
            answer = answer(seen)  # type: ignore[assignment, call-arg, arg-type]
        if answer is echo:
            answer = echo(seen)
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(writer)  # type: ignore[operator, arg-type, misc]


def _streams(answer: Any) -> bool:
    return asyncio.iscoroutinefunction(answer)


def reply(
    body: Any = b"", status: int = 200, reason: str = "OK", **headers: str
) -> bytes:
    """A whole answer; what is no bytes is JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if not isinstance(body, bytes):
        named.setdefault("content-type", "application/json")
        body = json.dumps(body).encode()
    named.setdefault("content-length", str(len(body)))
    lines = [f"HTTP/1.1 {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in named.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def echo(seen: Seen) -> bytes:
    """What was asked, as JSON."""
    return reply(
        {
            "method": seen.method,
            "target": seen.target,
            "headers": seen.headers,
            "body": seen.body.decode("utf-8", "replace"),
        }
    )


@asynccontextmanager
async def web_server(
    host: str = "127.0.0.1", ssl: Any = None
) -> AsyncIterator[WebServer]:
    """A server on a free port."""
    server = WebServer()
    listening = await asyncio.start_server(server.serve, host, 0, ssl=ssl)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await server.close()
