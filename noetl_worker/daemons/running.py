"""A command while a tool worker is at it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from state_builder.ports import Delivery
from state_builder.records import Event

GIVEN_BACK_S = 1.0
"""How soon a command that a stopping worker gives back goes to another one."""


@dataclass(kw_only=True, eq=False, slots=True)
class Running:
    """A command this worker is at.

    Attributes:
        task: what runs it.
        extended: when its ack deadline was last put off, by the monotonic clock.
        began: when its tool was started; None while it waits for leave to.
        starts: how often it was started and not answered, as its owner knows.
        in_tool: the tool itself is at work, and may be stopped.
        cancelled: the execution is over; the tool is stopped or never begun.
        parked: it was reported as parked, to an earlier delivery perhaps.
        job: what this delivery's tool waits for outside, once it is parked.
        watched: the tool waits for the job's end; else a call-back tells it.
    """

    delivery: Delivery
    execution_id: str
    issued: Event
    extended: float
    began: float | None = None
    announced: bool = False
    starts: int = 0
    task: asyncio.Task[None] | None = None
    in_tool: bool = False
    cancelled: bool = False
    parked: bool = False
    job: str = ""
    watched: bool = True

    def give_back(self) -> None:
        """Stop the tool; another worker gets the command."""
        self.delivery.nak(GIVEN_BACK_S)
        if self.task is not None:
            self.task.cancel()
