"""What a variable is: names, default, unit, meaning, bounds; and reading one.

A room is a frozen dataclass whose fields are made by :func:`env`, so a setting is
declared once: the table for people (:func:`variables_of`) and the reader
(:func:`read_room`) are derived from the same declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeVar, cast, get_type_hints

T = TypeVar("T")

WORDS: Final = {
    "1": True, "true": True, "yes": True, "on": True,
    "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip


class Secret:
    """A text that is only shown to whoever asks for it by name."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "***" if self._text else ""


@dataclass(frozen=True, kw_only=True)
class Allow:
    """What a value may be: bounds for numbers, or one of some words."""

    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()

    def refusal(self, value: object) -> str:
        """What would be allowed instead, or nothing when the value is."""
        if self.words and value not in self.words:
            return "use " + " or ".join(self.words)
        if isinstance(value, int | float):
            if self.low is not None and value < self.low:
                return f"use {self.low:g} or more"
            if self.high is not None and value > self.high:
                return f"use {self.high:g} or less"
        return ""


MIB: Final = 1 << 20
SOME: Final = Allow(low=1)
NOT_NEGATIVE: Final = Allow(low=0)
ABOVE_ZERO: Final = Allow(low=0.001)
PORT: Final = Allow(low=0, high=65535)


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One setting, for readers and for documentation.

    Attributes:
        name: the variable; one that ends in ``*`` stands for all that begin so.
        aliases: older spellings that still work.
        default: as text; empty when there is none.
        unit: ``s``, ``bytes`` … or empty.
        room, attribute: where :class:`Settings` keeps it.
    """

    name: str
    doc: str
    aliases: tuple[str, ...] = ()
    default: str = ""
    unit: str = ""
    allow: Allow = Allow()
    room: str = ""
    attribute: str = ""
    secret: bool = False


def env(
    names: str, default: T, doc: str, unit: str = "", allow: Allow | None = None
) -> T:
    """A field filled from the environment.

    ``names`` is the variable's name, then its older spellings, by spaces.
    """
    name, *aliases = names.split()
    variable = Variable(
        name=name, doc=doc, aliases=tuple(aliases), unit=unit, allow=allow or Allow()
    )
    metadata = {"variable": variable}
    if isinstance(default, dict):
        return cast(T, field(default_factory=dict, metadata=metadata))
    return field(default=default, metadata=metadata)


def variables_of(room: type) -> list[Variable]:
    """Every variable of a room, in the order of declaration."""
    found = []
    for member in fields(room):
        declared: Variable = member.metadata["variable"]
        default = "" if member.default is MISSING else _as_text(member.default)
        found.append(
            Variable(
                name=declared.name,
                doc=declared.doc,
                aliases=declared.aliases,
                default=default,
                unit=declared.unit,
                allow=declared.allow,
                room=room.__name__.lower(),
                attribute=member.name,
                secret=isinstance(member.default, Secret),
            )
        )
    return found


def read_room(room: type[T], environ: Mapping[str, str], faults: list[str]) -> T:
    """A room with what the environment says; what is wrong is added to ``faults``."""
    hints = get_type_hints(room)
    values: dict[str, Any] = {}
    for variable in variables_of(room):
        if variable.name.endswith("*"):
            values[variable.attribute] = _prefixed(variable.name[:-1], environ)
            continue
        name, text = _given(variable, environ)
        if not text:
            continue
        kind = str(hints[variable.attribute])
        parser, wanted = _PARSERS[kind]
        try:
            value = parser(text)
        except ValueError:
            shown = "***" if variable.secret else repr(text)
            faults.append(f"{name}={shown}: not {wanted}")
            continue
        refusal = variable.allow.refusal(value)
        if refusal:
            faults.append(f"{name}={text!r}: {refusal}")
        values[variable.attribute] = value
    return room(**values)


def _given(variable: Variable, environ: Mapping[str, str]) -> tuple[str, str]:
    """Name and text of the spelling that is set; an empty text counts as not set."""
    for name in (variable.name, *variable.aliases):
        text = environ.get(name, "").strip()
        if text:
            return name, text
    return variable.name, ""


def _prefixed(prefix: str, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name[len(prefix) :]: text
        for name, text in sorted(environ.items())
        if name.startswith(prefix) and text
    }


def _as_text(value: object) -> str:
    if value is None or isinstance(value, Secret):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _boolean(text: str) -> bool:
    try:
        return WORDS[text.lower()]
    except KeyError as error:
        raise ValueError(text) from error


def _number(text: str) -> float:
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return value


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _ranges(text: str) -> tuple[int, ...]:
    """``0-7,9`` as numbers, each once and in order."""
    found: set[int] = set()
    for part in _list(text):
        low, dash, high = part.partition("-")
        first, last = int(low), int(high) if dash else int(low)
        if not 0 <= first <= last < 1024:
            raise ValueError(part)
        found.update(range(first, last + 1))
    return tuple(sorted(found))


_PARSERS: Final[dict[str, tuple[Callable[[str], object], str]]] = {
    str(kind): (parser, wanted)
    for kind, parser, wanted in (
        (str, str, "a text"),
        (Secret, Secret, "a text"),
        (bool, _boolean, "a boolean: use true or false"),
        (int, int, "a whole number"),
        (int | None, int, "a whole number"),
        (float, _number, "a number"),
        (tuple[str, ...], _list, "a list with commas"),
        (tuple[int, ...], _ranges, "numbers from 0 to 1023 like 0-7,9"),
    )
}
