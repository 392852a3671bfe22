"""Loops: what they iterate over, which iterations are due, when they end (PB §8–9).

Questions about a loop's state and nothing else; issuing and folding happen elsewhere.
"""

from __future__ import annotations

from msgspec import DecodeError, Struct
from msgspec.json import decode as decode_json

from state_builder.errors import InvalidError, LimitExceededError, TemplateError
from state_builder.playbook.model import Loop, Step
from state_builder.records import JSON
from state_builder.state import CursorRun, Entered, LoopRun, parse_cursor_iteration
from state_builder.template import Scope, render


class NotIterableError(InvalidError):
    """``loop.in`` gave nothing that can be iterated: a step failure (PB-222)."""

    code = "configuration"


class Iteration(Struct, frozen=True, kw_only=True):
    """One command a loop wants.

    Attributes:
        id: the iteration part of the command id.
        phase: ``item``, or ``claim``/``body`` of a cursor loop.
        value: the element, the row, or the list of rows.
    """

    id: str
    phase: str = "item"
    value: JSON = None
    index: int = 0
    total: int = 0
    frame: int = 0
    row: int = 0


def open_loop(step: Step, scope: Scope, items_max: int) -> Entered:
    """What ``step.enter`` fixes for this generation of the loop (PB-221, PB-254).

    Raises:
        NotIterableError: the collection or a number has the wrong type.
        TemplateError: a text that cannot be evaluated.
        LimitExceededError: more elements than ``items_max``.
    """
    loop = step.loop
    assert loop is not None
    if loop.mode == "cursor":
        return Entered(iterator_var=loop.iterator, cursor=_open_cursor(loop, scope))
    try:
        value = render(loop.collection, scope, data=True)
    except TemplateError as error:
        raise TemplateError(f"step '{step.name}', loop.in: {error}") from error
    size = value if type(value) is int else 0
    items = elements(value) if size <= items_max else []
    if items is None:
        raise NotIterableError(
            f"loop step '{step.name}': Loop expression '{_text(loop.collection)}' did "
            f"not evaluate to an iterable (got {_type_name(value)})"
        )
    if max(size, len(items)) > items_max:
        raise LimitExceededError(
            "loop_items_max",
            f"loop step '{step.name}', loop.in: {max(size, len(items)):,} elements; "
            f"at most {items_max:,} are allowed",
        )
    window = 1
    if loop.mode == "parallel":
        window = 0
        if loop.max_in_flight is not None:
            window = whole(loop.max_in_flight, scope, "loop.spec.max_in_flight")
    return Entered(
        iterations_expected=len(items),
        iterator_var=loop.iterator,
        items=items,
        window=window,
    )


def _open_cursor(loop: Loop, scope: Scope) -> CursorRun:
    cursor = loop.cursor
    assert cursor is not None
    slots = loop.max_in_flight
    return CursorRun(
        max_rows=whole(cursor.max_rows, scope, "loop.spec.frame.max_rows"),
        row_concurrency=whole(
            cursor.row_concurrency, scope, "loop.spec.frame.row_concurrency"
        ),
        whole_frame=cursor.whole_frame,
        slots=1 if slots is None else whole(slots, scope, "loop.spec.max_in_flight"),
    )


def elements(value: JSON) -> list[JSON] | None:
    """The elements a value iterates over, or None (PB-221, PB-222)."""
    if isinstance(value, list):
        return value
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, dict):
        rows = value.get("rows")
        if isinstance(rows, list):
            return rows
        return [{"key": key, "value": member} for key, member in value.items()]
    if isinstance(value, int):
        return list(range(value))
    if isinstance(value, str):
        return _elements_of_text(value)
    return None


def _elements_of_text(text: str) -> list[JSON]:
    stripped = text.strip()
    if stripped[:1] in ("[", "{"):
        try:
            decoded = elements(decode_json(stripped))
        except DecodeError:
            decoded = None
        if decoded is not None:
            return decoded
    parts = stripped.replace("\n", ",").split(",")
    return [part.strip() for part in parts if part.strip()]


def whole(value: JSON, scope: Scope, where: str) -> int:
    """A positive whole number out of a literal or a template (PB-751)."""
    rendered = render(value, scope, data=True)
    number: int | None = None
    if isinstance(rendered, int) and not isinstance(rendered, bool):
        number = rendered
    elif isinstance(rendered, str) and rendered.strip().isdecimal():
        number = int(rendered)
    if number is None or number < 1:
        raise NotIterableError(
            f"{where} must be a whole number of at least 1, got {_text(rendered)}"
        )
    return number


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else repr(value)


def _type_name(value: JSON) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, float) else type(value).__name__


def tolerates(step: Step) -> bool:
    """Do failures inside the step not fail it (PB-232, PB-567)?"""
    return step.best_effort or step.on_error == "continue"


def again(loop: LoopRun, iteration: str) -> Iteration:
    """The iteration of an id that was issued before."""
    if loop.cursor is None:
        index = int(iteration)
        return Iteration(
            id=iteration, value=loop.items[index], index=index, total=loop.total
        )
    number, row = parse_cursor_iteration(iteration)
    if row is None:
        return Iteration(id=iteration, phase="claim", frame=number)
    rows = loop.cursor.frames[number].rows
    value: JSON = list(rows) if loop.cursor.whole_frame else rows[row]
    return _body(number, row, value, len(rows))


def due(loop: LoopRun, *, best_effort: bool, room: int) -> list[Iteration]:
    """Iterations to issue now, in index order, at most ``room`` (PB-227, PB-232)."""
    if loop.failed and not best_effort:
        return []
    if loop.cursor is not None:
        return _due_of_cursor(loop.cursor, room)
    free = loop.total if loop.window == 0 else loop.window - loop.open
    count = max(0, min(free, room, loop.total - loop.issued))
    return [
        Iteration(id=str(index), value=loop.items[index], index=index, total=loop.total)
        for index in range(loop.issued, loop.issued + count)
    ]


def _due_of_cursor(cursor: CursorRun, room: int) -> list[Iteration]:
    found: list[Iteration] = []
    for number, frame in cursor.frames.items():
        if cursor.whole_frame:
            if frame.next_row < len(frame.rows):
                found.append(_body(number, 0, list(frame.rows), len(frame.rows)))
            continue
        last = min(
            len(frame.rows), frame.next_row + cursor.row_concurrency - frame.open
        )
        for row in range(frame.next_row, last):
            found.append(_body(number, row, frame.rows[row], len(frame.rows)))
    free = cursor.slots - cursor.retired - cursor.claiming - len(cursor.frames)
    for number in range(cursor.next_frame, cursor.next_frame + max(0, free)):
        found.append(Iteration(id=f"f{number}", phase="claim", frame=number))
    return found[: max(0, room)]


def _body(frame: int, row: int, value: JSON, total: int) -> Iteration:
    return Iteration(
        id=f"f{frame}r{row}",
        phase="body",
        value=value,
        index=row,
        total=total,
        frame=frame,
        row=row,
    )


def finished(loop: LoopRun, *, best_effort: bool) -> bool:
    """Has every index its outcome, or will no further one be issued (PB-229, 232)?"""
    if loop.open:
        return False
    if loop.failed and not best_effort:
        return True
    if loop.cursor is not None:
        return loop.cursor.retired >= loop.cursor.slots and not loop.cursor.frames
    return loop.issued >= loop.total
