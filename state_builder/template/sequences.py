"""Lists and maps as filters see them: what there is to walk, count, join and add."""

from __future__ import annotations

from typing import Any, cast

from jinja2.filters import FILTERS as BUILT_IN
from jinja2.runtime import Context

from state_builder.errors import TemplateError
from state_builder.template.limits import Meter
from state_builder.template.operators import calculate
from state_builder.template.results import StepResult, elements, type_name, whole
from state_builder.template.values import (
    Undefined,
    entering,
    is_nothing,
    settle,
    text_form,
)


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


def length_of(meter: Meter, value: object) -> int:
    """How many elements, keys or characters; nothing has none."""
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


def first_of(meter: Meter, value: object) -> object:
    """The first element; undefined where there is none."""
    found = items_of(meter, value, views=True)
    return found[0] if found else Undefined("nothing in the list")


def last_of(meter: Meter, value: object) -> object:
    """The last element; undefined where there is none."""
    found = items_of(meter, value, views=True)
    return found[-1] if found else Undefined("nothing in the list")


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


def sum_of(
    meter: Meter, value: object, attribute: object = None, start: object = 0
) -> object:
    """``start`` plus every element, or plus ``attribute`` of each."""
    found = items_of(meter, value, views=True)
    if attribute is not None:
        found = _members(meter, found, attribute)
    total = start
    for item in found:
        total = calculate(meter, "+", total, item)
    return total


def list_of(meter: Meter, value: object) -> list[object]:
    """The elements as a list."""
    return items_of(meter, value, views=True)


def reversed_of(meter: Meter, value: object) -> object:
    """A text or list back to front."""
    if isinstance(value, str):
        return text_form(meter, value)[::-1]
    return items_of(meter, value, views=True)[::-1]
