"""Everything that reaches a terminal goes through here.

Results go to standard output, words about them to standard error, so that a pipe only
ever gets the result. Nothing of ``rich`` is loaded for ``--json`` or an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from msgspec.json import format as indent

from state_builder.records import JSON, encode_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

STYLES: Final[Mapping[str, str]] = {
    "COMPLETED": "green",
    "FAILED": "bold red",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
    "SKIPPED": "dim",
    "UNFINISHED": "yellow",
}

PIPE_WIDTH: Final = 160


def complain(message: str) -> None:
    """One error, on standard error."""
    sys.stdout.flush()
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()


def note(message: str) -> None:
    """A word to people, on standard error."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def put_json(value: JSON) -> None:
    """One JSON value, indented, on standard output."""
    sys.stdout.buffer.write(indent(encode_json(value), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def line(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def console() -> Console:
    """Standard output as ``rich`` sees it; data is never read as markup."""
    from rich.console import Console

    # What is piped is read by programs and pagers: rows stay whole.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def show(*parts: RenderableType) -> None:
    """Print renderables; the terminal wraps texts, so what is copied stays whole."""
    from rich.text import Text

    screen = console()
    for part in parts:
        screen.print(part, soft_wrap=isinstance(part, Text))


def table(columns: Iterable[str], numbers: Iterable[str] = ()) -> Table:
    """An empty table; columns named in ``numbers`` are aligned right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    right = frozenset(numbers)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    return made


def pretty(value: JSON, characters_max: int = 4000) -> str:
    """JSON for people: indented, cut when it is long."""
    text = indent(encode_json(value), indent=2).decode()
    if len(text) <= characters_max:
        return text
    return f"{text[:characters_max]}\n… ({len(text)} characters; --json prints all)"


def duration(seconds: float | None) -> str:
    """A span of time for people, ``-`` when unknown."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {rest:02} s"
