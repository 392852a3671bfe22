"""Containers by the command line of docker or podman."""

from __future__ import annotations

from typing import Final

from msgspec import DecodeError, Struct, ValidationError, field
from msgspec.json import Decoder

from state_builder.records import ToolFailure
from tools.contract import ToolLimits
from tools.doors.containers.interface import Spec, State, tail, without_secrets
from tools.doors.files import make_scratch, remove_scratch
from tools.doors.process import Bounds, Finished, bare_environment, run
from tools.errors import ToolCallError

CLI_OUTPUT_MAX: Final = 1 << 20
_PULL_WORDS: Final = (
    *("pull access denied", "not found", "manifest unknown", "unable to find image"),
)


class _State(Struct, rename="pascal"):
    """``docker inspect``'s ``.State``; podman writes the same names."""

    status: str = ""
    running: bool = False
    exit_code: int = 0
    oom_killed: bool = field(default=False, name="OOMKilled")
    error: str = ""


_decode = Decoder(_State).decode


class EngineDriver:
    """See :class:`tools.doors.containers.interface.Driver`."""

    first_s = 0.1
    longest_s = 2.0

    def __init__(self, engine: str, limits: ToolLimits) -> None:
        self.name = engine
        self._limits = limits

    async def start(self, spec: Spec) -> str:
        """``run --detach``; a name that is taken is the container of an earlier try."""
        env = without_secrets(spec, self.name)
        begun = await self._cli(*_arguments(spec, env), env=env)
        text = begun.stderr.text().strip()
        if begun.code == 0 or "already in use" in text:
            return spec.name
        if any(word in text.lower() for word in _PULL_WORDS):
            kind, code = "process", "failed_image_pull"
        else:
            kind, code = "configuration", "container"
        raise ToolCallError(
            ToolFailure(kind=kind, code=code, message=f"{self.name}: {text[-1000:]}")
        )

    async def status(self, spec: Spec) -> State | None:
        """What ``inspect`` says; with the log once it has ended."""
        shown = await self._cli("inspect", "--format", "{{json .State}}", spec.name)
        if shown.code:
            return State(terminal="failed_node_lost", reason="the container is gone")
        try:
            state = _decode(shown.stdout.text())
        except (DecodeError, ValidationError) as error:
            return State(terminal="failed", reason=f"{self.name} inspect: {error}")
        if state.running or state.status in ("created", "running", "configured"):
            return None
        log = await self._cli("logs", spec.name)
        await self.cancel(spec)
        return State(
            terminal=_terminal(state),
            exit_code=state.exit_code,
            reason="OOMKilled" if state.oom_killed else state.error,
            stdout=tail(log.stdout.text()),
            stderr=tail(log.stderr.text()),
        )

    async def cancel(self, spec: Spec) -> None:
        """``rm --force``."""
        await self._cli("rm", "--force", spec.name)

    async def close(self) -> None:
        """Nothing is kept."""

    async def _cli(
        self, *arguments: str, env: dict[str, str] | None = None
    ) -> Finished:
        home = make_scratch(self._limits, "container")
        try:
            return await run(
                [self.name, *arguments],
                env=bare_environment(self._limits.environment, home, env),
                cwd=home,
                bounds=Bounds(
                    output_bytes_max=CLI_OUTPUT_MAX,
                    processes_max=self._limits.processes_max,
                ),
            )
        finally:
            remove_scratch(home)


def _arguments(spec: Spec, env: dict[str, str]) -> list[str]:
    found = ["run", "--detach", "--name", spec.name]
    for name, value in spec.labels.items():
        found += ["--label", f"{name}={value}"]
    for name in env:
        # Without a value it is taken from our environment: argument lists are public.
        found += ["--env", name]
    for option, key in (("--cpus", "cpu"), ("--memory", "memory")):
        if key in spec.limits:
            found += [option, _quantity(spec.limits[key])]
    if spec.command:
        found += ["--entrypoint", spec.command[0]]
    return [*found, spec.image, *spec.command[1:], *spec.args]


def _quantity(text: str) -> str:
    """A quantity of Kubernetes as engines write it."""
    if text.endswith("m"):
        return f"{float(text[:-1]) / 1000:g}"
    return text.removesuffix("i").lower()


def _terminal(state: _State) -> str:
    if state.oom_killed:
        return "failed_oom"
    return "failed" if state.exit_code else "succeeded"
