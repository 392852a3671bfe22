"""The filters of the dialect (PB-403), each given values without views.

What Jinja2 has is used where its meaning and cost are right; the rest is written here.
``random`` is missing on purpose: texts are pure (PB-401).
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, cast

from jinja2 import pass_context
from jinja2.filters import FILTERS as BUILT_IN
from jinja2.runtime import Context
from msgspec import DecodeError
from msgspec.json import decode as decode_json
from msgspec.json import format as format_json

from state_builder.errors import TemplateError
from state_builder.records import JSON
from state_builder.template.builtin import BOUNDED, Filter, charge_square, small
from state_builder.template.limits import Meter
from state_builder.template.operators import formatted
from state_builder.template.sequences import (
    first_of,
    join_texts,
    keys_of,
    last_of,
    length_of,
    list_of,
    pairs_of,
    reversed_of,
    sum_of,
    values_of,
)
from state_builder.template.values import (
    entering,
    is_nothing,
    json_text,
    number_of,
    text_form,
    text_of,
)

_P = ParamSpec("_P")

_PRECISION_MAX: Final = 100
"""Decimal places ``round`` takes."""

_DIGITS_MAX: Final = 1024
"""Digits ``int`` reads in another base."""


def _text(
    function: Callable[Concatenate[Meter, str, _P], object],
) -> Callable[Concatenate[Meter, object, _P], object]:
    """A filter that takes the text form of whatever it is given."""

    @wraps(function)
    def on_text(
        meter: Meter, value: object, *args: _P.args, **kwargs: _P.kwargs
    ) -> object:
        return function(meter, text_form(meter, value), *args, **kwargs)

    return on_text  # type: ignore[return-value]


def _default(
    meter: Meter, value: object, default: object = "", boolean: object = False
) -> object:
    return default if is_nothing(value) or (boolean and not value) else value


def _int(meter: Meter, value: object, default: object = 0, base: int = 10) -> object:
    value = entering(meter, value)
    if isinstance(value, str):
        if base != 10:
            return _int_of_base(value, default, base)
        value = number_of(value)
    if isinstance(value, int):
        return int(value)
    finite = isinstance(value, float) and math.isfinite(value)
    return int(cast("float", value)) if finite else default


def _int_of_base(text: str, default: object, base: int) -> object:
    try:
        return int(text.strip(), base) if len(text) <= _DIGITS_MAX else default
    except ValueError:
        return default


def _float(meter: Meter, value: object, default: object = 0.0) -> object:
    value = entering(meter, value)
    if isinstance(value, str):
        value = number_of(value)
    try:
        return float(value) if isinstance(value, int | float) else default
    except OverflowError:
        return default


@_text
def _string(meter: Meter, text: str) -> str:
    return text


def _tojson(meter: Meter, value: object, indent: int | None = None) -> str:
    value = entering(meter, value)
    text = json_text(None if is_nothing(value) else cast("JSON", value))
    if indent is not None:
        if not 0 <= indent <= 16:
            raise TemplateError("tojson: indent is a number from 0 to 16")
        text = format_json(text, indent=indent)
    meter.written(len(text))
    return text


@_text
def _fromjson(meter: Meter, text: str) -> JSON:
    try:
        return cast("JSON", decode_json(text))
    except DecodeError as error:
        raise TemplateError(f"fromjson: {error}") from error


@_text
def _b64encode(meter: Meter, text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@_text
def _b64decode(meter: Meter, text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise TemplateError("b64decode: not the base64 form of a text") from error


@_text
def _lower(meter: Meter, text: str) -> str:
    return text.lower()


@_text
def _upper(meter: Meter, text: str) -> str:
    return text.upper()


@_text
def _trim(meter: Meter, text: str, chars: str | None = None) -> str:
    return text.strip(chars)


@_text
def split_text(
    meter: Meter, text: str, separator: str | None = None, maxsplit: int = -1
) -> list[str]:
    """The parts of a text between separators, or between runs of whitespace."""
    meter.charge(len(text))
    return text.split(separator, maxsplit)


@_text
def replace_text(
    meter: Meter, text: str, old: object, new: object, count: int | None = None
) -> str:
    """Every ``old`` replaced by ``new``, or the first ``count`` of them."""
    before, after = text_form(meter, old), text_form(meter, new)
    found = text.count(before)
    if count is not None and count >= 0:
        found = min(found, count)
    meter.written(len(text) + found * (len(after) - len(before)))
    return text.replace(before, after, found)


@_text
def _format(meter: Meter, text: str, /, *args: object, **kwargs: object) -> str:
    if args and kwargs:
        raise TemplateError("format takes values or names, not both")
    values = tuple(entering(meter, value) for value in args)
    return formatted(meter, text, (kwargs,) if kwargs else values)


@_text
def _indent(
    meter: Meter, text: str, width: object = 4, first: bool = False, blank: bool = False
) -> str:
    margin = width if isinstance(width, str) else " " * small(meter, width)
    meter.written(len(text) + len(margin) * (text.count("\n") + 1))
    return cast("str", BUILT_IN["indent"](text, margin, first, blank))


@_text
def _wordwrap(
    meter: Meter,
    text: str,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str = "\n",
    break_on_hyphens: bool = True,
) -> str:
    charge_square(meter, text)
    meter.written(len(text) * max(1, len(wrapstring)))
    wrap = cast("Any", BUILT_IN["wordwrap"])
    environment = cast("Context", meter).environment
    return cast(
        "str",
        wrap(environment, text, width, break_long_words, wrapstring, break_on_hyphens),
    )


def _round(
    meter: Meter, value: object, precision: int = 0, method: str = "common"
) -> object:
    value = entering(meter, value)
    if not isinstance(value, int | float) or not -_PRECISION_MAX <= precision <= (
        _PRECISION_MAX
    ):
        raise TemplateError(
            f"round takes a number and up to {_PRECISION_MAX} decimal places"
        )
    return BUILT_IN["round"](value, precision, method)


def _attr(meter: Meter, value: object, name: object) -> object:
    return cast("Context", meter).environment.getitem(value, name)


def _plain_text(meter: Meter, value: object) -> str:
    return text_of(entering(meter, value))


_OWN: Final[dict[str, Filter]] = {
    "attr": _attr,
    "b64decode": _b64decode,
    "b64encode": _b64encode,
    "count": length_of,
    "d": _default,
    "default": _default,
    "first": first_of,
    "float": _float,
    "format": _format,
    "fromjson": _fromjson,
    "indent": _indent,
    "int": _int,
    "items": pairs_of,
    "join": join_texts,
    "keys": keys_of,
    "last": last_of,
    "len": length_of,
    "length": length_of,
    "list": list_of,
    "lower": _lower,
    "replace": replace_text,
    "reverse": reversed_of,
    "round": _round,
    "safe": _plain_text,
    "split": split_text,
    "string": _string,
    "sum": sum_of,
    "tojson": _tojson,
    "trim": _trim,
    "upper": _upper,
    "values": values_of,
    "wordwrap": _wordwrap,
}

FILTERS: Final[dict[str, Filter]] = {
    name: pass_context(function)
    for name, function in {
        **_OWN,
        **BOUNDED,
    }.items()
}
"""Every filter an author may write."""

PASSING: Final = frozenset(
    (
        *("abs", "attr", "b64decode", "b64encode", "capitalize", "center"),
        *("count", "d", "default", "e", "escape", "filesizeformat"),
        *("first", "float", "forceescape", "format", "fromjson", "int"),
        *("join", "keys", "last", "len", "length", "list"),
        *("lower", "replace", "reverse", "round", "safe", "split"),
        *("string", "striptags", "sum", "title", "tojson", "trim"),
        *("truncate", "upper", "urlencode", "urlize", "values", "wordcount"),
        *("wordwrap",),
    )
)
"""Filters that put no element into a container other than the one it was in."""
