"""The ``nats`` tool on a real server (TL §3.9)."""

from __future__ import annotations

import base64
import gc
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
import tool_calls
from nats.js.api import ConsumerConfig
from services import NatsServer, free_port

from tools.contract import ToolLimits
from tools.doors.broker.connections import Connections
from tools.errors import ToolCallError
from tools.kinds.nats import Nats

pytestmark = pytest.mark.anyio


class Lab:
    """The tool, and a client that prepares what must exist."""

    def __init__(self, server: NatsServer, name: str, client: Any) -> None:
        self.url = server.url
        self.name = name
        self.limits = ToolLimits(result_bytes_max=100_000)
        self.tool = Nats(self.limits)
        self.client = client
        self.js = client.jetstream()

    async def data(self, operation: str, **config: Any) -> Any:
        config = {"url": self.url, "operation": operation, **config}
        return (await tool_calls.run(self.tool, self.limits, **config)).data

    async def failure(self, operation: str, **config: Any) -> ToolCallError:
        config = {"url": self.url, "operation": operation, **config}
        return await tool_calls.failing(self.tool, self.limits, **config)


@pytest.fixture
async def lab(nats_server: NatsServer, unique_name: str) -> AsyncIterator[Lab]:
    client = await nats.connect(nats_server.url)
    lab = Lab(nats_server, f"lab{unique_name}", client)
    await lab.js.create_key_value(bucket=lab.name, history=3)
    await lab.js.create_object_store(bucket=lab.name)
    await lab.js.add_stream(name=lab.name, subjects=[f"{lab.name}.>"])
    config = ConsumerConfig(durable_name="work", ack_policy="explicit", ack_wait=30)
    await lab.js.add_consumer(lab.name, config)
    yield lab
    await lab.tool.close()
    await client.close()


async def test_keys_are_written_read_listed_and_removed(lab: Lab) -> None:
    """TL-NA-01, TL-NA-02."""
    bucket = lab.name
    put = await lab.data("kv_put", bucket=bucket, key="a.b", value={"n": [1]}, ttl=5)
    assert put == {
        "status": "success",
        "operation": "kv_put",
        "bucket": bucket,
        "key": "a.b",
        "revision": 1,
    }
    assert await lab.data("kv_get", bucket=bucket, key="a.b") == {
        "status": "success", "operation": "kv_get", "bucket": bucket, "key": "a.b",
        "value": {"n": [1]}, "revision": 1,
    }  # fmt: skip
    await lab.data("kv_put", bucket=bucket, key="a.c", value="plain")
    await lab.data("kv_put", bucket=bucket, key="x", value=None)
    assert (await lab.data("kv_get", bucket=bucket, key="a.c"))["value"] == "plain"
    assert (await lab.data("kv_get", bucket=bucket, key="x"))["value"] is None
    keys = await lab.data("kv_keys", bucket=bucket, pattern="a.*")
    assert (keys["keys"], keys["count"]) == (["a.b", "a.c"], 2)
    assert (await lab.data("kv_keys", bucket=bucket))["count"] == 3
    await lab.data("kv_delete", bucket=bucket, key="a.b")
    await lab.data("kv_purge", bucket=bucket, key="a.c")
    gone = await lab.data("kv_get", bucket=bucket, key="a.b")
    assert (gone["status"], gone["value"]) == ("not_found", None)
    assert (await lab.data("kv_keys", bucket=bucket, pattern="a.*"))["keys"] == []


async def test_objects_hold_texts_and_bytes(lab: Lab) -> None:
    """TL-NA-01, TL-NA-02."""
    raw = base64.b64encode(b"\x00\xff").decode()
    put = await lab.data(
        "object_put",
        bucket=lab.name,
        name="a",
        data=raw,
        encoding="base64",
        description="d",
    )
    assert (put["name"], put["size"]) == ("a", 2)
    got = await lab.data("object_get", bucket=lab.name, name="a")
    assert (got["data"], got["encoding"], got["size"]) == (raw, "base64", 2)
    await lab.data("object_put", bucket=lab.name, name="j", data={"k": 1})
    assert (await lab.data("object_get", bucket=lab.name, name="j"))["data"] == {"k": 1}
    asked = await lab.data("object_get", bucket=lab.name, name="j", encoding="base64")
    assert base64.b64decode(asked["data"]) == b'{"k":1}'
    info = (await lab.data("object_info", bucket=lab.name, name="a"))["info"]
    assert (info["size"], info["description"], info["chunks"]) == (2, "d", 1)
    assert (await lab.data("object_list", bucket=lab.name))["count"] == 2
    await lab.data("object_delete", bucket=lab.name, name="a")
    error = await lab.failure("object_get", bucket=lab.name, name="a")
    assert error.failure.kind == "not_found"
    assert "object 'a' does not exist" in error.failure.message


async def test_an_object_too_large_for_a_result_is_a_limit(lab: Lab) -> None:
    await lab.data("object_put", bucket=lab.name, name="big", data="x" * 100_001)
    error = await lab.failure("object_get", bucket=lab.name, name="big")
    assert (error.failure.kind, error.failure.code) == ("limit", "result_bytes_max")


async def test_a_message_id_is_stored_once(lab: Lab) -> None:
    """TL-NA-01."""
    config = {
        "subject": f"{lab.name}.x",
        "data": {"n": 1},
        "headers": {"A": "b"},
        "msg_id": "m",
    }
    first = await lab.data("js_publish", **config)
    assert (first["stream"], first["seq"], first["duplicate"]) == (lab.name, 1, False)
    assert (await lab.data("js_publish", **config))["duplicate"] is True
    for which in (
        {"seq": 1},
        {"last": True},
        {"subject": f"{lab.name}.x"},
        {"last": f"{lab.name}.x"},
    ):
        found = await lab.data("js_get_msg", stream=lab.name, **which)
        assert (found["seq"], found["data"], found["headers"]["a"]) == (
            1,
            {"n": 1},
            "b",
        )
    info = await lab.data("js_stream_info", stream=lab.name)
    assert info["config"]["subjects"] == [f"{lab.name}.>"]
    assert (info["state"]["messages"], info["state"]["consumer_count"]) == (1, 1)


async def test_consuming_acknowledges_what_is_in_the_result(lab: Lab) -> None:
    """TL-NA-03, TL-NA-04: one message that is no text does not lose the batch."""
    consume: dict[str, Any] = {
        "stream": lab.name,
        "consumer": "work",
        "timeout_ms": 200,
    }
    empty = await lab.data("js_consume", **consume)
    assert (empty["count"], empty["acked"], empty["messages"]) == (0, 0, [])
    for data in (b'{"n": 1}', b"\xff", b"text"):
        await lab.js.publish(f"{lab.name}.y", data)
    kept = await lab.data("js_consume", **consume, ack=False, batch=1)
    assert (kept["count"], kept["acked"]) == (1, 0)
    rest = await lab.data("js_consume", **consume)
    assert [message["data"] for message in rest["messages"]] == ["/w==", "text"]
    assert rest["messages"][0]["encoding"] == "base64"
    assert rest["messages"][1]["stream_seq"] == 3
    info = await lab.js.consumer_info(lab.name, "work")
    assert info.num_ack_pending == 1


async def test_a_batch_too_large_for_a_result_stays_at_the_source(lab: Lab) -> None:
    """TL-NA-04: a limit loses no message."""
    for _ in range(3):
        await lab.js.publish(f"{lab.name}.y", b"x" * 50_000)
    error = await lab.failure("js_consume", stream=lab.name, consumer="work")
    assert error.failure.code == "result_bytes_max"
    info = await lab.js.consumer_info(lab.name, "work")
    assert info.num_ack_pending == 3


@pytest.mark.parametrize(
    ("operation", "config", "named"),
    [
        (
            "kv_get",
            {"bucket": "nobucket", "key": "a"},
            "bucket 'nobucket' does not exist",
        ),
        (
            "object_list",
            {"bucket": "nobucket"},
            "object store 'nobucket' does not exist",
        ),
        ("js_stream_info", {"stream": "nostream"}, "stream 'nostream' does not exist"),
        ("js_get_msg", {"stream": "nostream", "seq": 1}, "'nostream' does not exist"),
        (
            "js_consume",
            {"stream": "nostream", "consumer": "c"},
            "stream 'nostream' does not exist",
        ),
        (
            "js_publish",
            {"subject": "nobody.hears", "data": 1},
            "no stream takes that subject",
        ),
    ],
)
async def test_what_does_not_exist_is_named(
    lab: Lab, operation: str, config: dict[str, Any], named: str
) -> None:
    """TL-NA-03."""
    error = await lab.failure(operation, **config)
    assert error.failure.kind == "not_found"
    assert named in error.failure.message
    missing = await lab.failure("js_consume", stream=lab.name, consumer="nobody")
    assert "'nobody' does not exist" in missing.failure.message


@pytest.mark.parametrize(
    ("operation", "config", "named"),
    [
        ("kv_got", {}, "operation must be one of kv_get, kv_put"),
        ("kv_get", {"bucket": "b"}, "kv_get needs key"),
        ("kv_get", {"bucket": "b", "key": "a b"}, "key: 'a b' must be words"),
        ("kv_get", {"bucket": "b", "key": "a.*"}, "must be words joined by dots"),
        ("kv_get", {"bucket": "b", "key": "a..b"}, "must be words joined by dots"),
        ("kv_get", {"bucket": "noetl_workers", "key": "a"}, "belongs to the platform"),
        ("js_stream_info", {"stream": "noetl_events"}, "belongs to the platform"),
        ("js_get_msg", {"stream": "KV_noetl_workers", "seq": 1}, "belongs to the platform"),
        ("js_publish", {"subject": "noetl.events.0", "data": 1}, "belongs to the platform"),
        ("js_publish", {"subject": "$JS.API.STREAM.DELETE.x", "data": 1}, "belongs to"),
        ("js_publish", {"subject": "a", "data": 1, "headers": {"x": "a\r\nb"}}, "no header"),
        ("object_put", {"bucket": "b", "name": "n", "data": "%", "encoding": "base64"}, "base64"),
        ("js_get_msg", {"stream": "s"}, "needs seq, subject or last"),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_before_anything_is_sent(
    lab: Lab, operation: str, config: dict[str, Any], named: str
) -> None:
    """TL-NA-03, TL-NA-05."""
    error = await lab.failure(operation, **config)
    assert error.failure.kind == "configuration"
    assert named in error.failure.message


async def test_playbooks_of_the_platform_may_look_into_it(lab: Lab) -> None:
    """TL-NA-05."""
    config = lab.tool.validate(
        {"url": lab.url, "operation": "js_stream_info", "stream": "noetl_events"}
    )
    call = tool_calls.context(lab.limits, path="system/watch")
    with pytest.raises(ToolCallError) as caught:
        await lab.tool.run(config, call)
    assert caught.value.failure.kind == "not_found"


async def test_a_server_is_wanted_and_one_that_is_away_is_said(lab: Lab) -> None:
    error = await lab.failure("kv_keys", bucket="b", url=None)
    assert error.failure.kind == "configuration"
    assert "NOETL_NATS_TOOL_USE_WORKER_CONN" in error.failure.message
    url = f"nats://127.0.0.1:{free_port()}"
    error = await lab.failure("kv_keys", bucket="b", url=url)
    assert error.failure.kind == "connection"
    assert error.failure.retryable


async def test_a_wrong_password_is_an_auth_error(tmp_path: Any) -> None:
    server = NatsServer(tmp_path, 'authorization { user: "a", password: "right" }')
    server.start()
    limits = ToolLimits()
    tool = Nats(limits)
    try:
        config = {"url": server.url, "operation": "kv_keys", "bucket": "b", "user": "a"}
        error = await tool_calls.failing(tool, limits, password="wrong-one", **config)
        assert error.failure.kind == "auth"
        assert "wrong-one" not in error.failure.message
        auth = {"nats_user": "a", "nats_password": "right"}
        del config["user"]
        error = await tool_calls.failing(tool, limits, auth=auth, **config)
        assert error.failure.kind == "not_found"
        # A socket that was left open would be told here.
        gc.collect()
    finally:
        await tool.close()
        server.stop()


async def test_connections_are_shared_and_made_anew_after_a_fault(
    own_nats_server: NatsServer,
) -> None:
    """TL-NA-06."""
    limits = ToolLimits()
    tool = Nats(limits)
    config = {"url": own_nats_server.url, "operation": "kv_keys", "bucket": "b"}
    for _ in range(2):
        error = await tool_calls.failing(tool, limits, **config)
        assert error.failure.kind == "not_found"
    address = tool.validate(dict(config))["address"]
    connections = Connections()
    assert isinstance(address, dict)
    async with connections.use(address) as one, connections.use(address) as other:
        assert one is other
    own_nats_server.kill()
    error = await tool_calls.failing(tool, limits, **config)
    assert error.failure.kind == "connection"
    own_nats_server.start()
    error = await tool_calls.failing(tool, limits, **config)
    assert error.failure.kind == "not_found"
    await connections.close()
    await tool.close()
