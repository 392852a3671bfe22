"""Bodies and files that pass through a worker piece by piece (TL §3.3, §3.10)."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tool_calls
from web_server import Seen, WebServer, reply, web_server

from noetl_worker.lifecycle import SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.artifacts import StepValues
from noetl_worker.results.objects import open_store
from noetl_worker.results.values import Values, ValueSettings
from tools.contract import Tool, ToolLimits, ToolPorts
from tools.errors import ToolCallError
from tools.kinds.artifact import Artifact
from tools.kinds.http import Http

pytestmark = pytest.mark.anyio

BODY = bytes(range(256)) * 4096  # 1 MiB
DIGEST = sha256(BODY).hexdigest()
MOST = 3 << 20


@dataclass
class Bench:
    """Tools on a store in a directory; a body may have 1,000 bytes in memory."""

    server: WebServer
    limits: ToolLimits
    ports: ToolPorts
    store: Path

    async def run(self, tool: Tool, **config: Any) -> Any:
        call = tool_calls.context(self.limits, ports=self.ports)
        try:
            return (await tool.run(tool.validate(config), call)).data
        finally:
            await tool.close()

    async def http(self, path: str, **config: Any) -> Any:
        url = self.server.url + path
        return await self.run(Http(self.limits), url=url, **config)

    async def artifact(self, **config: Any) -> Any:
        return await self.run(Artifact(self.limits), **config)

    async def failing(self, path: str, **config: Any) -> ToolCallError:
        with pytest.raises(ToolCallError) as caught:
            await self.http(path, **config)
        return caught.value

    @property
    def files(self) -> list[Path]:
        return [path for path in self.store.rglob("*") if path.is_file()]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    data_dir = tmp_path / "files"
    data_dir.mkdir()
    limits = ToolLimits(
        data_dir=str(data_dir),
        http_body_bytes_max=1000,
        result_bytes_max=1000,
        stream_bytes_max=MOST,
    )
    settings = ValueSettings(bytes_max=1000, stream_bytes_max=MOST)
    store = open_store("disk", "", str(tmp_path / "store"))
    values = Values(store, SystemClock(), PrometheusObserver(), settings)
    ports = ToolPorts(values=StepValues(values, map(str, count(1)).__next__))
    async with web_server() as server:
        yield Bench(server, limits, ports, tmp_path / "store")


async def test_a_body_goes_into_the_store_and_out_again(bench: Bench) -> None:
    """TL-HT-04, TL-AR-04: fetched, sent on and written to a file, as it came."""
    bench.server.answers["/big"] = reply(BODY, content_type="application/x-thing")
    got = await bench.http("/big", response_type="stored")
    body = got["body"]
    assert (got["status_code"], body["bytes"], body["sha256"]) == (200, 1 << 20, DIGEST)
    assert body["content_type"] == "application/x-thing"

    def moved(seen: Seen) -> bytes:
        return reply(status=307, location="/up")

    bench.server.answers["/moved"] = moved
    bench.server.answers["/up"] = reply(b"ok")
    sent = await bench.http("/moved", method="PUT", body_ref=body, response_type="text")
    assert sent["status_code"] == 200
    for seen in bench.server.seen[-2:]:
        assert sha256(seen.body).hexdigest() == DIGEST
        assert seen.headers["content-length"] == str(1 << 20)
        assert seen.headers["content-type"] == "application/octet-stream"

    put = await bench.artifact(action="put", source=body["ref"], uri="file:copy.bin")
    assert (put["bytes"], put["sha256"]) == (1 << 20, DIGEST)
    file = Path(bench.limits.data_dir) / "copy.bin"
    assert file.read_bytes() == BODY and os.listdir(file.parent) == ["copy.bin"]
    back = await bench.artifact(action="put", source="file:copy.bin")
    assert back["sha256"] == DIGEST and back["ref"] != body["ref"]


async def test_a_packed_body_is_stored_unpacked(bench: Bench) -> None:
    packed = gzip.compress(bytes(2 << 20))
    bench.server.answers["/z"] = reply(packed, content_encoding="gzip")
    got = await bench.http("/z", response_type="stored")
    assert got["body"]["sha256"] == sha256(bytes(2 << 20)).hexdigest()


async def test_a_small_stored_body_is_read_as_what_it_is(bench: Bench) -> None:
    """TL-AR-03."""
    for body, wanted in ((b'{"a": 1}', {"a": 1}), (b"text", "text")):
        bench.server.answers["/s"] = reply(body, content_type="text/plain")
        got = await bench.http("/s", response_type="stored")
        assert await bench.artifact(result_ref=got["body"]) == wanted


async def test_a_reference_is_named_in_any_of_its_forms(bench: Bench) -> None:
    """TL-AR-01: get is the default; a text or a reference object, ``ref`` first."""
    kept = await bench.artifact(action="put", data={"n": 7}, name="note")
    ref, gone = kept["ref"], "noetl://default/default/artifacts/7/none@0"
    for config in (
        {"result_ref": ref},
        {"uri": ref, "action": "get"},
        {"ref": ref},
        {"result_ref": {"ref": ref, "uri": gone}},
        {"input": {"result_ref": ref}},
        {"input": {"ref": {"uri": ref}}},
    ):
        assert await bench.artifact(**config) == {"n": 7}, config


async def test_what_is_too_large_says_what_to_do(bench: Bench) -> None:
    """TL-LIM-04: in memory, and as a stream."""
    bench.server.answers["/big"] = reply(BODY)
    error = await bench.failing("/big")
    assert error.failure.code == "http_body_bytes_max"
    assert "response_type: stored" in error.failure.message
    bench.server.answers["/bomb"] = reply(
        gzip.compress(bytes(MOST + 1)), content_encoding="gzip"
    )
    error = await bench.failing("/bomb", response_type="stored")
    failure = error.failure
    assert (failure.kind, failure.code) == ("limit", "stream_bytes_max")
    assert "NOETL_RESULT_STREAM_MAX_BYTES" in failure.message
    assert bench.files == []


async def test_an_answer_that_is_no_success_is_not_stored(bench: Bench) -> None:
    """TL-HT-06: an error keeps its whole data where rules can read it."""
    bench.server.answers["/no"] = reply({"why": "gone"}, status=404, reason="Not Found")
    error = await bench.failing("/no", response_type="stored")
    data: Any = error.data
    assert (error.failure.kind, data["body"]) == ("not_found", {"why": "gone"})
    assert bench.files == []


async def torn(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + BODY[:300_000])
    await writer.drain()
    writer.close()


async def test_a_body_that_breaks_off_is_told_and_not_kept(bench: Bench) -> None:
    """TL-HT-07, TL-RR-55."""
    bench.server.answers["/torn"] = torn
    error = await bench.failing("/torn", response_type="stored")
    assert (error.failure.kind, error.failure.retryable) == ("connection", True)
    assert bench.files == []


async def test_a_reference_that_is_gone_is_no_body(bench: Bench) -> None:
    """TL-AR-03: before anything is sent."""
    ref = "noetl://default/default/bodies/7/a/b@1"
    error = await bench.failing("/up", method="POST", body_ref=ref)
    assert error.failure.kind == "missing_reference"
    assert bench.server.seen == []


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"action": "put"}, "put needs data, or source"),
        ({"action": "put", "data": 1, "source": "file:///a"}, "put needs data"),
        (
            {"action": "put", "source": "s3://abc/d", "uri": "gs://abc/d"},
            "source and uri each need a credential",
        ),
        ({"action": "put", "source": "ftp://x/y"}, "none of the schemes"),
        ({"action": "put", "source": "file:///../etc/passwd"}, "outside"),
    ],
)
async def test_a_copy_that_cannot_be_is_told(
    bench: Bench, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(ToolCallError, match=named) as caught:
        await bench.artifact(**config)
    assert caught.value.failure.kind == "configuration"
