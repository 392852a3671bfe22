"""``http``: what becomes of an answer, and of none; bodies that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from calls import call, failure, refusal, until
from hypothesis import given, settings
from hypothesis import strategies as st
from web_server import WebServer, reply, web_server

from tools.contract import ToolLimits
from tools.doors.encodings import PIECE_BYTES, decoder_of
from tools.kinds.http import Http

LIMITS = ToolLimits(http_body_bytes_max=100_000)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    tool = Http(LIMITS)
    yield tool
    await tool.close()


async def test_the_data_has_status_headers_body_and_place(
    http: Http, server: WebServer
) -> None:
    """TL-HT-04, TL-OUT-03: repeated headers joined, cookies apart, no secrets in url."""
    server.answers["/x"] = (
        b"HTTP/1.1 201 Created\r\nX-A: 1\r\nx-a: 2\r\nSet-Cookie: a=1\r\n"
        b"set-cookie: b=2\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}'
    )
    result = await call(http, LIMITS, url=f"{server.url}/x?api_key=s3cret99&a=1")
    assert isinstance(result.data, dict) and result.form == "http"
    elapsed = result.data.pop("elapsed")
    assert isinstance(elapsed, float) and elapsed > 0
    headers = {
        "x-a": "1, 2",
        "content-length": "7",
        "set-cookie": ["a=1", "b=2"],
    }
    assert result.data == {
        "status_code": 201,
        "headers": headers,
        "body": {"a": 1},
        "url": f"{server.url}/x?api_key=%5BREDACTED%5D&a=1",
    }
    assert result.helpers["http"] == {"status": 201, "headers": headers}
    assert result.helpers["stdout"] == '{"a":1}'


BODIES: dict[str, tuple[str, str, bytes, Any]] = {
    # name: (response_type, Content-Type, bytes, body)
    "json": ("auto", "application/json", b'{"a": 1.50}', {"a": 1.5}),
    "json with a mark": ("auto", "", b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    "json by look": ("auto", "text/plain", b"[1]", [1]),
    "big number": ("auto", "application/json", b"9007199254740993", 9007199254740993),
    "broken json": ("json", "application/json", b'{"a":', '{"a":'),
    "deep json": ("auto", "", b"[" * 9999, "[" * 9999),
    "text": ("text", "application/json", b'{"a": 1}', '{"a": 1}'),
    "latin": ("auto", "text/plain; charset=latin-1", b"\xe9", "é"),
    "odd charset": ("auto", "text/plain; charset=nonsense", "é".encode(), "é"),
    "garbage": ("auto", "text/plain", b"\xff\xfe\x00a", "\ufffd\ufffd\x00a"),
    "image": ("auto", "image/png", b"\x89PNG", {"base64": "iVBORw==", "size": 4}),
    "svg": ("auto", "image/svg+xml", b"<svg/>", "<svg/>"),
    "binary": ("binary", "text/plain", b"ab", {"base64": "YWI=", "size": 2}),
    "empty": ("auto", "application/json", b"", None),
}


@pytest.mark.parametrize("name", BODIES)
async def test_bodies_are_parsed_or_kept_as_they_are(
    http: Http, server: WebServer, name: str
) -> None:
    """TL-HT-05."""
    wanted, kind, raw, body = BODIES[name]
    server.answers["/x"] = reply(raw, content_type=kind)
    result = await call(http, LIMITS, url=f"{server.url}/x", response_type=wanted)
    assert isinstance(result.data, dict) and result.data["body"] == body


STATUSES = [
    (400, "client_error", False),
    (401, "auth", False),
    (403, "auth", False),
    (404, "not_found", False),
    (408, "timeout", True),
    (409, "client_error", False),
    (429, "rate_limit", True),
    (500, "server_error", True),
    (503, "server_error", True),
    (599, "server_error", True),
]


@pytest.mark.parametrize(("status", "kind", "retryable"), STATUSES)
async def test_a_status_outside_2xx_is_an_error_of_its_kind(
    http: Http, server: WebServer, status: int, kind: str, retryable: bool
) -> None:
    """TL-HT-06, TL-ERR-02, TL-OUT-01: the data is there in full."""
    server.answers["/x"] = reply({"why": "no"}, status=status, reason="Because")
    error = await refusal(http, LIMITS, url=f"{server.url}/x")
    found = error.failure
    assert (found.kind, found.retryable) == (kind, retryable)
    assert (found.code, found.status_code) == (f"HTTP_{status}", status)
    assert found.message == f"HTTP {status} Because"
    assert isinstance(error.data, dict) and error.data["body"] == {"why": "no"}
    assert error.helpers["exit_code"] == 1
    assert error.helpers["http"]["status"] == status  # type: ignore[index, call-overload]


async def test_retry_after_is_seconds_or_a_date(http: Http, server: WebServer) -> None:
    """TL-ERR-02."""

    async def waits(value: str) -> float | None:
        server.answers["/x"] = reply(status=429, retry_after=value)
        return (await failure(http, LIMITS, url=f"{server.url}/x")).retry_after

    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert await waits("7") == 7.0
    assert 50 < (await waits(soon) or 0) <= 60
    assert await waits("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [await waits(odd) for odd in ("soon", "", "-1", "9" * 400)] == [None] * 4


async def hang(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    await asyncio.sleep(3600)


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_no_answer_is_an_error_that_may_be_tried_again(
    http: Http, server: WebServer
) -> None:
    """TL-HT-07, TL-ERR-02, TL-SPC-06."""
    server.answers.update(
        {"/cut": cut, "/garbage": b"\x16\x03\x01\x00\x00garbage\r\n\r\n", "/hang": hang}
    )
    async with web_server() as gone:
        closed = gone.url
    waits = {"spec": {"timeout": {"read": 0.1}}}
    for url, kind, code in (
        (closed, "connection", "CONNECTION"),
        ("http://no-such-host.invalid/", "connection", "CONNECTION"),
        (f"{server.url}/cut", "connection", "CONNECTION"),
        (f"{server.url}/garbage", "connection", "CONNECTION"),
        (f"{server.url}/hang", "timeout", "TIMEOUT"),
    ):
        error = await refusal(http, LIMITS, url=url, **waits)
        found = error.failure
        assert (found.kind, found.code, found.retryable) == (kind, code, True), url
        assert error.helpers["http"] == {"status": 0, "headers": {}}


async def test_a_cancelled_call_drops_its_connection(
    http: Http, server: WebServer
) -> None:
    """TL-LIM-02, TL-INT-05."""
    server.answers["/drip"] = drip
    with anyio.move_on_after(0.1):
        await call(http, LIMITS, url=f"{server.url}/drip")
    await until(lambda: not server.tasks)
    result = await call(http, LIMITS, url=f"{server.url}/x")
    assert isinstance(result.data, dict) and result.data["status_code"] == 200


async def forever(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        await writer.drain()


def bomb() -> bytes:
    """A hundred megabytes of zeros in a hundred kilobytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    megabyte = bytes(1 << 20)
    return b"".join(packer.compress(megabyte) for _ in range(100)) + packer.flush()


async def test_a_body_that_is_too_large_is_refused_and_not_read(
    http: Http, server: WebServer
) -> None:
    """TL-LIM-04: told by its length, by what comes, or by what it unpacks to."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"
    server.answers["/told"] = head + b"x" * 4096
    server.answers["/endless"] = forever
    server.answers["/bomb"] = reply(bomb(), content_encoding="gzip")
    for path in ("/told", "/endless", "/bomb"):
        error = await refusal(http, LIMITS, url=server.url + path)
        assert error.failure.kind == "limit", path
        assert error.failure.code == "http_body_bytes_max"
        assert "larger than 100,000 bytes" in error.failure.message
        assert not error.failure.retryable


async def test_packed_bodies_are_unpacked(http: Http, server: WebServer) -> None:
    raw = b'{"a": 1}'
    bare = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(raw[:3]) + gzip.compress(raw[3:]),
        "deflate": zlib.compress(raw),
        "Deflate": bare.compress(raw) + bare.flush(),
        "identity": raw,
    }
    for encoding, body in packed.items():
        server.answers["/x"] = reply(body, content_encoding=encoding)
        result = await call(http, LIMITS, url=f"{server.url}/x")
        assert isinstance(result.data, dict) and result.data["body"] == {"a": 1}
    server.answers["/x"] = reply(b"no gzip", content_encoding="gzip")
    error = await failure(http, LIMITS, url=f"{server.url}/x")
    assert (error.kind, error.code) == ("server_error", "DECODING")


@given(
    body=st.binary(max_size=3000),
    cut_at=st.integers(1, 200),
    packing=st.sampled_from(["gzip", "deflate", "identity"]),
)
@settings(max_examples=60, deadline=None)
def test_unpacking_in_pieces_gives_the_body(
    body: bytes, cut_at: int, packing: str
) -> None:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(packing, bytes)(body)
    decoder = decoder_of(packing)
    found = b""
    for start in range(0, len(packed), cut_at):
        for piece in decoder.pieces(packed[start : start + cut_at]):
            assert len(piece) <= max(PIECE_BYTES, cut_at)
            found += piece
    assert found == body


async def test_a_certificate_nobody_vouches_for_is_final(tmp_path: Path) -> None:
    """TL-ERR-02, TL-HT-07."""
    async with web_server(ssl=_self_signed(tmp_path)) as server:
        url = server.url.replace("http", "https") + "/x"
        http = Http(LIMITS)
        error = await failure(http, LIMITS, url=url)
        assert (error.kind, error.retryable) == ("connection", False)
        assert "certificate" in error.message.lower()
        result = await call(http, LIMITS, url=url, verify=False)
        assert isinstance(result.data, dict) and result.data["status_code"] == 200
        await http.close()


def _self_signed(folder: Path) -> ssl.SSLContext:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    path = folder / "both.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(path)
    return found
