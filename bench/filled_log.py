"""A log with history, for W4 and W5: executions of a ten-step chain, half of them open.

One execution is decided by the drive itself; the others are the same bytes under other
ids, spread over the shards as their ids say.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from noetl_worker.bus.nats import NatsBus
from noetl_worker.bus.topology import BusSettings
from noetl_worker.metrics import PrometheusObserver
from state_builder.ids import shard_of
from state_builder.records import Record, decode_append

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from world import EXECUTION, World

FIRST_ID = 7_000_000_000_000_000_000 % (1 << 62)


def history(text: str, catalog_id: str, steps: int) -> list[tuple[str, bytes]]:
    """Messages of one execution after so many finished steps: (pool, data)."""
    world = World(text)
    world.start()
    world.settle()
    for _ in range(steps):
        ready = world.open_commands()
        if not ready:
            break
        world.finish(*ready[0])
        world.settle()
    found = []
    for message in world.log:
        data = message.data.replace(
            b'"catalog_id":"1"', f'"catalog_id":"{catalog_id}"'.encode()
        )
        pool = "nobody" if b'"command.issued"' in data else ""
        found.append((pool, data))
    return found


async def fill(
    settings: BusSettings, text: str, catalog_id: str, executions: int
) -> int:
    """Append executions, every second of them open half-way; how many events."""
    whole = history(text, catalog_id, 10)
    partial = history(text, catalog_id, 2)
    count = 0
    async with NatsBus.connect(settings, PrometheusObserver()) as bus:
        await bus.ensure_log(create=False)
        waiting = []
        for number in range(executions):
            eid = str(FIRST_ID + number)
            messages = whole if number % 2 else partial
            shard = shard_of(eid, settings.shard_count)
            for place, (pool, data) in enumerate(messages):
                records = decode_append(
                    data.replace(EXECUTION.encode(), eid.encode())
                ).records
                count += sum(len(record.events) for record in records)
                waiting.append(_append(bus, shard, records, f"{eid}:{place}", pool))
            if len(waiting) > 256:
                await _all(waiting)
                waiting = []
        await _all(waiting)
    return count


def _append(bus: NatsBus, shard: int, records: list[Record], key: str, pool: str):  # type: ignore[no-untyped-def]
    return bus.log.append(shard, records, message_id=key, pool=pool)  # type: ignore[arg-type]


async def _all(waiting: list) -> None:  # type: ignore[type-arg]
    for one in waiting:
        await one
    await anyio.lowlevel.checkpoint()
