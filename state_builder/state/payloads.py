"""What the drive's own events carry as their context."""

from __future__ import annotations

from msgspec import Raw, Struct, field

from state_builder.records import JSON, NOTHING, ToolFailure
from state_builder.state.model import CursorRun
from state_builder.values import Part


class Entered(Struct, omit_defaults=True, gc=False):
    """``step.enter.context``; a loop's collection is fixed here (PB-223)."""

    iterations_expected: int | None = None
    iterator_var: str = ""
    cursor_loop: bool = field(default=False, name="__cursor_loop")
    items: list[JSON] | None = None
    window: int = 0
    cursor: CursorRun | None = None
    final: bool = False
    items_ref: Raw = NOTHING


class Delivered(Struct, omit_defaults=True, gc=False):
    """One token in ``step.exit``/``step.skipped`` contexts."""

    step: str
    args: dict[str, JSON] = field(default_factory=dict)
    set: dict[str, JSON] = field(default_factory=dict)


class Exited(Struct, omit_defaults=True, gc=False):
    """``context`` of ``step.exit`` and ``step.skipped``.

    Attributes:
        arcs: the tokens delivered.
        event_name: what the targets see as ``event.name``.
        handled: an error-aware arc took care of the failure (PB-563).
        over: PB-046, of the tokens delivered by stepping over.
        bare: PB-645.
        failure: why a step failed that had no command of its own to say it.
        unmatched: no arc was taken although there are some (PB-320).
        result: a loop's result where it is stored outside the log (TL-OS-06).
    """

    reason: str = ""
    arcs: list[Delivered] = field(default_factory=list)
    event_name: str = ""
    handled: bool = False
    over: tuple[str, ...] = ()
    bare: bool = False
    failure: ToolFailure | None = None
    cursor_drained: bool = field(default=False, name="__cursor_drained")
    unmatched: bool = False
    result: Part | None = None


class Updated(Struct, omit_defaults=True, gc=False):
    """``ctx.updated.context``: values by variable path, of one completion."""

    values: dict[str, JSON]
    step: str = ""
    gen: str = ""
