"""The filters of the dialect (PB-403), each given values without views.

What Jinja2 has is used where its meaning and cost are right; the rest is written here.
``random`` is missing on purpose: texts are pure (PB-401).
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, Final, ParamSpec, cast

from jinja2 import pass_context
from jinja2.filters import FILTERS as BUILT_IN
from jinja2.runtime import Context
from msgspec import DecodeError
from msgspec.json import decode as decode_json
from msgspec.json import format as format_json

from state_builder.errors import TemplateError
from state_builder.records import JSON
from state_builder.template.limits import ITEMS_MAX, OUTPUT_MAX, Meter, exceeded
from state_builder.template.operators import calculate, formatted
from state_builder.template.results import StepResult, elements, type_name, whole
from state_builder.template.values import (
    Undefined,
    entering,
    is_nothing,
    json_text,
    number_of,
    settle,
    text_form,
    text_of,
)

_P = ParamSpec("_P")
Filter = Callable[..., object]

_ATTRIBUTE_NAMES: Final = frozenset({"groupby", "map", "rejectattr", "selectattr"})

_PRECISION_MAX: Final = 100
"""Decimal places ``round`` takes."""

_DIGITS_MAX: Final = 1024
"""Digits ``int`` reads in another base."""

_SORT_COST: Final = 10
"""Units per element of a filter that sorts or groups."""


def leaving(meter: Meter, value: object) -> object:
    """What a built-in gave: generators become lists, safe strings plain ones."""
    if isinstance(value, Iterator):
        found = list(islice(value, ITEMS_MAX + 1))
        meter.listed(len(found))
        return found
    if isinstance(value, str):
        meter.written(len(value))
        return str.__str__(value)
    return value


def items_of(meter: Meter, value: object, *, views: bool = False) -> list[object]:
    """The list a sequence filter works on (PB-230, PB-434); of a map its keys.

    Args:
        views: elements of a loop keep theirs, for filters that look attributes up.
    """
    found: object = elements(value) if isinstance(value, StepResult) else value
    if not isinstance(found, list | tuple):
        found = entering(meter, value)
        if isinstance(found, dict) and isinstance(found.get("rows"), list):
            found = found["rows"]
    if is_nothing(found):
        return []
    if not isinstance(found, str | list | dict | tuple):
        raise TemplateError(f"{type_name(found)} is no list")
    meter.charge(len(found))
    items = list(found)
    if meter.builds:
        items = cast("list[object]", settle(meter, items, keep=True))
    return items if views else [_without_view(item) for item in items]


def _without_view(item: object) -> object:
    return whole(item) if isinstance(item, StepResult) else item


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


def _length(meter: Meter, value: object) -> int:
    if isinstance(value, StepResult):
        found = elements(value)
        if found is not None:
            return len(found)
    value = entering(meter, value)
    if isinstance(value, dict) and isinstance(value.get("rows"), list):
        return len(value["rows"])
    if is_nothing(value):
        return 0
    if isinstance(value, str | list | dict | tuple):
        return len(value)
    raise TemplateError(f"{type_name(value)} has no length")


def _first(meter: Meter, value: object) -> object:
    found = items_of(meter, value, views=True)
    return found[0] if found else Undefined("nothing in the list")


def _last(meter: Meter, value: object) -> object:
    found = items_of(meter, value, views=True)
    return found[-1] if found else Undefined("nothing in the list")


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


def map_of(meter: Meter, value: object, what: str) -> dict[str, object]:
    """The map a filter or call works on; undefined and null are empty ones."""
    value = entering(meter, value)
    if is_nothing(value):
        return {}
    if not isinstance(value, dict):
        raise TemplateError(f"{what} does not work on {type_name(value)}")
    return value


def keys_of(meter: Meter, value: object) -> list[object]:
    """The keys of a map, in order."""
    return list(map_of(meter, value, "keys"))


def values_of(meter: Meter, value: object) -> list[object]:
    """The values of a map, in order."""
    return list(map_of(meter, value, "values").values())


def pairs_of(meter: Meter, value: object) -> list[object]:
    """``[key, value]`` of each entry of a map, in order."""
    return [[name, item] for name, item in map_of(meter, value, "items").items()]


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


def _members(meter: Meter, found: list[object], attribute: object) -> list[object]:
    """``attribute`` (a dotted path) of each element."""
    map_built_in = cast("Any", BUILT_IN["map"])
    return list(map_built_in(cast("Context", meter), found, attribute=attribute))


def join_texts(
    meter: Meter, value: object, separator: object = "", attribute: object = None
) -> str:
    """The elements' text forms, with ``separator`` between them."""
    found = items_of(meter, value, views=True)
    if attribute is not None:
        found = _members(meter, found, attribute)
    texts = [text_form(meter, item) for item in found]
    between = text_form(meter, separator)
    meter.written(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _sum(
    meter: Meter, value: object, attribute: object = None, start: object = 0
) -> object:
    found = items_of(meter, value, views=True)
    if attribute is not None:
        found = _members(meter, found, attribute)
    total = start
    for item in found:
        total = calculate(meter, "+", total, item)
    return total


def _list(meter: Meter, value: object) -> list[object]:
    return items_of(meter, value, views=True)


def _reverse(meter: Meter, value: object) -> object:
    if isinstance(value, str):
        return text_form(meter, value)[::-1]
    return items_of(meter, value, views=True)[::-1]


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
    margin = width if isinstance(width, str) else " " * _small(meter, width)
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
    _charge_square(meter, text)
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


def _small(meter: Meter, number: object) -> int:
    """A width or count an author gave, refused before anything is padded to it."""
    if not isinstance(number, int):
        raise TemplateError(f"a width is a whole number, not {type_name(number)}")
    if number > OUTPUT_MAX:
        raise exceeded("output_max", OUTPUT_MAX, "the text made is too long")
    meter.charge(max(number, 0))
    return number


def _charge_square(meter: Meter, text: str) -> None:
    """For filters that may look at a text again for each of its characters."""
    meter.charge(len(text) * len(text) >> 14)


def _called(name: str) -> Filter:
    """A built-in that is handed the meter (which is its context) where it wants it."""
    function = BUILT_IN[name]
    wanted = getattr(function, "jinja_pass_arg", None)
    kind = None if wanted is None else wanted.name

    def call(meter: Meter, *args: object, **kwargs: object) -> object:
        context = cast("Context", meter)
        passed: dict[str | None, tuple[object, ...]] = {
            "context": (context,),
            "eval_context": (context.eval_ctx,),
            "environment": (context.environment,),
        }
        for given in (*args[1:], *kwargs.values()):
            if type(given) is int:
                _small(meter, given)
        return leaving(meter, function(*passed.get(kind, ()), *args, **kwargs))

    return call


def _on_text(name: str) -> Filter:
    call = _called(name)

    def on_text(meter: Meter, value: object, *args: object, **kwargs: object) -> object:
        text = text_form(meter, value)
        _charge_square(meter, text)
        return call(meter, text, *args, **kwargs)

    return on_text


def _on_value(name: str) -> Filter:
    call = _called(name)

    def on_value(
        meter: Meter, value: object, *args: object, **kwargs: object
    ) -> object:
        return call(meter, entering(meter, value), *args, **kwargs)

    return on_value


def _on_items(name: str) -> Filter:
    call = _called(name)

    def on_items(
        meter: Meter, value: object, *args: object, **kwargs: object
    ) -> object:
        views = name in _ATTRIBUTE_NAMES or "attribute" in kwargs
        found = items_of(meter, value, views=views)
        names = sum(len(a) for a in (*args, *kwargs.values()) if isinstance(a, str))
        meter.charge(len(found) * (_SORT_COST + names // 8))
        return call(meter, found, *args, **kwargs)

    return on_items


def _plain_text(meter: Meter, value: object) -> str:
    return text_of(entering(meter, value))


_OWN: Final[dict[str, Filter]] = {
    "attr": _attr,
    "b64decode": _b64decode,
    "b64encode": _b64encode,
    "count": _length,
    "d": _default,
    "default": _default,
    "first": _first,
    "float": _float,
    "format": _format,
    "fromjson": _fromjson,
    "indent": _indent,
    "int": _int,
    "items": pairs_of,
    "join": join_texts,
    "keys": keys_of,
    "last": _last,
    "len": _length,
    "length": _length,
    "list": _list,
    "lower": _lower,
    "replace": replace_text,
    "reverse": _reverse,
    "round": _round,
    "safe": _plain_text,
    "split": split_text,
    "string": _string,
    "sum": _sum,
    "tojson": _tojson,
    "trim": _trim,
    "upper": _upper,
    "values": values_of,
    "wordwrap": _wordwrap,
}

_TEXT_NAMES: Final = (
    "capitalize center e escape forceescape striptags title truncate urlize wordcount"
)
_VALUE_NAMES: Final = "abs dictsort filesizeformat pprint urlencode xmlattr"
_ITEM_NAMES: Final = (
    "batch groupby map max min reject rejectattr select selectattr slice sort unique"
)

FILTERS: Final[dict[str, Filter]] = {
    name: pass_context(function)
    for name, function in {
        **_OWN,
        **{name: _on_text(name) for name in _TEXT_NAMES.split()},
        **{name: _on_value(name) for name in _VALUE_NAMES.split()},
        **{name: _on_items(name) for name in _ITEM_NAMES.split()},
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
