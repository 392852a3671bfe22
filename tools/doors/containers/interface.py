"""What every driver is given and gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from state_builder.records import JSON
from tools.errors import ToolCallError, configuration

OUTPUT_CHARACTERS_MAX = 65_536
"""Of a container's log in its result; the end is kept."""


@dataclass(frozen=True, kw_only=True)
class Env:
    """A variable: its text, or the key of a secret that holds it."""

    name: str
    value: str = ""
    secret_name: str = ""
    secret_key: str = ""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A container that runs to its end.

    Attributes:
        name: of the container or job; the same for every delivery of a command.
        command, args: as Kubernetes means them: entry point, and what it is given.
        requests, limits: ``cpu`` and ``memory`` quantities.
        timeout_s: after which it is ended.
        labels, annotations: what it is found by, and the step's exact name.
        pod: fields only Kubernetes knows, in its own spelling.
    """

    name: str
    image: str
    timeout_s: float
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[Env, ...] = ()
    requests: dict[str, str] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)
    namespace: str = "noetl"
    backoff_limit: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    pod: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class State:
    """How a container ended.

    Attributes:
        terminal: ``succeeded``, ``failed``, ``failed_image_pull``, ``failed_oom``,
            ``failed_node_lost`` or ``failed_timeout`` (TL-CTR-04).
    """

    terminal: str
    exit_code: int | None = None
    reason: str = ""
    stdout: str = ""
    stderr: str = ""


class Driver(Protocol):
    """Runs containers.

    Attributes:
        name: what people know it by.
        first_s, longest_s: time before the first look and between looks, doubling
            from one to the other; what is told from outside until then comes first.
    """

    name: str
    first_s: float
    longest_s: float

    async def start(self, spec: Spec) -> str:
        """Start it, or adopt what runs under its name; gives its id.

        Raises ToolCallError.
        """

    async def status(self, spec: Spec) -> State | None:
        """How it ended, None while it runs."""

    async def cancel(self, spec: Spec) -> None:
        """End and remove it; nothing happens when it is not there."""

    async def close(self) -> None:
        """Give back what is kept."""


def tail(text: str) -> str:
    """The end of a log."""
    return text[-OUTPUT_CHARACTERS_MAX:]


def without_secrets(spec: Spec, driver: str) -> dict[str, str]:
    """Variables of a driver that has no secrets of its own."""
    for one in spec.env:
        if one.secret_name:
            raise no_secrets(one.name, driver)
    return {one.name: one.value for one in spec.env}


def no_secrets(name: str, driver: str) -> ToolCallError:
    """The error of a reference to a secret outside Kubernetes."""
    return configuration(
        f"env.{name}: value_from needs the kubernetes driver, this worker has {driver}"
    )
