"""One thing an open execution waits for: as a record, and as a sentence for people.

Knows nothing of state or playbook, so whoever has seen a command or a timer can tell.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, Protocol

from msgspec import Struct

from state_builder.records import timestamp

QUEUED_AFTER_S: Final = 1.0
"""A running command is announced after 250 ms (RT-EVT-6); one that is not announced
well after that has no worker."""


_TIMERS: Final = {
    "duration": "its time limit",
    "timeout": "the time its child has",
    "repeat": "the next attempt",
}


class Wait(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing an execution waits for.

    Attributes:
        kind: ``command`` (a worker), ``callback`` (from outside), ``child``, ``timer``,
            ``join`` (other branches), ``loop`` (a summary of its commands), ``owner``
            (a decision under way), ``nothing`` (a fault of ours).
        text: the same as a sentence.
        since: when it began to wait, or for a timer when it fires, RFC 3339.
        starts: ``command.started`` seen without a result: deliveries that ran.
        blocked_by: live steps a join waits for.
    """

    kind: Literal[
        "command", "callback", "child", "timer", "join", "loop", "owner", "nothing"
    ]
    text: str
    step: str = ""
    command_id: str = ""
    iteration: str = ""
    pool: str = ""
    worker: str = ""
    child: str = ""
    timer: str = ""
    since: str = ""
    starts: int = 0
    arrived_from: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()


class LastDecision(Struct, frozen=True, kw_only=True):
    """The last thing the drive wrote that can still be told from the state.

    Attributes:
        event: id of the newest event it wrote.
        cause: id of the event that led to it; 0 when the state does not tell.
    """

    text: str
    event: int
    cause: int = 0
    step: str = ""


class Waited(Protocol):
    """A command without a result, as far as it is known.

    Attributes:
        starts: ``command.started`` seen without a result.
        parked: its worker is free, a call-back from outside ends it.
    """

    @property
    def step(self) -> str: ...
    @property
    def iteration(self) -> str: ...
    @property
    def pool(self) -> str: ...
    @property
    def worker(self) -> str: ...
    @property
    def child(self) -> str: ...
    @property
    def issued_at(self) -> str: ...
    @property
    def started_at(self) -> str: ...
    @property
    def starts(self) -> int: ...
    @property
    def parked(self) -> bool: ...


def command_wait(command_id: str, command: Waited, now: float) -> Wait:
    """What waits for the end of a command; ``now`` in Unix seconds."""
    where = f"step '{command.step}'"
    if command.iteration:
        where += f", iteration {command.iteration}"
    since = command.started_at or command.issued_at
    ago = span(now - _unix(since, now))
    if command.child:
        kind: Literal["child", "callback", "command"] = "child"
        text = f"{where} waits for its child execution {command.child}, for {ago}"
    elif command.parked:
        kind = "callback"
        text = f"{where} is parked for {ago}: a call-back from outside must end it"
        if command.worker:
            text += f", or the end of its job, which worker {command.worker} watches"
    else:
        kind = "command"
        text = f"{where}: command {command_id} {_whereabouts(command, now, ago)}"
    return Wait(
        kind=kind,
        step=command.step,
        command_id=command_id,
        iteration=command.iteration,
        pool=command.pool,
        worker=command.worker,
        child=command.child,
        since=since,
        starts=command.starts,
        text=text,
    )


def _whereabouts(command: Waited, now: float, ago: str) -> str:
    pool = command.pool or "shared"
    if command.starts == 1:
        return f"is running on worker {command.worker} for {ago} (pool {pool})"
    if command.starts:
        return (
            f"is running on worker {command.worker} for {ago} (pool {pool}); it was "
            f"started {command.starts} times, so workers were lost with it"
        )
    if now - _unix(command.issued_at, now) < QUEUED_AFTER_S:
        return f"was issued {ago} ago to pool {pool}"
    return (
        f"was issued {ago} ago and no worker of pool {pool} has said that it runs: "
        "are there workers for this pool, and are their slots free?"
    )


def timer_wait(name: str, due: float, now: float, *, step: str = "") -> Wait:
    """What waits for a timer; both times in Unix seconds, ``step`` if it has one."""
    word, _, command = name.partition(":")
    of = f"step '{step}'" if step else "the execution"
    what = _TIMERS.get(word, f"timer {name}")
    left = due - now
    when = f"in {span(left)}" if left > 0 else f"{span(-left)} ago, about to fire"
    return Wait(
        kind="timer",
        step=step,
        command_id=command,
        timer=name,
        since=timestamp(due),
        text=f"{of}: {what} fires at {timestamp(due)} ({when})",
    )


def span(seconds: float) -> str:
    """A span of time for people."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} days"


def _unix(at: str, fallback: float) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return fallback
