"""Events as they were in the log, made again from their rows.

What the materializer adds is left out again; the text of documents may differ, because
the database orders their keys, and a status that the log left out is spelled as the
row has it. Everything the fold of an execution reads is the same.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw
from msgspec.json import decode as decode_json

from noetl_worker.server.shapes import moment
from state_builder.records import JSON, NOTHING, Event, encode_json
from state_builder.stores import EventView

_ADDED: Final = (
    "command_id",
    "command_event_id",
    "step",
    "tool_kind",
    "attempt",
    "delivery",
    "visit",
    "iteration_index",
    "iteration",
    "worker_id",
    "pool",
    "pending_callback",
    "child_execution_id",
    "timer",
    "due_at",
    "code",
    "ignored",
)
"""Names of meta that hold fields of the event itself."""

_NOTHING: Final = Event(type="")
"""Its defaults: what is left out on the wire is the very same object."""

_WITH_KIND: Final = ("command.issued", "call.done", "call.error")


def event_of_view(view: EventView) -> Event:
    """The event of a row."""
    found = decode_json(view.meta) if view.meta else {}
    meta: dict[str, JSON] = found if isinstance(found, dict) else {}
    index = meta.get("iteration_index")
    iteration = str(index) if isinstance(index, int) else _text(meta, "iteration")
    due = meta.get("due_at")
    cause = view.parent_event_id or ""
    own = {name: value for name, value in meta.items() if name not in _ADDED}
    return Event(
        type=view.event_type,
        at=moment(view.created_at) or "",
        step="" if view.node_type == "execution" else view.node_name or "",
        visit=_number(meta, "visit"),
        iteration=iteration,
        kind=(view.node_type or "") if view.event_type in _WITH_KIND else "",
        status=view.status or "",
        command_id=view.command_id or "",
        attempt=_number(meta, "attempt"),
        delivery=_number(meta, "delivery"),
        pending=meta.get("pending_callback") is True,
        worker_id=view.worker_id or "",
        pool=_text(meta, "pool"),
        cause="" if cause == _text(meta, "command_event_id") else cause,
        child=_text(meta, "child_execution_id"),
        timer=_text(meta, "timer"),
        due=float(due) if isinstance(due, int | float) else _NOTHING.due,
        code=_text(meta, "code"),
        error=view.error or "",
        context=view.context or NOTHING,
        result=view.result or NOTHING,
        meta=Raw(encode_json(own)) if own else NOTHING,
    )


def _text(meta: dict[str, JSON], name: str) -> str:
    found = meta.get(name)
    return found if isinstance(found, str) else ""


def _number(meta: dict[str, JSON], name: str) -> int:
    found = meta.get(name)
    return found if isinstance(found, int) else 0
