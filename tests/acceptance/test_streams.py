"""200 MB pass through a worker that may have 512 MB, and come out as they went in."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fleet_client import Fleet, fleet, playbook
from web_server import Seen, WebServer, reply, web_server

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

MIB = 1024 * 1024
SIZE = 200 * MIB
MEMORY = 512 * MIB
PIECE = bytes(range(256)) * (MIB // 256)

STEPS = """
  - step: start
    tool:
      kind: http
      url: "{{ workload.url }}/{{ workload.what }}"
      response_type: stored
      timeout: 120
    next: send
  - step: send
    tool:
      kind: http
      method: PUT
      url: "{{ workload.url }}/in"
      body_ref: "{{ start.body.ref }}"
      timeout: 120
    next: keep
  - step: keep
    tool: {kind: artifact, action: put, source: "{{ start.body }}", uri: "file:kept.bin"}
    next: end
  - step: end
    tool: {kind: noop, result: ["{{ start.body.sha256 }}", "{{ keep.sha256 }}", "{{ send.body }}"]}
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("streams")
    limit = {"NOETL_RESULT_STREAM_MAX_BYTES": str(SIZE)}
    async with fleet(folder / "data", env=limit) as found:
        await found.client.register(playbook("streams/through", STEPS))
        yield found


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        server.answers["/big"] = big
        server.answers["/too_big"] = too_big
        server.answers["/in"] = taken
        yield server


def taken(seen: Seen) -> bytes:
    digest = sha256(seen.body).hexdigest()
    seen.body = b""
    return reply({"sha256": digest})


async def big(writer: asyncio.StreamWriter) -> None:
    await written(writer, SIZE)


async def too_big(writer: asyncio.StreamWriter) -> None:
    await written(writer, SIZE + MIB)


async def written(writer: asyncio.StreamWriter, size: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(size // MIB):
        writer.write(PIECE)
        await writer.drain()


async def run(found: Fleet, **workload: Any) -> Any:
    execution_id = await found.start("streams/through", **workload)
    await found.ended([execution_id])
    rows = await found.rows(
        "SELECT status, error, result::json AS result FROM noetl.execution "
        "WHERE execution_id = $1",
        int(execution_id),
    )
    return rows[0]


def peak(pid: int) -> int:
    """Most memory a process ever had at once."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel says no VmHWM")


async def test_200_mb_pass_through_a_worker_of_512_mb(
    running: Fleet, web: WebServer
) -> None:
    """TL-RR-01, TL-AR-04: from a body to the store, to a server and to a file."""
    pid = next(
        pid for name, pid in running.stack.pids().items() if name.startswith("worker")
    )
    resource.prlimit(pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
    before = peak(pid)
    digest = sha256(PIECE * (SIZE // MIB)).hexdigest()
    row = await run(running, url=web.url, what="big")
    assert row["status"] == "COMPLETED", row["error"]
    assert digest in row["result"] and row["result"].count(digest) == 3
    assert peak(pid) - before < 100 * MIB


async def test_more_than_may_be_streamed_is_a_clear_failure(
    running: Fleet, web: WebServer
) -> None:
    """TL-LIM-04: the step fails with the limit and what to do about it."""
    row = await run(running, url=web.url, what="too_big")
    assert row["status"] == "FAILED"
    assert "NOETL_RESULT_STREAM_MAX_BYTES" in row["error"]
    assert f"{SIZE:,}" in row["error"]
