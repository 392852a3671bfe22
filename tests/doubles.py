"""Time that passes when told, and an observer that remembers."""

from __future__ import annotations

import asyncio


class ManualClock:
    """Time that passes when told; a sleeper wakes when its time has come."""

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return 1_800_000_000.0 + self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, woken))
        await woken

    def advance(self, seconds: float) -> None:
        self._now += seconds
        due = [woken for until, woken in self._sleepers if until <= self._now]
        self._sleepers = [each for each in self._sleepers if each[0] > self._now]
        for woken in due:
            if not woken.done():
                woken.set_result(None)


class Counting:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.gauges: dict[str, float] = {}

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        key = ".".join([name, *labels.values()])
        self.counts[key] = self.counts.get(key, 0.0) + amount

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.gauges[name] = value

    def time(self, name: str, seconds: float, **labels: str) -> None:
        self.count(name)
