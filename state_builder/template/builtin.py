"""Filters that Jinja2 brings, bounded: each charges the meter for what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, cast

from jinja2.filters import FILTERS as BUILT_IN
from jinja2.runtime import Context

from state_builder.errors import TemplateError
from state_builder.template.limits import ITEMS_MAX, OUTPUT_MAX, Meter, exceeded
from state_builder.template.results import type_name
from state_builder.template.sequences import items_of
from state_builder.template.values import entering, text_form

Filter = Callable[..., object]

_ATTRIBUTE_NAMES: Final = frozenset({"groupby", "map", "rejectattr", "selectattr"})

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


def small(meter: Meter, number: object) -> int:
    """A width or count an author gave, refused before anything is padded to it."""
    if not isinstance(number, int):
        raise TemplateError(f"a width is a whole number, not {type_name(number)}")
    if number > OUTPUT_MAX:
        raise exceeded("output_max", OUTPUT_MAX, "the text made is too long")
    meter.charge(max(number, 0))
    return number


def charge_square(meter: Meter, text: str) -> None:
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
                small(meter, given)
        return leaving(meter, function(*passed.get(kind, ()), *args, **kwargs))

    return call


def _on_texts(name: str) -> Filter:
    call = _called(name)

    def on_text(meter: Meter, value: object, *args: object, **kwargs: object) -> object:
        text = text_form(meter, value)
        charge_square(meter, text)
        return call(meter, text, *args, **kwargs)

    return on_text


def _on_values(name: str) -> Filter:
    call = _called(name)

    def on_value(
        meter: Meter, value: object, *args: object, **kwargs: object
    ) -> object:
        return call(meter, entering(meter, value), *args, **kwargs)

    return on_value


def _on_lists(name: str) -> Filter:
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


_TEXT_NAMES: Final = (
    "capitalize center e escape forceescape striptags title truncate urlize wordcount"
)
_VALUE_NAMES: Final = "abs dictsort filesizeformat pprint urlencode xmlattr"
_ITEM_NAMES: Final = (
    "batch groupby map max min reject rejectattr select selectattr slice sort unique"
)

BOUNDED: Final[dict[str, Filter]] = {
    **{name: _on_texts(name) for name in _TEXT_NAMES.split()},
    **{name: _on_values(name) for name in _VALUE_NAMES.split()},
    **{name: _on_lists(name) for name in _ITEM_NAMES.split()},
}
"""Built-in filters by name."""
