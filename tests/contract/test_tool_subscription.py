"""The ``subscription`` tool in a step: a bounded drain that loses nothing (TL §3.16)."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import nats
import pytest
import tool_calls
from msgspec import Raw
from nats.js.api import ConsumerConfig
from services import NatsServer

from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.lifecycle import SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.values import Values
from state_builder.errors import NotFoundError
from state_builder.ports import Command
from state_builder.records import CommandContext, encode_json
from tools.contract import Held, ToolLimits, ToolResult
from tools.errors import ToolCallError
from tools.kinds.subscription import Subscription
from tools.pipeline import Runner
from tools.registry import Registry

pytestmark = pytest.mark.anyio


class Lab:
    """A stream with a consumer, and the tool that drains it."""

    def __init__(self, server: NatsServer, name: str, client: Any) -> None:
        self.name = name
        self.limits = ToolLimits(result_bytes_max=100_000)
        self.tool = Subscription(self.limits)
        self.js = client.jetstream()
        self.where = {
            "source": "nats",
            "url": server.url,
            "stream": name,
            "consumer": "work",
            "timeout_ms": 200,
        }

    async def result(self, **config: Any) -> ToolResult:
        return await tool_calls.run(self.tool, self.limits, **self.where, **config)

    async def data(self, **config: Any) -> Any:
        return (await self.result(**config)).data

    async def failure(self, **config: Any) -> ToolCallError:
        return await tool_calls.failing(
            self.tool, self.limits, **{**self.where, **config}
        )

    async def publish(self, *bodies: Any) -> None:
        for body in bodies:
            await self.js.publish(
                f"{self.name}.x", json.dumps(body).encode(), headers={"Trace": "t"}
            )

    async def pending(self) -> int:
        """Handed out and not yet acknowledged."""
        return int((await self.js.consumer_info(self.name, "work")).num_ack_pending)


@pytest.fixture
async def lab(nats_server: NatsServer, unique_name: str) -> AsyncIterator[Lab]:
    client = await nats.connect(nats_server.url)
    lab = Lab(nats_server, f"sub{unique_name}", client)
    await lab.js.add_stream(name=lab.name, subjects=[f"{lab.name}.>"])
    config = ConsumerConfig(durable_name="work", ack_policy="explicit", ack_wait=30)
    await lab.js.add_consumer(lab.name, config)
    yield lab
    await lab.tool.close()
    await client.close()


async def test_nothing_to_drain_is_success(lab: Lab) -> None:
    """TL-SU-02."""
    result = await lab.result()
    data: Any = result.data
    assert (data["status"], data["count"], data["messages"]) == ("success", 0, [])
    assert (data["acked"], data["ack_ids"], result.held) == (0, [], None)


async def test_messages_have_one_form(lab: Lab) -> None:
    """TL-SU-01, TL-SU-02, TL-SU-08."""
    await lab.publish({"n": 1})
    data = await lab.data(batch="10")
    message = data["messages"][0]
    assert (message["id"], message["data"]) == (f"{lab.name}:1", {"n": 1})
    assert (message["headers"]["trace"], message["attributes"]["Trace"]) == ("t", "t")
    assert message["metadata"]["subject"] == f"{lab.name}.x"
    assert "ack_id" not in message
    assert (data["source"], data["operation"], data["ack_mode"]) == (
        "nats",
        "poll",
        "on_success",
    )
    assert data["metrics"]["fetched"] == 1
    assert data["metrics"]["bytes"] == 8


async def test_messages_are_acknowledged_after_the_result_is_kept(lab: Lab) -> None:
    """TL-SU-03."""
    await lab.publish(1, 2)
    result = await lab.result()
    assert result.data["acked"] == 2  # type: ignore[index, call-overload]
    assert await lab.pending() == 2
    held = held_of(result)
    await held.hold()
    assert await lab.pending() == 2
    await held.settle(True)
    assert await lab.pending() == 0
    assert (await lab.data())["count"] == 0


async def test_a_step_that_failed_gives_them_back_at_once(lab: Lab) -> None:
    """TL-SU-03."""
    await lab.publish(1)
    await held_of(await lab.result()).settle(False)
    data = await lab.data()
    assert (data["count"], data["messages"][0]["metadata"]["delivered"]) == (1, 2)


def held_of(result: ToolResult) -> Held:
    assert result.held is not None
    return result.held


@pytest.mark.parametrize("mode", ["manual", "false", False, "defer", "deferred"])
async def test_a_later_step_may_acknowledge(lab: Lab, mode: Any) -> None:
    """TL-SU-01, TL-SU-04, TL-SU-05."""
    await lab.publish(1, 2, 3)
    result = await lab.result(ack=mode)
    assert result.held is None
    data: Any = result.data
    ids = data["ack_ids"]
    assert ids == [message["ack_id"] for message in data["messages"]]
    assert (data["acked"], len(ids)) == (0, 3)
    for operation, some in (("ack", ids[:1]), ("nak", ids[1:2]), ("term", ids[2:])):
        told = await lab.data(operation=operation, ack_ids=some)
        assert (told["status"], told["requested"], told["disposed"]) == (
            "success",
            1,
            1,
        )
    again = await lab.data(ack="none")
    assert [message["data"] for message in again["messages"]] == [2]
    delayed = await lab.data(operation="nack", ack_ids=[], nack_delay_ms=100)
    assert delayed["requested"] == 0


async def test_looking_takes_nothing_away(lab: Lab) -> None:
    """TL-SU-01: none."""
    await lab.publish(1)
    assert (await lab.data(ack="none"))["count"] == 1
    assert (await lab.data(ack="none"))["count"] == 1


async def test_ids_that_are_none_are_refused(lab: Lab) -> None:
    """TL-SU-04, TL-SU-05: no arbitrary publish."""
    await lab.publish(1)
    ids = (await lab.data(ack="defer"))["ack_ids"]
    told = await lab.data(operation="ack", ack_ids=[*ids, "orders.new"])
    assert (told["status"], told["disposed"]) == ("partial", 1)
    assert told["errors"][0]["ack_id"] == "orders.new"
    error = await lab.failure(operation="ack", ack_ids=["orders.new"])
    assert "is no ack id" in error.failure.message


async def test_a_batch_too_large_for_a_result_goes_back(lab: Lab) -> None:
    """TL-SU-03: a limit loses no message."""
    await lab.publish(*["x" * 60_000] * 2)
    error = await lab.failure()
    assert (error.failure.kind, error.failure.code) == ("limit", "result_bytes_max")
    assert (await lab.data(batch=1))["count"] == 1


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"source": "mqtt"}, "source must be one of nats, pubsub, kafka"),
        ({"source": "kafka"}, "kafka is not available"),
        ({"operation": "drop"}, "operation must be one of poll"),
        ({"operation": "ack"}, "operation ack needs ack_ids"),
        ({"ack": "maybe"}, "ack must be on_success"),
        ({"batch": 1001}, "batch must be a whole number from 1 to 1000"),
        ({"stream": None}, "needs stream and consumer"),
        ({"stream": "noetl_events"}, "belongs to the platform"),
        ({"source": "pubsub", "subscription": "x"}, "subscription must be a name"),
    ],
)
async def test_bad_input_is_said(lab: Lab, config: dict[str, Any], named: str) -> None:
    """TL-SU-01, TL-SU-07, TL-NA-05."""
    error = await lab.failure(**config)
    assert error.failure.kind == "configuration"
    assert named in error.failure.message


class Api(BaseHTTPRequestHandler):
    """Pub/Sub's REST API for one message, and what was asked of it."""

    asked: list[tuple[str, Any, str | None]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body, self.headers.get("Authorization")))
        known = self.path.startswith("/v1/projects/p/subscriptions/s:")
        answer: Any = {}
        if self.path.endswith(":pull"):
            message = {
                "data": base64.b64encode(b'{"n": 1}').decode(),
                "attributes": {"Kind": "a"},
                "messageId": "m1",
                "publishTime": "2024-01-01T00:00:00Z",
            }
            answer = {"receivedMessages": [{"ackId": "a1", "message": message}]}
        data = json.dumps(answer).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def pubsub() -> Iterator[tuple[str, list[Any]]]:
    asked: list[Any] = []
    handler = type("Handler", (Api,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


async def test_pubsub_is_drained_by_its_rest_api(pubsub: tuple[str, list[Any]]) -> None:
    """TL-SU-06."""
    endpoint, asked = pubsub
    limits = ToolLimits()
    tool = Subscription(limits)
    where = {
        "source": "pubsub",
        "endpoint": endpoint,
        "subscription": "projects/p/subscriptions/s",
        "token": "secret-token",
    }
    result = await tool_calls.run(tool, limits, **where)
    data: Any = result.data
    message = data["messages"][0]
    assert (message["id"], message["data"], message["headers"]) == (
        "m1",
        {"n": 1},
        {"kind": "a"},
    )
    held = held_of(result)
    await held.hold()
    await held.settle(True)
    await held.settle(False)
    await tool_calls.run(
        tool, limits, **where, operation="nack", ack_ids=["a1"], nack_delay_ms=5000
    )
    await tool_calls.run(tool, limits, **where, operation="term", ack_ids=["a1"])
    name = "/v1/projects/p/subscriptions/s"
    assert [(path.removeprefix(name), body) for path, body, _ in asked] == [
        (":pull", {"maxMessages": 100}),
        (":modifyAckDeadline", {"ackIds": ["a1"], "ackDeadlineSeconds": 60}),
        (":acknowledge", {"ackIds": ["a1"]}),
        (":modifyAckDeadline", {"ackIds": ["a1"], "ackDeadlineSeconds": 0}),
        (":modifyAckDeadline", {"ackIds": ["a1"], "ackDeadlineSeconds": 5}),
        (":acknowledge", {"ackIds": ["a1"]}),
    ]
    assert {token for _, _, token in asked} == {None}
    where["subscription"] = "projects/p/subscriptions/none"
    error = await tool_calls.failing(tool, limits, **where)
    assert error.failure.kind == "not_found"
    await tool.close()


class NoWallet:
    """Nothing is stored anywhere."""

    async def credential(self, alias: str, asker: object, want: object) -> Any:
        raise NotFoundError(alias)

    def forget(self, alias: str) -> None:
        raise AssertionError("nothing was ever given")


@pytest.mark.parametrize(("last", "left"), [("noop", 0), ("nothing", 1)])
async def test_a_pipeline_answers_for_what_its_tasks_took(
    lab: Lab, last: str, left: int
) -> None:
    """TL-SU-03: through the runner, whose worker settles once the outcome is stored."""
    await lab.publish(1)
    tasks = [
        {"label": "take", "kind": "subscription", **lab.where},
        {"label": "last", "kind": last},
    ]
    tool = {"kind": "task_sequence", "tasks": tasks}
    context = CommandContext(tool_config=Raw(encode_json(tool)))
    command = Command(
        execution_id="7", command_id="c", step="s", kind="task_sequence", visit=1, iteration="",
        attempt=1, context=encode_json(context), path="p", worker_id="w", trace={}, sequence=1,
    )  # fmt: skip
    runner = Runner(
        Registry(lab.limits),
        lab.limits,
        SystemClock(),
        PrometheusObserver(),
        NoWallet(),
        Values(MemoryResults(), SystemClock(), PrometheusObserver()),
    )
    outcome = await runner.run(command)
    assert outcome.failed is bool(left)
    assert await lab.pending() == 1
    await runner.hold("c")
    await runner.settle("c", not outcome.failed)
    assert (await lab.data())["count"] == left
    await runner.settle("c", True)
    await runner.close()
