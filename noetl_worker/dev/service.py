"""A process that should be running: started, probed, restarted after a crash.

A crash before the service was ever ready is final, for it would crash again; after
that it is started again with a growing pause. Ends that were asked for (``stop``, or
``kill`` without ``restart``) are no crashes. What people should know is told to
``report``.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from noetl_worker.dev.child import Child, Command, StackError
from noetl_worker.dev.watch import Watch

PROBE_EVERY_S = 0.02
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 10.0
HEALTHY_AFTER_S = 30.0

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """What a service is.

    Attributes:
        probe: True once it does its work, asked again and again until then.
        stop_signal: how it is asked to end in good order.
        stop_grace_s: how long it may take for that.
    """

    command: Command
    probe: Callable[[], Awaitable[bool]]
    stop_signal: int = signals.SIGTERM
    stop_grace_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every service of a stack shares."""

    tasks: TaskGroup
    watch: Watch
    report: Report
    restarts: bool


class Service:
    """One process and the will to keep it running."""

    def __init__(self, spec: ServiceSpec, around: Surroundings) -> None:
        self.spec = spec
        self._around = around
        self._child: Child | None = None
        self._wanted = False
        self._restarts = around.restarts
        self._was_ready = False
        self._backoff_s = BACKOFF_FIRST_S

    @property
    def name(self) -> str:
        return self.spec.command.name

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child and self.running else None

    @property
    def wanted(self) -> bool:
        """Whether it should be running, now or after the pause of a restart."""
        return self._wanted

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def start(self) -> None:
        """Start it unless it runs; returns before it is ready."""
        self._wanted = True
        self._restarts = self._around.restarts
        if self.running:
            return
        child = self._child = await Child.start(self.spec.command)
        self._around.watch.add(child.pid, self.spec.stop_signal)
        self._around.tasks.start_soon(self._follow, child)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the probe says yes.

        Raises:
            StackError: it ended instead, or took longer; with the end of its log.
        """
        with anyio.move_on_after(timeout_s) as patience:
            while not await self.spec.probe():
                child = self._child
                if child is None or (child.returncode is not None and self._final()):
                    raise StackError(self._story("did not become ready"))
                await anyio.sleep(PROBE_EVERY_S)
        if patience.cancelled_caught:
            raise StackError(self._story(f"was not ready within {timeout_s:.0f} s"))
        self._was_ready = True

    async def stop(self) -> None:
        """End it in good order; a crash from now on is no crash."""
        self._wanted = False
        if self._child is None:
            return
        if not await self._child.stop(self.spec.stop_signal, self.spec.stop_grace_s):
            self._around.report(
                f"{self.name} did not end within {self.spec.stop_grace_s:.0f} s, killed"
            )

    async def kill(self, signal: int, *, restart: bool) -> None:
        """Send a signal that ends the process, and wait until it is gone."""
        if self._child is None:
            return
        self._wanted = self._restarts = restart
        self._child.send(signal)
        await self._child.wait()

    def send(self, signal: int) -> None:
        """Send a signal and do not wait for anything."""
        if self._child is not None:
            self._child.send(signal)

    def destroy(self) -> None:
        """Kill it and everything in its session at once."""
        self._wanted = False
        if self._child is not None:
            self._child.kill_session()

    async def _follow(self, child: Child) -> None:
        started = anyio.current_time()
        await child.wait()
        self._around.watch.remove(child.pid)
        child.kill_session()
        if not self._wanted or child is not self._child:
            return
        if self._final():
            self._around.report(self._story(child.ending()))
            return
        if anyio.current_time() - started > HEALTHY_AFTER_S:
            self._backoff_s = BACKOFF_FIRST_S
        pause, self._backoff_s = (
            self._backoff_s,
            min(BACKOFF_MAX_S, self._backoff_s * 2),
        )
        self._around.report(
            self._story(f"{child.ending()}; starting it again in {pause:.1f} s")
        )
        await anyio.sleep(pause)
        if self._wanted and child is self._child:
            try:
                await self.start()
            except StackError as error:
                self._around.report(f"{error}; it stays away")

    def _final(self) -> bool:
        return not (self._restarts and self._was_ready)

    def _story(self, what: str) -> str:
        child = self._child
        text = f"{self.name} {what}"
        if child is None:
            return text
        if child.ending() not in text and child.returncode is not None:
            text += f": it {child.ending()}"
        lines = child.tail()
        where = f"\n  log: {child.command.log}"
        if not lines:
            return text + where + " (empty)"
        return text + where + "".join(f"\n  | {line}" for line in lines.splitlines())
