"""``http``: what is sent, byte by byte, and what is refused before anything is sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from calls import call, context, refusal
from web_server import WebServer, reply, web_server

from state_builder.errors import TemplateError
from tools.contract import ToolLimits
from tools.errors import ToolCallError
from tools.kinds.http import Http

LIMITS = ToolLimits()

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    tool = Http(LIMITS)
    yield tool
    await tool.close()


async def sent(http: Http, server: WebServer, **config: Any) -> Any:
    """The request of a call that succeeds."""
    await call(http, LIMITS, **{"url": f"{server.url}/x", **config})
    return server.seen[-1]


async def test_headers_and_parameters_become_texts(
    http: Http, server: WebServer
) -> None:
    """TL-HT-01."""
    seen = await sent(
        http,
        server,
        url=f"{server.url}/x?kept=1",
        headers={"X-N": 3, "X-F": 1e22, "X-B": True, "X-Z": None, "X-M": {"a": [1]}},
        params='{"n": [1, 2], "t": "a b&c", "no": null, "f": 0.00001}',
    )
    assert seen.target == "/x?kept=1&n=1&n=2&t=a+b%26c&f=0.00001"
    given = {name: seen.headers.get(f"x-{name}") for name in "nfbzm"}
    assert given == {
        "n": "3",
        "f": "10000000000000000000000",
        "b": "true",
        "z": None,
        "m": '{"a":[1]}',
    }


BODIES: dict[str, tuple[dict[str, Any], str, str]] = {
    # what is given: (configuration, Content-Type, body)
    "json": ({"json": {"a": 1}, "form": {"b": 1}}, "application/json", '{"a":1}'),
    "payload": ({"payload": [1]}, "application/json", "[1]"),
    "false json": ({"json": False, "body": "x"}, "application/json", "false"),
    "json text": ({"json": "a"}, "application/json", '"a"'),
    "form": (
        {"form": {"a": "1 2", "n": None, "b": True}, "body": "x"},
        "application/x-www-form-urlencoded",
        "a=1+2&b=true",
    ),
    "text": ({"body": "héllo"}, "text/plain", "héllo"),
    "text of json": ({"body": ' {"a": 1}'}, "application/json", ' {"a": 1}'),
    "looks like json": ({"body": "{no}"}, "text/plain", "{no}"),
    "object": ({"body": {"a": None}}, "application/json", '{"a":null}'),
    "own type": (
        {"body": "<a/>", "headers": {"content-type": "text/xml"}},
        "text/xml",
        "<a/>",
    ),
    "older data": ({"data": {"a": 1}}, "application/json", '{"a":1}'),
    "older body": ({"data": {"body": {"a": 1}}}, "application/json", '{"a":1}'),
    "older form": (
        {
            "data": {"a": "x"},
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        },
        "application/x-www-form-urlencoded",
        "a=x",
    ),
    "explicit wins": ({"data": {"a": 1}, "body": "b"}, "text/plain", "b"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_the_body_follows_from_what_is_given(
    http: Http, server: WebServer, name: str
) -> None:
    """TL-HT-02, TL-HT-03."""
    config, kind, body = BODIES[name]
    seen = await sent(http, server, method="post", **config)
    assert (seen.headers["content-type"], seen.body.decode()) == (kind, body)


async def test_older_data_of_a_get_is_its_query(http: Http, server: WebServer) -> None:
    """TL-HT-03."""
    assert (await sent(http, server, data={"a": 1})).target == "/x?a=1"
    seen = await sent(http, server, data={"query": {"a": 1}}, params={"b": 2})
    assert seen.target == "/x?b=2"


async def test_a_multipart_form_carries_texts_and_files(
    http: Http, server: WebServer
) -> None:
    """TL-HT-03."""
    seen = await sent(
        http,
        server,
        method="POST",
        headers={"Content-Type": "multipart/form-data"},
        data={
            "n": 1,
            "f": {"filename": "a.bin", "base64": "AAE=", "content_type": "x/y"},
        },
    )
    assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="n"\r\n\r\n1\r\n' in seen.body
    assert b'filename="a.bin"\r\nContent-Type: x/y\r\n\r\n\x00\x01\r\n' in seen.body


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no url": ({"url": None}, "url must be an http or https address"),
    "other scheme": ({"url": "ftp://h/x"}, "'ftp://h/x' is no http or https"),
    "file": ({"url": "file:///etc/passwd"}, "no http or https address"),
    "no host": ({"url": "http:///x"}, "no http or https address"),
    "bad port": ({"url": "http://h:99999/"}, "no http or https address"),
    "secret in url": ({"url": "ftp://u:hunter22@h/"}, "'ftp://h/'"),
    "method": ({"method": "BREW"}, "method must be one of GET, POST"),
    "header name": ({"headers": {"a b": "1"}}, "'a b' cannot be the name"),
    "header value": ({"headers": {"a": "1\r\nX: 2"}}, "headers.a: a line break"),
    "header NUL": ({"headers": {"a": "1\x00"}}, "headers.a: a line break"),
    "host": ({"headers": {"HOST": "x"}}, "headers.HOST cannot be set"),
    "length": ({"headers": {"Content-Length": 1}}, "cannot be set"),
    "chunked": ({"headers": {"Transfer-Encoding": "chunked"}}, "cannot be set"),
    "headers": ({"headers": [1]}, "headers must be a map, got a list"),
    "headers text": ({"headers": "nope"}, "headers must be a map, got a text 'nope'"),
    "params": ({"params": 3}, "params must be a map, got a number 3"),
    "verify": ({"verify": "maybe"}, "verify must be true or false"),
    "follow": ({"follow_redirects": 7}, "follow_redirects must be true or false"),
    "type": ({"response_type": "xml"}, "response_type must be one of auto, json"),
    "wait": (
        {"spec": {"timeout": {"connect": -1}}},
        "spec.timeout.connect must be a positive",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_sent_is_said_before_anything_is(
    http: Http, server: WebServer, name: str
) -> None:
    """TL-HT-09, TL-HT-10, TL-INT-04, TL-SEC-03: field, what is wanted, what came."""
    config, text = REFUSED[name]
    error = await refusal(http, LIMITS, **{"url": f"{server.url}/x", **config})
    assert error.failure.kind == "configuration" and not error.failure.retryable
    assert text in error.failure.message
    assert server.seen == []


async def test_a_template_left_in_the_url_is_named(http: Http) -> None:
    """TL-HT-10."""
    with pytest.raises(TemplateError, match="url: a template is left"):
        await call(http, LIMITS, url="http://h/{{ id }}")


async def test_credentials_become_headers_that_the_author_may_override(
    http: Http, server: WebServer
) -> None:
    """TL-HT-10, TL-HT-11, TL-AUT-02."""
    token = {"type": "bearer", "token": "t0ken"}
    seen = await sent(http, server, auth=token)
    assert seen.headers["authorization"] == "Bearer t0ken"
    named = {"a": {"type": "s3"}, "b": {"type": "api_key", "token": "k", "header": "K"}}
    assert (await sent(http, server, auth=named)).headers["k"] == "k"
    seen = await sent(http, server, auth=token, headers={"authorization": "mine"})
    assert seen.headers["authorization"] == "mine"
    userinfo = f"http://me:s%40me@127.0.0.1:{server.port}/x"
    result = await call(http, LIMITS, url=userinfo)
    assert server.seen[-1].headers["authorization"] == "Basic bWU6c0BtZQ=="
    assert isinstance(result.data, dict) and result.data["url"] == f"{server.url}/x"


async def test_a_call_that_is_repeated_carries_the_same_key(
    http: Http, server: WebServer
) -> None:
    config = http.validate({"url": f"{server.url}/x", "method": "POST"})
    for index, attempt in ((0, 1), (0, 2), (3, 1)):
        await http.run(config, context(LIMITS, index=index, attempt=attempt))
    keys = [seen.headers["idempotency-key"] for seen in server.seen]
    assert keys == ["7.s.1.1", "7.s.1.1", "7.s.1.1.3"]


async def test_credentials_stay_with_their_origin(
    http: Http, server: WebServer
) -> None:
    """TL-HT-08."""
    async with web_server() as other:
        server.answers["/x"] = reply(status=307, location=f"{other.url}/y")
        server.answers["/same"] = reply(status=302, location="/z")
        config: dict[str, Any] = {
            "method": "POST",
            "auth": {"type": "api_key", "token": "k", "header": "X-Mine"},
            "headers": {"Cookie": "c=1", "X-Kept": "1"},
            "json": {"a": 1},
        }
        await call(http, LIMITS, url=f"{server.url}/x", **config)
        away = other.seen[-1]
        assert (away.method, away.body) == ("POST", b'{"a":1}')
        assert away.headers["x-kept"] == "1"
        assert not {"x-mine", "cookie", "authorization"} & away.headers.keys()
        await call(http, LIMITS, url=f"{server.url}/same", **config)
        near = server.seen[-1]
        assert (near.method, near.body, near.headers["x-mine"]) == ("GET", b"", "k")
        assert "content-type" not in near.headers


async def test_a_redirect_that_is_not_followed_is_an_error_with_data(
    http: Http, server: WebServer
) -> None:
    """TL-HT-08."""
    server.answers["/x"] = reply(status=302, reason="Found", location="/y")
    error = await refusal(http, LIMITS, url=f"{server.url}/x", follow_redirects="false")
    assert error.failure.message == "HTTP 302 Found"
    assert isinstance(error.data, dict)
    assert error.data["headers"] == {"content-length": "0", "location": "/y"}


async def test_redirects_end(http: Http, server: WebServer) -> None:
    server.answers["/x"] = reply(status=302, location="/x")
    error = await refusal(http, LIMITS, url=f"{server.url}/x")
    assert error.failure.code == "TOO_MANY_REDIRECTS"
    assert len(server.seen) == 11


async def test_connections_are_kept_and_cookies_are_not(
    http: Http, server: WebServer
) -> None:
    """TL-HT-13."""
    server.answers["/login"] = reply(set_cookie="sid=1; Path=/")
    await call(http, LIMITS, url=f"{server.url}/login")
    seen = await sent(http, server)
    assert "cookie" not in seen.headers
    assert server.connections == 1


EGRESS: dict[str, tuple[dict[str, Any], str]] = {
    "by address": ({"http_deny_cidrs": ("127.0.0.0/8",)}, "http://127.0.0.1:{port}/x"),
    "by name": (
        {"http_deny_cidrs": ("127.0.0.0/8", "::1/128")},
        "http://localhost:{port}/x",
    ),
    "by number": ({"http_deny_cidrs": ("127.0.0.0/8",)}, "http://2130706433:{port}/x"),
    "mapped": (
        {"http_deny_cidrs": ("127.0.0.0/8",)},
        "http://[::ffff:127.0.0.1]:{port}/x",
    ),
    "not allowed": ({"http_allow_cidrs": ("10.0.0.0/8",)}, "http://127.0.0.1:{port}/x"),
    "metadata": ({}, "http://169.254.169.254/latest/meta-data"),
    "metadata in IPv6": ({}, "http://[fd00:ec2::254]/latest/meta-data"),
}


@pytest.mark.parametrize("name", EGRESS)
async def test_denied_addresses_are_not_called(server: WebServer, name: str) -> None:
    """TL-SEC-05: whatever way the address is written."""
    given, url = EGRESS[name]
    limits = ToolLimits(**given)
    http = Http(limits)
    error = await refusal(http, limits, url=url.format(port=server.port))
    await http.close()
    assert error.failure.kind == "configuration", error.failure
    assert " is at " in error.failure.message
    assert server.seen == []


async def test_a_redirect_does_not_lead_to_a_denied_address(
    http: Http, server: WebServer
) -> None:
    """TL-SEC-05."""
    server.answers["/x"] = reply(status=302, location="http://169.254.169.254/")
    error = await refusal(http, LIMITS, url=f"{server.url}/x")
    assert "169.254.169.254, in the denied range" in error.failure.message


async def test_the_servers_internal_api_is_for_system_playbooks(
    server: WebServer,
) -> None:
    """TL-SEC-05."""
    limits = ToolLimits(server_url=server.url)
    http = Http(limits)
    config = http.validate({"url": f"{server.url}/api/internal/plugins/x"})
    with pytest.raises(ToolCallError, match="internal API is not open"):
        await http.run(config, context(limits, path="team/x"))
    await http.run(config, context(limits, path="system/x"))
    await http.close()
    assert json.loads(server.seen[0].body or "{}") == {} and len(server.seen) == 1
