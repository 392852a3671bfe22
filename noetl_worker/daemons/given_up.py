"""What an owner says of a command no worker will answer."""

from __future__ import annotations

from state_builder.records import Event
from state_builder.state import OpenCommand


def given_up_event(
    command: OpenCommand, command_id: str, at: str, code: str, text: str, due: float
) -> Event:
    """``command.failed`` of one no worker will answer; tried again when it has a due
    time."""
    return Event(
        type="command.failed",
        at=at,
        step=command.step,
        visit=command.visit,
        iteration=command.iteration,
        kind=command.kind,
        status="FAILED",
        command_id=command_id,
        attempt=command.attempt,
        code=code,
        error=text,
        due=due,
    )
