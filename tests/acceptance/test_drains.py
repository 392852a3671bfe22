"""External messages through a whole fleet: acknowledged when the outcome is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from fleet_client import Fleet, fleet, playbook, until
from nats.js.api import ConsumerConfig

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

DRAIN = (
    "kind: subscription, source: nats, url: '{url}', stream: ORDERS, consumer: drain"
)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path / "data") as found:
        yield found


async def test_a_step_that_fails_gives_its_messages_back(running: Fleet) -> None:
    """TL-SU-03: taken again by the next run, and gone after one that succeeded."""
    url = running.stack.nats_url
    client = await nats.connect(url)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="ORDERS", subjects=["orders.>"])
    config = ConsumerConfig(durable_name="drain", ack_policy="explicit", ack_wait=300)
    await jetstream.add_consumer("ORDERS", config)
    for number in range(3):
        await jetstream.publish("orders.new", str(number).encode())
    take = DRAIN.format(url=url)

    async def run(path: str, steps: str) -> Any:
        await running.client.register(playbook(path, steps))
        execution_id = await running.start(path)
        return (await running.ended([execution_id]))[execution_id]

    async def left() -> bool:
        info = await jetstream.consumer_info("ORDERS", "drain")
        return (info.num_ack_pending or 0) + (info.num_pending or 0) == 0

    fails = f"  - step: start\n    tool:\n      - take: {{{take}}}\n      - fail: {{kind: python, code: 'raise ValueError(1)'}}\n"
    assert await run("t/drain_fails", fails) == "FAILED"
    assert not await left()
    takes = (
        f"  - {{step: start, tool: {{{take}}}, next: end}}\n"
        "  - {step: end, tool: {kind: noop, result: '{{ start.count }}'}}\n"
    )
    assert await run("t/drain", takes) == "COMPLETED"
    rows = await running.rows(
        "SELECT result::text FROM noetl.execution WHERE path = 't/drain'"
    )
    assert rows[0][0] == "3"
    await until(left, lambda: "messages are left at the source")
    await client.close()
