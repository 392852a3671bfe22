"""Containers without an engine: the command as a process of this worker.

For tests and for machines that have nothing else; the image is not looked at. What runs
ends with its worker, so there is never anything to adopt.
"""

from __future__ import annotations

from pathlib import Path

from anyio import to_thread

from tools.contract import ToolLimits
from tools.doors.containers.interface import Spec, State, tail, without_secrets
from tools.doors.files import make_scratch, remove_scratch
from tools.doors.process import Finished, bare_environment, bounds_of, run
from tools.errors import configuration


class ProcessDriver:
    """See :class:`tools.doors.containers.interface.Driver`."""

    name = "process"
    first_s = 2.0
    longest_s = 2.0

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits

    async def start(self, spec: Spec) -> str:
        """Nothing runs before somebody looks: so a call-back may take its place."""
        if not (*spec.command, *spec.args):
            raise configuration("command: the process driver needs one")
        without_secrets(spec, self.name)
        return spec.name

    async def status(self, spec: Spec) -> State:
        """Run it to its end; cancelling ends it and all it started."""
        home = await to_thread.run_sync(make_scratch, self._limits, "container")
        extra = without_secrets(spec, self.name)
        try:
            finished = await run(
                [*spec.command, *spec.args],
                env=bare_environment(self._limits.environment, home, extra),
                cwd=home,
                bounds=bounds_of(self._limits, self._limits.shell_rss_mb_max),
            )
        finally:
            remove_scratch(str(Path(home)))
        return _state(finished)

    async def cancel(self, spec: Spec) -> None:
        """Whoever waited was cancelled, and that ended it."""

    async def close(self) -> None:
        """Nothing is kept."""


def _state(finished: Finished) -> State:
    return State(
        terminal="failed" if finished.code else "succeeded",
        exit_code=finished.code,
        stdout=tail(finished.stdout.text()),
        stderr=tail(finished.stderr.text()),
    )
