"""Following one execution live, and telling how it ended.

On a terminal a table redraws itself; anywhere else each change is one line. Stopping to
look never stops the execution.
"""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import anyio

from noetl_worker.cli.exits import ExitCode, exit_code_of_status
from noetl_worker.cli.progress import Progress, StepProgress
from noetl_worker.cli.screen import (
    STYLES,
    console,
    duration,
    line,
    note,
    pretty,
    put_json,
    show,
    table,
)
from state_builder.records import JSON

if TYPE_CHECKING:
    from rich.console import RenderableType

    from noetl_worker.client import NoetlClient

REFRESH_PER_S = 8


class View(Protocol):
    """Somebody who is shown the changes as they come."""

    def changed(self, progress: Progress, step: StepProgress | None) -> None:
        """The execution has moved; ``step`` is the row that changed."""


class Silence:
    """Shows nothing: for ``--json``."""

    def changed(self, progress: Progress, step: StepProgress | None) -> None:
        del progress, step


class Lines:
    """One line for every step that is entered or left."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def changed(self, progress: Progress, step: StepProgress | None) -> None:
        if step is None:
            return
        said = f"{step.status} {step.visits}"
        if self._said.get(step.name) == said:
            return
        self._said[step.name] = said
        ended = step.status not in ("RUNNING", "SKIPPED")
        spent = duration(step.last_s) if ended else ""
        line(f"  {step.name:<24} {step.status.lower():<10} {spent}".rstrip())


class Table:
    """A table that redraws itself in place."""

    def __init__(self) -> None:
        from rich.live import Live

        self._progress = Progress()
        self._live = Live(
            get_renderable=lambda: steps_table(self._progress, live=True),
            console=console(),
            refresh_per_second=REFRESH_PER_S,
            transient=True,
        )

    def __enter__(self) -> Table:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def changed(self, progress: Progress, step: StepProgress | None) -> None:
        del step
        self._progress = progress


async def follow(
    client: NoetlClient, execution_id: str, *, as_json: bool, hint: str = ""
) -> ExitCode:
    """Show an execution until its end, then how it ended.

    ``hint`` says what has to be done before one can look further.
    """
    progress = Progress()
    if as_json:
        await _read(client, execution_id, progress, Silence())
        put_json(summary(execution_id, progress))
    else:
        if console().is_terminal:
            with Table() as view:
                await _read(client, execution_id, progress, view)
        else:
            await _read(client, execution_id, progress, Lines())
        show_end(execution_id, progress, hint)
    return exit_code_of_status(progress.status)


async def follow_detachable(
    client: NoetlClient, execution_id: str, *, as_json: bool
) -> ExitCode:
    """The same, until SIGINT or SIGTERM: then say how to come back to it."""
    code = ExitCode.INTERRUPTED
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_on_signal, tasks.cancel_scope)
        code = await follow(client, execution_id, as_json=as_json)
        tasks.cancel_scope.cancel()
    if code is ExitCode.INTERRUPTED:
        note(
            f"\nstopped looking; execution {execution_id} goes on.\n"
            f"  look again: noetl status {execution_id}\n"
            f"  end it:     noetl cancel {execution_id}"
        )
    return code


def summary(execution_id: str, progress: Progress) -> dict[str, JSON]:
    """A finished execution as one JSON value."""
    now = progress.last or datetime.min
    steps: list[JSON] = [
        {
            "step": step.name,
            "status": step.status,
            "visits": step.visits,
            "tries": step.tries,
            "duration_seconds": round(step.duration_s(now), 6),
            "error": step.error or None,
        }
        for step in progress.steps.values()
    ]
    spent = progress.duration_s
    return {
        "execution_id": execution_id,
        "path": progress.path,
        "status": progress.status,
        "duration_seconds": None if spent is None else round(spent, 6),
        "result": progress.result,
        "error": progress.error or None,
        "steps": steps,
    }


def show_end(execution_id: str, progress: Progress, hint: str) -> None:
    """The table of steps, the result or the reason, and where to look next."""
    from rich.text import Text

    head = Text(f"execution {execution_id}  ")
    head.append(progress.status, STYLES.get(progress.status, ""))
    head.append(f" in {duration(progress.duration_s)}")
    parts: list[RenderableType] = [head, steps_table(progress)]
    if progress.error:
        parts.append(Text(f"error: {progress.error}", "red"))
    if progress.result is not None:
        parts.append(Text(f"result: {pretty(progress.result)}"))
    parts.append(
        Text(
            f"look next: {hint}noetl events {execution_id}",
            "dim",
        )
    )
    show(*parts)


def steps_table(progress: Progress, live: bool = False) -> RenderableType:
    """Rows of steps in the order they were first heard of."""
    from rich.text import Text

    now = datetime.now(UTC) if live else progress.last  # noqa: TID251 - only drawn
    rows = table(
        ("step", "status", "tool", "visits", "tries", "duration"),
        numbers=("visits", "tries", "duration"),
    )
    for step in progress.steps.values():
        state = step.status.lower()
        if step.expected and step.status == "RUNNING":
            state += f" {step.done}/{step.expected}"
        spent = step.duration_s(now) if now and step.visits else None
        rows.add_row(
            step.name,
            Text(state, STYLES.get(step.status, "")),
            step.kind,
            str(step.visits or ""),
            str(step.tries or ""),
            duration(spent),
        )
    return rows


async def _read(
    client: NoetlClient, execution_id: str, progress: Progress, view: View
) -> None:
    async for event in client.stream(execution_id):
        step = progress.apply({"event_type": event.type, **event.data})
        view.changed(progress, step)
        if progress.ended:
            return


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as caught:
        async for _ in caught:
            scope.cancel()
