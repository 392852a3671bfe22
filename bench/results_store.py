"""What the result store takes and gives: 100 MB put and read again, and the memory.

Of one worker's process alone, against the stack's own broker: piece by piece, proven
by its digest on the way out.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from noetl_worker.bus.nats import NatsBus
from noetl_worker.bus.topology import BusSettings
from noetl_worker.lifecycle import SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.values import Values, ValueSettings
from state_builder.locator import Locator

MIB = 1024 * 1024
SIZE_MIB = 100
RUNS = 3


async def results(nats_url: str) -> dict[str, Any]:
    """Best of a few runs, and the most memory any of them took beyond the start."""
    observer = PrometheusObserver()
    settings = BusSettings(urls=nats_url, client_name="bench")
    best: dict[str, float] = {"put": 0.0, "get": 0.0, "both": 0.0}
    async with NatsBus.connect(settings, observer) as bus:
        values = Values(
            bus.results("bench_results"),
            SystemClock(),
            observer,
            ValueSettings(cache_bytes=0),
        )
        before = resident_mib()
        most = before
        for run in range(RUNS):
            place = Locator("results", ("1", "bench", "1", "0", "1"), f"v{run}")
            began = time.perf_counter()
            reference = await values.keep_stream(place, pieces(), {})
            put_s = time.perf_counter() - began
            opened = await values.open(reference.ref)
            began = time.perf_counter()
            size = 0
            async for chunk in opened.chunks:
                size += len(chunk)
            get_s = time.perf_counter() - began
            if size != SIZE_MIB * MIB:
                raise RuntimeError(f"{size} bytes came back")
            most = max(most, resident_mib())
            for name, seconds in (("put", put_s), ("get", get_s)):
                best[name] = max(best[name], SIZE_MIB / seconds)
            best["both"] = max(best["both"], 2 * SIZE_MIB / (put_s + get_s))
            await values.drop(reference.ref)
    return {
        "put_mb_per_s": round(best["put"], 1),
        "get_mb_per_s": round(best["get"], 1),
        "put_get_mb_per_s": round(best["both"], 1),
        "extra_memory_mib": round(most - before, 1),
    }


async def pieces() -> AsyncIterator[bytes]:
    """The value, a MiB at a time."""
    piece = bytes(range(256)) * (MIB // 256)
    for _ in range(SIZE_MIB):
        yield piece


def resident_mib() -> float:
    """Most memory this process ever had at once."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0
