"""``s3``, ``gcs``, ``artifact`` and ``result_fetch`` on servers that speak the protocol
(TL §3.10, §3.20)."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nats
import pytest
import tool_calls
from moto.server import ThreadedMotoServer
from services import NatsServer

from tools.contract import CallContext, ToolLimits, ToolPorts
from tools.errors import ToolCallError
from tools.kinds.artifact import Artifact, ResultFetch
from tools.kinds.python import Python
from tools.kinds.upload import S3, Gcs

pytestmark = pytest.mark.anyio

KEYS = {"access_key_id": "key", "secret_access_key": "secret-of-the-step"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server of S3 with the bucket ``reports``."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    make = urllib.request.Request(f"{url}/reports", method="PUT")
    urllib.request.urlopen(make).close()
    yield url
    server.stop()


class Gs(BaseHTTPRequestHandler):
    """Google's XML API for single objects."""

    objects: dict[str, tuple[bytes, str]]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.objects[unquote(self.path)] = (body, self.headers.get("Content-Type", ""))
        self._answer(200, b"")

    def do_GET(self) -> None:
        found = self.objects.get(unquote(self.path))
        self._answer(200 if found else 404, found[0] if found else b"none")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def gs() -> Iterator[tuple[str, dict[str, Any]]]:
    found: dict[str, Any] = {}
    handler = type("Handler", (Gs,), {"objects": found})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", found
        server.shutdown()
        thread.join()


ACCOUNT = {
    "client_email": "",
    "private_key": "",
    "private_key_id": "",
    "disable_oauth": True,
}


@pytest.fixture
def limits(tmp_path: Path) -> ToolLimits:
    (tmp_path / "report.csv").write_text("a,b\n1,2\n")
    return ToolLimits(data_dir=str(tmp_path), result_bytes_max=1000)


async def test_a_file_goes_to_s3(s3: str, limits: ToolLimits) -> None:
    """TL-GC-01: signed, to an endpoint of our own."""
    config = {
        "source": "report.csv",
        "destination": "s3://reports/2024/a b.csv",
        "endpoint": s3,
    }
    result = await tool_calls.run(
        S3(limits), limits, **config, **KEYS, content_type="text/csv", metadata={"by": "test"}
    )  # fmt: skip
    assert result.data == {
        "status": "success",
        "uri": "s3://reports/2024/a b.csv",
        "bucket": "reports",
        "blob": "2024/a b.csv",
        "size": 8,
        "content_type": "text/csv",
        "message": "report.csv is at s3://reports/2024/a b.csv",
    }
    tool = Artifact(limits)
    got = await tool_calls.run(
        tool, limits, uri="s3://reports/2024/a b.csv", endpoint=s3, auth=KEYS
    )
    assert got.data == "a,b\n1,2\n"


async def test_a_script_comes_from_s3(s3: str, limits: ToolLimits) -> None:
    """TL-PY-02: by the credential of its own source."""
    (Path(limits.data_dir) / "job.py").write_text("result = 7")
    uri = "s3://reports/jobs/job.py"
    given = {"source": "job.py", "destination": uri, "endpoint": s3}
    await tool_calls.run(S3(limits), limits, **given, **KEYS)
    tool = Python(limits)
    source = {"type": "s3", "endpoint": s3, "auth": {"type": "aws", **KEYS}}
    script = {"uri": uri, "source": source}
    assert (await tool_calls.run(tool, limits, script=script)).data == 7
    gone = {**script, "uri": "s3://reports/jobs/gone.py"}
    error = await tool_calls.failing(tool, limits, script=gone)
    assert error.failure.kind == "missing_reference"
    bare = {"uri": uri, "source": {"endpoint": s3}}
    error = await tool_calls.failing(tool, limits, script=bare)
    assert "needs access_key_id" in error.failure.message
    await tool.close()


async def test_a_file_goes_to_google(
    gs: tuple[str, dict[str, Any]], limits: ToolLimits
) -> None:
    """TL-GC-01."""
    url, found = gs
    config = {
        "source": "report.csv",
        "destination": "gs://reports/2024/r.csv",
        "endpoint": url,
    }
    result = await tool_calls.run(
        Gcs(limits), limits, **config, service_account_json=json.dumps(ACCOUNT), content_type="text/csv"
    )  # fmt: skip
    data: Any = result.data
    assert (data["bucket"], data["blob"], data["size"]) == ("reports", "2024/r.csv", 8)
    assert found["/reports/2024/r.csv"] == (b"a,b\n1,2\n", "text/csv")


@pytest.mark.parametrize(
    ("config", "kind", "named"),
    [
        ({"source": "none.csv"}, "configuration", "there is no file 'none.csv'"),
        ({"source": "../etc/passwd"}, "configuration", "outside the directories"),
        ({"source": "/etc/passwd"}, "configuration", "outside the directories"),
        ({"source": None}, "configuration", "source is required"),
        ({"destination": "s3://reports/../x"}, "configuration", "is no key"),
        ({"destination": "gs://reports/x"}, "configuration", "wants s3://"),
        ({"destination": "reports/x"}, "configuration", "no s3:// or gs:// address"),
        ({"access_key_id": None}, "configuration", "needs access_key_id"),
        ({"destination": "s3://nobucket/x"}, "missing_reference", "s3://nobucket/x"),
    ],
)
async def test_an_upload_that_cannot_be_is_said(
    s3: str, limits: ToolLimits, config: dict[str, Any], kind: str, named: str
) -> None:
    """TL-GC-01, TL-SEC-04."""
    good = {
        "source": "report.csv",
        "destination": "s3://reports/x",
        "endpoint": s3,
        **KEYS,
    }
    error = await tool_calls.failing(S3(limits), limits, **{**good, **config})
    assert error.failure.kind == kind
    assert named in error.failure.message
    assert "secret-of-the-step" not in error.failure.message


async def test_credentials_of_the_worker_are_never_used(
    s3: str, limits: ToolLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-worker")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-worker")
    config = {"source": "report.csv", "destination": "s3://reports/x", "endpoint": s3}
    error = await tool_calls.failing(S3(limits), limits, **config)
    assert "needs access_key_id" in error.failure.message


@pytest.mark.parametrize("kind", ["s3", "gs", "file", "nats-kv", "nats-obj"])
async def test_what_was_put_is_got(
    kind: str, s3: str, gs: tuple[str, dict[str, Any]], nats_server: NatsServer,
    unique_name: str, limits: ToolLimits,
) -> None:  # fmt: skip
    """TL-AR-02, TL-AR-03, TL-AR-04."""
    client = await nats.connect(nats_server.url)
    await client.jetstream().create_key_value(bucket=f"a{unique_name}")
    await client.jetstream().create_object_store(bucket=f"a{unique_name}")
    await client.close()
    where: dict[str, Any] = {
        "s3": {"endpoint": s3, **KEYS},
        "gs": {"endpoint": gs[0], "service_account_json": ACCOUNT},
        "file": {},
    }.get(kind, {"url": nats_server.url})
    bucket = {"s3": "reports", "gs": "reports", "file": ""}.get(kind, f"a{unique_name}")
    path = f"/{limits.data_dir}/kept.json" if kind == "file" else "/kept.json"
    uri = f"{kind}://{bucket}{path}".replace("////", "///")
    value = {"rows": [1, 2]}
    tool = Artifact(limits)
    put = await tool_calls.run(tool, limits, action="put", uri=uri, data=value, **where)
    about: Any = put.data
    text = b'{"rows":[1,2]}'
    assert (about["ref"], about["uri"], about["bytes"]) == (uri, uri, len(text))
    assert about["sha256"] == hashlib.sha256(text).hexdigest()
    for ref in (uri, {"ref": uri}, {"kind": "x", "uri": uri}):
        got = await tool_calls.run(tool, limits, result_ref=ref, **where)
        assert got.data == value
    inside = await tool_calls.run(tool, limits, input={"result_ref": uri}, **where)
    assert inside.data == value
    fetcher = ResultFetch(limits)
    fetched = await tool_calls.run(fetcher, limits, ref=uri, **where)
    assert fetched.data == value
    await fetcher.close()
    gone = await tool_calls.failing(
        tool, limits, uri=uri.replace("kept", "gone"), **where
    )
    assert gone.failure.kind in ("missing_reference", "not_found")
    await tool_calls.run(tool, limits, action="put", uri=uri, data="x" * 1001, **where)
    if kind != "nats-kv":
        error = await tool_calls.failing(tool, limits, uri=uri, **where)
        assert (error.failure.kind, error.failure.code) == ("limit", "result_bytes_max")
    await tool.close()


class Kept:
    """The platform's result store, as a worker sees it."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def read(self, call: CallContext, ref: str) -> Any:
        return json.loads(self.values[ref])

    async def write(
        self, call: CallContext, name: str, data: bytes, scope: str
    ) -> dict[str, Any]:
        ref = f"noetl://execution/{call.execution_id}/result/{name}/1"
        self.values[ref] = data
        return {"ref": ref, "store": scope}


async def test_the_platforms_own_references_go_through_its_store(
    limits: ToolLimits,
) -> None:
    """TL-AR-02, TL-AR-04: put without an address goes there, too."""
    tool = Artifact(limits)
    call = tool_calls.context(limits, ports=ToolPorts(values=Kept()))
    put = await tool.run(tool.validate({"action": "put", "data": "text"}), call)
    about: Any = put.data
    assert about == {"ref": "noetl://execution/7/result/load/1", "store": "execution"}
    got = await tool.run(tool.validate({"result_ref": about}), call)
    assert got.data == "text"
    error = await tool_calls.failing(tool, limits, ref=about["ref"])
    assert "no result store" in error.failure.message


async def test_an_inline_value_is_itself(limits: ToolLimits) -> None:
    """TL-AR-02."""
    value = {"rows": [1]}
    result = await tool_calls.run(Artifact(limits), limits, result_ref=value)
    assert result.data == value


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({}, "result_ref is required"),
        ({"uri": "ftp://x/y"}, "none of the schemes noetl, eventlog"),
        ({"uri": "file:///etc/passwd"}, "outside the directories"),
        (
            {"uri": "nats-kv://noetl_workers/a", "url": "nats://127.0.0.1:1"},
            "belongs to",
        ),
        ({"action": "put"}, "put needs data"),
        ({"action": "drop", "uri": "x"}, "action must be get or put"),
    ],
)
async def test_bad_references_are_said(
    limits: ToolLimits, config: dict[str, Any], named: str
) -> None:
    """TL-AR-02, TL-SEC-04, TL-NA-05."""
    error = await tool_calls.failing(Artifact(limits), limits, **config)
    assert error.failure.kind == "configuration"
    assert named in error.failure.message


def test_flight_is_said_to_be_missing(limits: ToolLimits) -> None:
    """TL-AR-06."""
    with pytest.raises(ToolCallError, match="Arrow Flight is not available"):
        ResultFetch(limits).validate(
            {"ref": "noetl://x", "flight_endpoint": "grpc://h"}
        )


async def test_an_object_is_copied_piece_by_piece(s3: str, limits: ToolLimits) -> None:
    """TL-AR-04: from a file into parts of an object, and back into a file."""
    data = bytes(range(256)) * (80 << 10)  # 20 MiB
    folder = Path(limits.data_dir)
    (folder / "large.bin").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    there = {"endpoint": s3, **KEYS}
    for source, uri in (
        ("file:large.bin", "s3://reports/large.bin"),
        ("s3://reports/large.bin", "file:again.bin"),
    ):
        put = await tool_calls.run(
            Artifact(limits), limits, action="put", source=source, uri=uri, **there
        )
        found: Any = put.data
        assert (found["bytes"], found["sha256"]) == (len(data), digest)
    assert (folder / "again.bin").read_bytes() == data
    gone = await tool_calls.failing(
        Artifact(limits), limits, action="put", source="s3://reports/none", **there
    )
    assert gone.failure.kind in ("missing_reference", "configuration")
