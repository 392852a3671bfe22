"""``mcp``: the conversation with a server, and what its errors become."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from calls import call, failure, refusal
from web_server import Seen, WebServer, reply, web_server

from tools.contract import ToolLimits
from tools.kinds.mcp import Mcp

pytestmark = pytest.mark.anyio

LIMITS = ToolLimits()


class Peer:
    """An MCP server that answers as it is told."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.answer: dict[str, Any] = {
            "result": {"content": [{"type": "text", "text": "3"}]}
        }
        self.stream = False
        server.answers["/mcp"] = self.take

    @property
    def url(self) -> str:
        return f"{self.server.url}/mcp"

    @property
    def messages(self) -> list[Any]:
        return [json.loads(seen.body) for seen in self.server.seen]

    def take(self, seen: Seen) -> bytes:
        message = json.loads(seen.body)
        if message["method"] == "initialize":
            result = {"serverInfo": {"name": "peer"}}
            body = {"jsonrpc": "2.0", "id": message["id"], "result": result}
            return reply(body, mcp_session_id="session-1")
        body = {"jsonrpc": "2.0", "id": message["id"], **self.answer}
        if not self.stream:
            return reply(body)
        note = 'data: {"jsonrpc": "2.0", "method": "notifications/progress"}\n\n'
        lines = json.dumps(body, indent=1).replace("\n", "\ndata: ")
        return reply(
            f": hello\n\n{note}event: message\ndata: {lines}\n\n".encode(),
            content_type="text/event-stream",
        )


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with web_server() as server:
        yield Peer(server)


@pytest.fixture
async def mcp() -> AsyncIterator[Mcp]:
    tool = Mcp(LIMITS)
    yield tool
    await tool.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_in_a_session(
    mcp: Mcp, peer: Peer, stream: bool
) -> None:
    """TL-MCP-01, TL-MCP-02, TL-MCP-03: over JSON and over an event stream."""
    peer.stream = stream
    result = await call(
        mcp,
        LIMITS,
        url=peer.url,
        tool_name="add",
        arguments='{"a": 1}',
        request_id="7",
        auth={"type": "bearer", "token": "t0ken"},
    )
    data: Any = result.data
    assert (data["status"], data["text"], data["tool"]) == ("ok", "3", "add")
    assert data["arguments"] == {"a": 1}
    assert data["initialize"] == {"serverInfo": {"name": "peer"}}
    first, second = peer.messages
    assert (first["id"], first["method"]) == (7, "initialize")
    assert first["params"]["protocolVersion"] == "2025-03-26"
    assert (second["id"], second["method"]) == (8, "tools/call")
    assert second["params"] == {"name": "add", "arguments": {"a": 1}}
    headers = peer.server.seen[1].headers
    assert headers["mcp-session-id"] == "session-1"
    assert headers["authorization"] == "Bearer t0ken"
    assert headers["accept"] == "application/json, text/event-stream"


async def test_other_methods_take_their_own_parameters(mcp: Mcp, peer: Peer) -> None:
    peer.answer = {"result": {"tools": []}}
    result = await call(
        mcp, LIMITS, endpoint=peer.url, action="tools/list", params={"cursor": "c"}
    )
    data: Any = result.data
    assert data["result"] == {"tools": []} and data["tool"] is None
    assert peer.messages[1]["params"] == {"cursor": "c"}


async def test_health_is_asked_beside_the_endpoint(mcp: Mcp, peer: Peer) -> None:
    """TL-MCP-02."""
    peer.server.answers["/healthz"] = reply(b"fine", content_type="text/plain")
    data: Any = (await call(mcp, LIMITS, url=peer.url, method="health")).data
    assert (data["status"], data["text"]) == ("ok", "fine")
    peer.server.answers["/healthz"] = reply(status=503)
    error = await failure(mcp, LIMITS, url=peer.url, method="health")
    assert (error.kind, error.retryable) == ("server_error", True)


ERRORS: dict[str, tuple[dict[str, Any], str, str]] = {
    "wrong request": ({"error": {"code": -32602, "message": "bad"}}, "client_error", "mcp: bad"),
    "server": ({"error": {"code": 1, "message": "no"}}, "server_error", "mcp: no"),
    "tool": ({"result": {"isError": True, "content": [{"type": "text", "text": "broke"}]}}, "server_error", "mcp: broke"),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRORS)
async def test_what_the_server_reports_fails_the_step(
    mcp: Mcp, peer: Peer, what: str
) -> None:
    """TL-MCP-03: with its data."""
    peer.answer, kind, message = ERRORS[what]
    error = await refusal(mcp, LIMITS, url=peer.url, tool="t")
    assert (error.failure.kind, error.failure.message) == (kind, message)
    data: Any = error.data
    assert (data["status"], data["tool"]) == ("error", "t")


async def test_an_answer_that_is_none_is_an_error(mcp: Mcp, peer: Peer) -> None:
    peer.server.answers["/mcp"] = reply(b"<html>")
    error = await failure(mcp, LIMITS, url=peer.url, tool="t")
    assert (error.kind, error.code) == ("server_error", "MCP_ANSWER")
    peer.server.answers["/mcp"] = reply(status=401)
    error = await failure(mcp, LIMITS, url=peer.url, tool="t")
    assert (error.kind, error.code) == ("auth", "HTTP_401")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nowhere": ({"url": None}, "NOETL_MCP_KUBERNETES_ENDPOINT"),
    "no url": ({"url": "peer"}, "endpoint: say where the mcp server"),
    "no tool": ({"tool": None}, "tool: name the tool"),
    "arguments": ({"arguments": "[1]"}, "arguments must be a map"),
    "no json": ({"arguments": "{"}, "arguments must be a map"),
    "method": ({"method": 3}, "method must be a text"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_asked_is_refused_by_name(
    mcp: Mcp, peer: Peer, what: str
) -> None:
    """TL-MCP-01, TL-INT-04."""
    config, words = REFUSED[what]
    error = await failure(mcp, LIMITS, **{"url": peer.url, "tool": "t", **config})
    assert error.kind == "configuration" and words in error.message
    assert peer.server.seen == []


async def test_servers_are_found_by_name(peer: Peer) -> None:
    """TL-MCP-01: NOETL_MCP_<SERVER>_ENDPOINT, then NOETL_MCP_URL."""
    limits = ToolLimits(mcp_endpoints={"MY_DB_ENDPOINT": peer.url, "URL": "http://h/"})
    mcp = Mcp(limits)
    assert mcp.validate({"server": "my-db", "tool": "t"})["endpoint"] == peer.url
    assert mcp.validate({"tool": "t"})["endpoint"] == "http://h/"
    await mcp.close()
