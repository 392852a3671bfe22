"""The life of a role: clock and ids, readiness, signals, and stopping in order.

A role is a set of daemons in one task group. A daemon is a coroutine function that is
given an event: it works until the event is set, then finishes what it has begun and
returns. The first signal (or the end of any daemon) turns readiness off and sets the
event; what is not done after the grace is cancelled; a second signal exits at once.
Adapters are opened before and closed after :func:`run_role`, in reverse order, by the
composition root.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

import anyio
import structlog
from anyio.abc import TaskStatus

from state_builder.ids import ExecutionId, Shard, shard_of, snowflake

log = structlog.get_logger(__name__)

Daemon: TypeAlias = Callable[[anyio.Event], Awaitable[None]]
"""Works until the event is set, then finishes what it has begun and returns."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_SEQUENCES: Final = 1 << 12


class SystemClock:
    """Time as this machine tells it."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back, of this process alone."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait; cancellable."""
        await anyio.sleep(seconds)


def machine_number(configured: int | None, host: str = "") -> int:
    """The machine part of snowflakes: as configured, else from the host's name."""
    if configured is not None:
        return configured
    value = 0xCBF29CE484222325
    for byte in (host or socket.gethostname()).encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value & 1023


class SnowflakeIds:
    """Mints ids that grow with time and never repeat in this process (RT-EVT-10).

    A clock that goes back is not followed: ids go on from the last millisecond, and
    borrow the next one when its 4,096 numbers are used up (RT-EVT-12).
    """

    def __init__(
        self, machine: int, now: Callable[[], float], first: int | None = None
    ) -> None:
        self._machine = machine
        self._now = now
        # A random start keeps two processes with one machine number apart.
        self._first = random.randrange(_SEQUENCES) if first is None else first
        self._sequence = self._first
        self._used = 0
        self._last_ms = 0

    def mint(self) -> str:
        """A new id, decimal."""
        now_ms = int(self._now() * 1000)
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._used = 0
        elif self._used >= _SEQUENCES:
            self._last_ms += 1
            self._used = 0
        self._used += 1
        self._sequence = (self._sequence + 1) % _SEQUENCES
        return str(snowflake(self._last_ms, self._machine, self._sequence))

    def mint_on(self, shard: Shard, shard_count: int) -> ExecutionId:
        """A new id that falls on a shard."""
        while True:
            candidate = self.mint()
            if shard_of(candidate, shard_count) == shard:
                return ExecutionId(candidate)


class Readiness:
    """Whether this process should be given work, and if not, why.

    Ready while no reason stands against it. ``checks`` are asked each time: a text they
    give is a reason too.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {"process": "starting"}
        self._checks: dict[str, Callable[[], str]] = {}

    def hold(self, part: str, reason: str) -> None:
        """A part is not ready."""
        self._reasons[part] = reason

    def clear(self, part: str) -> None:
        """That part is ready."""
        self._reasons.pop(part, None)

    def watch(self, part: str, check: Callable[[], str]) -> None:
        """Ask a part whenever somebody asks us; an empty text means ready."""
        self._checks[part] = check

    def reasons(self) -> Mapping[str, str]:
        """What stands against it, by part."""
        asked = {part: check() for part, check in self._checks.items()}
        return {**{part: text for part, text in asked.items() if text}, **self._reasons}

    @property
    def ready(self) -> bool:
        """Nothing stands against it."""
        return not self.reasons()


async def run_role(
    name: str,
    daemons: Mapping[str, Daemon],
    *,
    readiness: Readiness,
    grace_s: float,
    stop: anyio.Event | None = None,
) -> None:
    """Run daemons until a signal, ``stop``, or the end of one of them.

    Raises what a daemon raised, after the others were stopped in order.
    """
    stop = stop or anyio.Event()
    failures: list[Exception] = []
    async with anyio.create_task_group() as watch:
        await watch.start(_hear_signals, stop)
        with anyio.CancelScope() as work:
            async with anyio.create_task_group() as tasks:
                for part, daemon in daemons.items():
                    tasks.start_soon(_run_daemon, part, daemon, stop, failures)
                readiness.clear("process")
                log.info("role.started", role=name, daemons=list(daemons))
                await stop.wait()
                readiness.hold("process", "stopping")
                log.info("role.stopping", role=name, grace_s=grace_s)
                work.deadline = anyio.current_time() + grace_s
        watch.cancel_scope.cancel()
    if work.cancelled_caught:
        log.warning("role.cut_short", role=name, grace_s=grace_s)
    log.info("role.stopped", role=name, failed=bool(failures))
    if failures:
        raise failures[0]


async def _run_daemon(
    part: str, daemon: Daemon, stop: anyio.Event, failures: list[Exception]
) -> None:
    try:
        await daemon(stop)
    except Exception as error:
        # Raised by run_role once the other daemons have stopped in order.
        log.error("daemon.failed", daemon=part, error=str(error), exc_info=error)
        failures.append(error)
    if not stop.is_set():
        log.info("daemon.ended", daemon=part)
        stop.set()


async def _hear_signals(
    stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    heard = False
    with anyio.open_signal_receiver(*_SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            log.info("signal.received", signal=signal.Signals(number).name)
            if heard:
                # Whoever asks twice does not want to wait for cleaning up.
                os._exit(128 + number)
            heard = True
            stop.set()
