"""Rows → events: the way back, for executions whose log is gone (RT-IDX-6).

What :func:`materializer.projection.fields.meta_of` put into a row's meta is taken out
of it again. Statuses come back as the rows have them, which folds the same.
"""

from __future__ import annotations

from msgspec import Raw, Struct
from msgspec.json import Decoder

from state_builder.records import NOTHING, Event
from state_builder.stores import EventView


class _Meta(Struct):
    """The fields of an event that rows keep in their meta."""

    attempt: int = 0
    delivery: int = 0
    visit: int = 0
    iteration_index: int | None = None
    iteration: str = ""
    pool: str = ""
    pending_callback: bool = False
    child_execution_id: str = ""
    timer: str = ""
    due_at: float | None = None
    code: str = ""


_meta = Decoder(_Meta)


def event_of(row: EventView) -> Event:
    """The event a row was made of, as far as folding it goes."""
    meta = _meta.decode(row.meta) if row.meta is not None else _Meta()
    index = meta.iteration_index
    of_execution = row.node_id == "playbook" and row.node_type == "execution"
    return Event(
        type=row.event_type,
        at=row.created_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        step="" if of_execution else row.node_name or "",
        visit=meta.visit,
        iteration=meta.iteration if index is None else str(index),
        kind="" if of_execution else row.node_type or "",
        status=row.status or "",
        command_id=row.command_id or "",
        attempt=meta.attempt,
        delivery=meta.delivery,
        pending=meta.pending_callback,
        worker_id=row.worker_id or "",
        pool=meta.pool,
        cause=row.parent_event_id or "",
        child=meta.child_execution_id,
        timer=meta.timer,
        due=meta.due_at or 0.0,
        code=meta.code,
        error=row.error or "",
        context=_raw(row.context),
        result=_raw(row.result),
        meta=_raw(row.meta),
    )


def _raw(value: Raw | None) -> Raw:
    return NOTHING if value is None else Raw(bytes(value))
