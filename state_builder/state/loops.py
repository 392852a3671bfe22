"""What commands and reports mean for a loop: counts, elements, frames (PB §8–9)."""

from __future__ import annotations

from msgspec import Raw
from msgspec.json import Decoder

from state_builder.records import JSON, ToolFailure, encode_json
from state_builder.state.model import Frame, LoopRun, Outcome
from state_builder.state.outcomes import encode_failure
from state_builder.template import StepResult, plain
from state_builder.values import Part

_json = Decoder()


def issue_iteration(loop: LoopRun, iteration: str) -> None:
    """A command of the loop was issued."""
    loop.open += 1
    if loop.cursor is None:
        loop.issued = int(iteration) + 1
        return
    frame, row = parse_cursor_iteration(iteration)
    if row is None:
        loop.cursor.claiming += 1
        loop.cursor.next_frame = max(loop.cursor.next_frame, frame + 1)
        return
    claimed = loop.cursor.frames[frame]
    claimed.open += 1
    claimed.next_row = len(claimed.rows) if loop.cursor.whole_frame else row + 1


def parse_cursor_iteration(iteration: str) -> tuple[int, int | None]:
    """Frame and row of ``f3r7``; no row for a claim, ``f3``."""
    frame, _, row = iteration[1:].partition("r")
    return int(frame), int(row) if row else None


def count(loop: LoopRun, iteration: str, outcome: Outcome) -> None:
    """A command of the loop ended."""
    loop.open -= 1
    loop.last_event = outcome.event
    if outcome.updates:
        loop.updates[outcome.event] = outcome.updates
    if loop.cursor is not None:
        _count_cursor(loop, iteration, outcome)
        return
    if not outcome.ok:
        loop.failed += 1
        loop.errors[iteration] = outcome.error or ToolFailure(
            kind="unknown", message="the iteration failed"
        )
        return
    loop.completed += 1
    loop.form = outcome.form
    if outcome.reference:
        part = Part(reference=Raw(outcome.reference), form=outcome.form)
        loop.references[int(iteration)] = part
        loop.size += len(outcome.reference)
        return
    element = _element(outcome)
    loop.results[int(iteration)] = element
    loop.size += len(element)


def _element(outcome: Outcome) -> bytes:
    """An element is what an ordinary step would have had: merged keys and all."""
    if outcome.form != "pipeline":
        return outcome.data
    labels: JSON = _json.decode(outcome.data)
    return encode_json(plain(StepResult(value=labels, form="pipeline")))


def _count_cursor(loop: LoopRun, iteration: str, outcome: Outcome) -> None:
    cursor = loop.cursor
    assert cursor is not None
    number, row = parse_cursor_iteration(iteration)
    if row is not None:
        frame = cursor.frames[number]
        frame.open -= 1
        if not frame.open and frame.next_row >= len(frame.rows):
            del cursor.frames[number]
    else:
        cursor.claiming -= 1
        rows = _rows_of(outcome) if outcome.ok else []
        cursor.claimed += bool(rows)
        cursor.rows += len(rows)
        if rows:
            cursor.frames[number] = Frame(rows=rows)
        else:
            cursor.retired += 1
    if not outcome.ok:
        loop.failed += 1
        loop.errors.setdefault(
            str(number),
            outcome.error or ToolFailure(kind="unknown", message="the frame failed"),
        )
    elif row is not None:
        loop.completed += 1


def _rows_of(outcome: Outcome) -> list[JSON]:
    """The rows of a claim; a bare list counts as rows (PB-253)."""
    data: JSON = _json.decode(outcome.data)
    if isinstance(data, dict):
        data = data.get("rows")
    return data if isinstance(data, list) else []


def aggregate(loop: LoopRun) -> Outcome:
    """The result of a finished loop, elements in index order (PB-230, PB-256)."""
    assert not loop.references, "a loop with stored elements is stored itself"
    stats: dict[str, JSON] = {
        "total": loop.completed + loop.failed,
        "completed": loop.completed,
        "failed": loop.failed,
    }
    if loop.cursor is not None:
        drained: JSON = {
            "cursor": "drained",
            "frames": loop.cursor.claimed,
            "rows": loop.cursor.rows,
            "stats": stats,
        }
        return Outcome(form="cursor", data=encode_json(drained))
    elements = b",".join(b"null" if one is None else one for one in loop.results)
    return Outcome(form=loop_form(loop), data=assembled(elements, loop_rest(loop)))


def loop_form(loop: LoopRun) -> str:
    """The form of the loop's own result."""
    return "loop:http" if loop.form == "http" else "loop"


def loop_rest(loop: LoopRun) -> bytes:
    """The members of a loop's result beside ``results``, without the braces."""
    errors = [
        {"index": int(index), "error": encode_failure(failure)}
        for index, failure in sorted(loop.errors.items(), key=lambda pair: int(pair[0]))
    ]
    stats = {"total": loop.total, "completed": loop.completed, "failed": loop.failed}
    rest = {"stats": stats, "count": loop.total, "errors": errors}
    return encode_json(rest)[1:-1]


def assembled(elements: bytes, rest: bytes) -> bytes:
    """A loop's result out of its parts; elements separated by commas."""
    return b'{"results":[%b],%b}' % (elements, rest)
