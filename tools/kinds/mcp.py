"""``mcp``: one call to a Model Context Protocol server over HTTP (TL §3.17)."""

from __future__ import annotations

from typing import ClassVar, Final
from urllib.parse import urlsplit, urlunsplit

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.records import JSON, ToolFailure, encode_json
from tools.auth import http_headers
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.statuses import failure_of
from tools.doors.web import Web, WebRequest, WebResponse
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, first_of, integer_of, map_of, text_of, wrong

DEFAULT_TIMEOUT_S: Final = 60.0
PROTOCOL: Final = "2025-03-26"
ENDPOINTS: Final = ("endpoint", "url", "server_url", "base_url")
_ACCEPT: Final = "application/json, text/event-stream"
_CLIENT_FAULTS: Final = range(-32699, -32599)
"""JSON-RPC codes of a request that is wrong; others are the server's."""


class Mcp(Tool):
    """Begins a session, sends one request, gives its answer."""

    kind: ClassVar[str] = "mcp"
    clamped: ClassVar[bool] = True

    def __init__(self, limits: ToolLimits) -> None:
        super().__init__(limits)
        self._web = Web(limits)

    def validate(self, config: Fields) -> Fields:
        """``endpoint``, ``server``, ``method``, ``params`` and options."""
        server = text_of(config, "server") or "kubernetes"
        _, method = first_of(config, ("method", "action"))
        method = method or "tools/call"
        if not isinstance(method, str):
            raise wrong("method", method, "a text like tools/call")
        headers = {name: str(text) for name, text in map_of(config, "headers").items()}
        added = http_headers(config.get("auth"))
        return {
            "endpoint": self._endpoint(config, server),
            "server": server,
            "method": method,
            "params": _params(config, method),
            "request_id": integer_of(config, "request_id", least=0, most=2**31) or 1,
            "initialize": {
                "protocolVersion": text_of(config, "protocol_version") or PROTOCOL,
                "capabilities": map_of(config, "capabilities"),
                "clientInfo": {
                    "name": text_of(config, "client_name") or "noetl",
                    "version": "1",
                },
            },
            "headers": {**added, **headers},
            "secret_headers": [name.lower() for name in added],
        }

    def default_timeout_s(self, config: Fields) -> float | None:
        """TL-MCP-01."""
        return DEFAULT_TIMEOUT_S

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """The data of TL-MCP-03; an error the server reports is an error here."""
        if config["method"] == "health":
            return await self._health(config, call)
        number = config["request_id"]
        assert isinstance(number, int)
        begun, session = await self._ask(
            config, call, _message(number, "initialize", config["initialize"])
        )
        method = str(config["method"])
        message = _message(number + 1, method, config["params"])
        answer, _ = await self._ask(config, call, message, session)
        data = _data(config, begun, answer)
        error = data.get("error")
        if error is not None:
            raise ToolCallError(_failure(error), data=data)
        return ToolResult(data=data)

    async def close(self) -> None:
        """Drop the connections."""
        await self._web.close()

    def _endpoint(self, config: Fields, server: str) -> str:
        _, given = first_of(config, ENDPOINTS)
        name = server.upper().replace("-", "_")
        known = self._limits.mcp_endpoints
        found = given or known.get(f"{name}_ENDPOINT") or known.get("URL")
        address = found if isinstance(found, str) else ""
        if urlsplit(address).scheme not in ("http", "https"):
            raise configuration(
                f"endpoint: say where the mcp server '{server}' is, here or in "
                f"NOETL_MCP_{name}_ENDPOINT"
            )
        return address

    async def _health(self, config: Fields, call: CallContext) -> ToolResult:
        parts = urlsplit(str(config["endpoint"]))
        url = urlunsplit(parts._replace(path="/healthz", query=""))
        response = await self._web.fetch(_request(config, call, "GET", url))
        data: Fields = {
            "status": "ok",
            "server": config["server"],
            "endpoint": config["endpoint"],
            "method": "health",
            "text": response.body.decode("utf-8", "replace"),
        }
        if not 200 <= response.status < 300:
            failure = failure_of(response, source="mcp")
            raise ToolCallError(failure, data={**data, "status": "error"})
        return ToolResult(data=data)

    async def _ask(
        self, config: Fields, call: CallContext, message: Fields, session: str = ""
    ) -> tuple[Fields, str]:
        """The answer to a message, and the session it belongs to (TL-MCP-02)."""
        request = _request(
            config, call, "POST", str(config["endpoint"]), message, session
        )
        response = await self._web.fetch(request)
        if not 200 <= response.status < 300:
            raise ToolCallError(failure_of(response, "mcp: ", "mcp"))
        answer = _answer(response, message["id"])
        return answer, response.header("mcp-session-id") or session


def _params(config: Fields, method: str) -> Fields:
    """``params`` as given, else tool and arguments of ``tools/call``."""
    params = map_of(config, "params")
    if method != "tools/call" or params:
        return params
    _, tool = first_of(config, ("tool", "tool_name"))
    if not isinstance(tool, str) or not tool:
        raise configuration("tool: name the tool that is called")
    _, arguments = first_of(config, ("arguments", "args", "input"))
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = decode_json(arguments)
        except DecodeError as error:
            raise wrong("arguments", arguments, "a map") from error
    if arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, dict):
        raise wrong("arguments", arguments, "a map")
    return {"name": tool, "arguments": arguments}


def _message(number: int, method: str, params: JSON) -> Fields:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def _request(
    config: Fields,
    call: CallContext,
    method: str,
    url: str,
    message: Fields | None = None,
    session: str = "",
) -> WebRequest:
    headers = {name: str(text) for name, text in map_of(config, "headers").items()}
    headers["Accept"] = _ACCEPT
    if message is not None:
        headers["Content-Type"] = "application/json"
    if session:
        headers["Mcp-Session-Id"] = session
    secret = config["secret_headers"]
    assert isinstance(secret, list)
    return WebRequest(
        method=method,
        url=url,
        headers=headers,
        content=None if message is None else encode_json(message),
        secret_headers=frozenset(map(str, secret)),
        read_s=call.timeout_s,
    )


def _answer(response: WebResponse, number: JSON) -> Fields:
    """The message with our id, out of JSON or of an event stream."""
    text = response.body.decode("utf-8", "replace")
    if "text/event-stream" in response.header("content-type"):
        texts = _events(text)
    else:
        texts = [text]
    for one in texts:
        try:
            found = decode_json(one)
        except (DecodeError, RecursionError):
            continue  # a comment, or no message
        if isinstance(found, dict) and found.get("id") == number:
            return found
    raise ToolCallError(
        ToolFailure(
            kind="server_error",
            code="MCP_ANSWER",
            message=f"mcp: no answer to message {number} in {text[:200]!r}",
        )
    )


def _events(text: str) -> list[str]:
    """Data of every event; its lines joined."""
    found: list[str] = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line[5:].strip() for line in block.split("\n") if line[:5] == "data:"]
        found.append("\n".join(lines))
    return found


def _data(config: Fields, begun: Fields, answer: Fields) -> Fields:
    params, result = map_of(config, "params"), answer.get("result")
    data: Fields = {
        "status": "ok",
        "server": config["server"],
        "endpoint": config["endpoint"],
        "method": config["method"],
        "tool": params.get("name"),
        "arguments": params.get("arguments"),
        "text": _text(result),
        "result": result,
        "initialize": begun.get("result"),
    }
    error = answer.get("error")
    if error is None and isinstance(result, dict) and result.get("isError") is True:
        error = {"code": "isError", "message": data["text"] or "the tool failed"}
    return data if error is None else {**data, "status": "error", "error": error}


def _text(result: JSON) -> str:
    content = result.get("content") if isinstance(result, dict) else None
    if not isinstance(content, list):
        return ""
    return "\n".join(
        str(item.get("text", ""))
        for item in content
        if isinstance(item, dict) and item.get("type") == "text"
    )


def _failure(error: JSON) -> ToolFailure:
    fields = error if isinstance(error, dict) else {"message": str(error)}
    code = fields.get("code")
    wrong_request = isinstance(code, int) and code in _CLIENT_FAULTS
    return ToolFailure(
        kind="client_error" if wrong_request else "server_error",
        code=f"MCP_{code}",
        message=f"mcp: {fields.get('message') or 'failed'}",
        source="mcp",
    )
