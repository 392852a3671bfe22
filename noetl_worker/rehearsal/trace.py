"""What happened in an execution as short lines, and the arcs that were taken.

The notation of PB Appendix C: ``enter a``, ``CI a[0]``, ``CC a[0]``, ``exit a`` …
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.json import Decoder

from state_builder.records import TERMINAL_STATUS, Event
from state_builder.state import Exited, Updated

_exited = Decoder(Exited)
_updated = Decoder(Updated)


_WORDS: Final = {"CI": "run", "CC": "done", "CF": "failed"}


def plain_words(line: str) -> str:
    """A line of a trace for people who do not know the notation."""
    word, space, rest = line.partition(" ")
    return f"{_WORDS.get(word, word)}{space}{rest}"


def trace_line(event: Event) -> str:
    """One event as a line; empty for those a trace leaves out."""
    suffix = f"[{event.iteration}]" if event.iteration else ""
    match event.type:
        case "step.enter":
            return f"enter {event.step}"
        case "step.exit":
            failed = " FAILED" if event.status == "FAILED" else ""
            return f"exit {event.step}{failed}"
        case "step.skipped":
            return f"skipped {event.step} {exited_of(event).reason}".strip()
        case "ctx.updated":
            values = _updated.decode(event.context).values
            return "set " + " ".join(f"{key}={values[key]!r}" for key in values)
        case "command.issued":
            return f"CI {event.step}{suffix}"
        case "command.completed":
            return f"{'parked' if event.pending else 'CC'} {event.step}{suffix}"
        case "command.failed":
            return f"CF {event.step}{suffix}"
        case "playbook.failed":
            return f"failed {event.error}"
        case "timer.set" | "timer.fired":
            return event.type
    if event.type in TERMINAL_STATUS:
        return TERMINAL_STATUS[event.type].lower()
    return ""


def exited_of(event: Event) -> Exited:
    """What a ``step.exit`` or ``step.skipped`` carries."""
    return _exited.decode(event.context) if event.context else Exited()


def arcs_of(events: Iterable[Event]) -> list[str]:
    """``a -> b`` for every token delivered, in order."""
    return [
        f"{event.step} -> {arc.step}"
        for event in events
        if event.type in ("step.exit", "step.skipped")
        for arc in exited_of(event).arcs
    ]
