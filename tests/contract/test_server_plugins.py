"""The plug-in store, over HTTP and as a worker's port."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from server_edge import TOKEN, Fleet, running_edge

from noetl_worker.client import ClientOptions, NoetlClient, RemotePlugins
from state_builder.errors import ConflictError, NotFoundError

pytestmark = pytest.mark.anyio

HEADERS = {"authorization": f"Bearer {TOKEN}"}
ROUTE = "/api/internal/plugins/team/echo"


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with running_edge() as found:
        yield found


async def put(fleet: Fleet, code: bytes, **query: Any) -> httpx.Response:
    return await fleet.http.put(ROUTE, content=code, params=query, headers=HEADERS)


async def test_versions_are_stored_and_read_by_digest(fleet: Fleet) -> None:
    """TL-WA-01."""
    one, two = b"\0asm one", b"\0asm two"
    answer = await put(fleet, one, capabilities="event_publish")
    digest = hashlib.sha256(one).hexdigest()
    assert answer.json() == {
        "path": "team/echo",
        "version": 1,
        "digest": digest,
        "bytes": 8,
        "media_type": "application/wasm",
        "capabilities": ["event_publish"],
    }
    assert (await put(fleet, two)).json()["version"] == 2
    newest = await fleet.http.get(ROUTE, headers=HEADERS)
    assert newest.content == two
    first = await fleet.http.get(ROUTE, params={"version": 1}, headers=HEADERS)
    assert (first.content, first.headers["etag"]) == (one, f'"{digest}"')
    same = {**HEADERS, "if-none-match": first.headers["etag"]}
    again = await fleet.http.get(ROUTE, params={"version": 1}, headers=same)
    assert (again.status_code, again.content) == (304, b"")


async def test_a_version_may_be_replaced(fleet: Fleet) -> None:
    """TL-WA-08."""
    await put(fleet, b"old", version=7)
    await put(fleet, b"new", version=7)
    assert (await fleet.http.get(ROUTE, headers=HEADERS)).content == b"new"


BAD: dict[str, tuple[str, bytes, dict[str, Any], int]] = {
    "empty": (ROUTE, b"", {}, 400),
    "path": ("/api/internal/plugins/team/../x%20y", b"x", {}, 400),
    "version": (ROUTE, b"x", {"version": "one"}, 400),
    "capability": (ROUTE, b"x", {"capabilities": "shell"}, 400),
    "digest": (ROUTE, b"x", {"digest": "0" * 64}, 409),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_registration_stores_nothing(fleet: Fleet, what: str) -> None:
    """TL-WA-01, TL-WA-04."""
    path, code, query, status = BAD[what]
    answer = await fleet.http.put(path, content=code, params=query, headers=HEADERS)
    assert answer.status_code in (status, 422), answer.text
    assert (await fleet.http.get(ROUTE, headers=HEADERS)).status_code == 404


async def test_the_store_is_internal(fleet: Fleet) -> None:
    assert (await fleet.http.put(ROUTE, content=b"x")).status_code in (401, 403)
    assert (await fleet.http.get(ROUTE)).status_code in (401, 403)


async def test_a_worker_fetches_what_it_has_not(fleet: Fleet) -> None:
    """TL-WA-01, TL-WA-08, TL-WA-09."""
    await put(fleet, b"code", capabilities="result_put")
    digest = hashlib.sha256(b"code").hexdigest()
    options = ClientOptions(url="http://t", token=TOKEN)
    transport = fleet.http._transport
    async with NoetlClient(options, transport) as client:
        plugins = RemotePlugins(client)
        found = await plugins.fetch("team/echo", 0, "", "")
        assert found is not None
        assert (found.version, found.digest, found.code) == (1, digest, b"code")
        assert found.capabilities == {"result_put"}
        assert await plugins.fetch("team/echo", 0, "", digest) is None
        with pytest.raises(NotFoundError, match="no plug-in 'team/echo' of version 9"):
            await plugins.fetch("team/echo", 9, "", "")
        with pytest.raises(ConflictError):
            await plugins.fetch("team/echo", 1, "0" * 64, "")
