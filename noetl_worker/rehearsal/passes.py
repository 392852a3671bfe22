"""A decision as messages of the log: the same split as the owner's (RT-DRV-6)."""

from __future__ import annotations

from typing import NamedTuple

from state_builder.drive import Decision
from state_builder.records import Record


class PassMessage(NamedTuple):
    """One message of a pass; its first record is the execution's own."""

    records: list[Record]
    message_id: str


def messages_of(execution_id: str, decision: Decision) -> list[PassMessage]:
    """The messages of one pass, in the order they are sent."""
    if len(decision.commands) == 1 and not decision.others:
        event = decision.commands[0].event
        record = Record(execution_id=execution_id, events=[*decision.events, event])
        return [PassMessage([record], event.command_id)]
    found: list[PassMessage] = []
    if decision.events:
        record = Record(execution_id=execution_id, events=decision.events)
        found.append(PassMessage([record, *decision.others], decision.key))
    for issued in decision.commands:
        record = Record(execution_id=execution_id, events=[issued.event])
        found.append(PassMessage([record], issued.event.command_id))
    return found
