"""What a value is in this dialect: undefined, numbers in texts, text form, truth.

Also how a value leaves the world of views and enters an operator or filter, its size
charged to the meter on the way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final, cast

from jinja2 import Undefined as JinjaUndefined
from jinja2.utils import Namespace
from msgspec.json import encode as encode_json

from state_builder.errors import TemplateError
from state_builder.records import JSON
from state_builder.template.limits import (
    CHARACTERS_PER_UNIT,
    CONTAINER_COST,
    NESTING_MAX,
    OUTPUT_MAX,
    Meter,
    exceeded,
    nested_too_deep,
)
from state_builder.template.results import StepResult, plain, type_name, whole

_SCALARS: Final = frozenset({bool, int, float, type(None)})

_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

_DIGITS_MAX: Final = 1200
"""Digits of a number read from text: INTEGER_BITS_MAX bits and some to spare."""


class Undefined(JinjaUndefined):
    """A name or member that is not there: chains, is empty, false and equals null."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: object = None,
        name: str | None = None,
        exc: object = None,
    ) -> None:
        # Compiled texts and built-in filters call it with any of these; what the
        # name was looked up in is not kept, so that no message can show a value.
        super().__init__(hint=hint, name=name)

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, JinjaUndefined)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(None)


def number_of(text: str) -> int | float | None:
    """The number a text plainly is, whitespace around it aside."""
    text = text.strip()
    if len(text) > _DIGITS_MAX or _NUMBER.fullmatch(text) is None:
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)


def json_text(value: JSON) -> str:
    """Compact JSON on one line; NaN and infinities are null."""
    return encode_json(value).decode()


def text_of(value: object) -> str:
    """The text form of a plain value (PB-411)."""
    kind = type(value)
    if kind is str:
        return cast("str", value)
    if value is None or isinstance(value, JinjaUndefined):
        return ""
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        return repr(value) if math.isfinite(cast("float", value)) else ""
    if isinstance(value, str):
        return str.__str__(value)
    return json_text(json_value(value))


def json_value(value: object) -> JSON:
    """The value itself if it is JSON at its top; an error that names it otherwise."""
    if isinstance(value, dict | list | tuple):
        return cast("JSON", value)
    raise TemplateError(f"{type_name(value)} is no value a text may give")


def settle(meter: Meter, value: object, *, keep: bool = False, depth: int = 0) -> JSON:
    """A copy as plain JSON, counted element by element.

    Args:
        keep: leave results and undefined members as they are, for a filter that may
            ask for them.
    """
    kind = type(value)
    if kind is str or kind in _SCALARS:
        return cast("JSON", value)
    if depth > NESTING_MAX:
        raise nested_too_deep()
    if isinstance(value, JinjaUndefined | StepResult):
        if keep:
            return cast("JSON", value)
        value = plain(value)
        if type(value) is str or type(value) in _SCALARS:
            return value
    if isinstance(value, list | tuple):
        meter.charge(CONTAINER_COST + 2 * len(value))
        if keep and hasattr(value, "_fields"):
            # A group keeps the names of its two parts.
            return cast("JSON", value)
        return [settle(meter, item, keep=keep, depth=depth + 1) for item in value]
    if isinstance(value, Mapping):
        meter.charge(CONTAINER_COST + 2 * len(value))
        return {
            _key(name): settle(meter, value[name], keep=keep, depth=depth + 1)
            for name in value
        }
    if isinstance(value, str):
        return str.__str__(value)
    raise TemplateError(f"{type_name(value)} is no value a text may give")


def _key(name: object) -> str:
    """Keys of maps are text, also those a text writes as numbers."""
    return name if type(name) is str else text_of(name)


def entering(meter: Meter, value: object) -> object:
    """A value as an operator or filter takes it: without views, its size charged."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, str):
        if len(value) > CHARACTERS_PER_UNIT:
            meter.charge(len(value) // CHARACTERS_PER_UNIT)
        return value
    if isinstance(value, JinjaUndefined | Namespace):
        return value
    if meter.builds:
        return settle(meter, value)
    found = plain(value)
    if isinstance(found, list | dict):
        meter.charge(len(found))
    return found


def text_form(meter: Meter, value: object) -> str:
    """The text form of anything a text holds, charged."""
    text = text_of(entering(meter, value))
    meter.written(len(text))
    return text


def concatenated(pieces: Iterable[str]) -> str:
    """One text of many, refused as soon as it is too long."""
    found = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > OUTPUT_MAX:
            raise exceeded("output_max", OUTPUT_MAX, "the text made is too long")
        found.append(piece)
    return "".join(found)


def truth(value: object) -> bool:
    """PB-441 for the value of a condition."""
    text = whole(value) if isinstance(value, StepResult) else value
    if isinstance(text, str):
        return text.strip().lower() not in _FALSE_TEXTS
    return bool(value)


_FALSE_TEXTS: Final = frozenset(
    {"", "false", "0", "0.0", "no", "none", "null", "off", "undefined", "{}", "[]"}
)


def is_nothing(value: object) -> bool:
    """Null, or undefined; also a result that is null."""
    if isinstance(value, StepResult):
        return value.value is None and not value.failed
    return value is None or isinstance(value, JinjaUndefined)
