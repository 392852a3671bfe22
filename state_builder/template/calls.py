"""What may be called (PB-402, PB-403) and the tests of the dialect.

A text calls a method by its name, never an object: nothing of Python can be reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from jinja2 import pass_context
from jinja2.runtime import Context, LoopContext
from jinja2.tests import TESTS as BUILT_IN
from jinja2.utils import Namespace

from state_builder.errors import TemplateError
from state_builder.records import JSON
from state_builder.template import operators
from state_builder.template.filters import replace_text, split_text
from state_builder.template.limits import ITEMS_MAX, Meter, exceeded
from state_builder.template.results import ABSENT, StepResult, member, type_name, whole
from state_builder.template.sequences import (
    join_texts,
    keys_of,
    map_of,
    pairs_of,
    values_of,
)
from state_builder.template.values import entering, is_nothing, text_form


class Caller(Protocol):
    """What a function needs of the evaluation that calls it."""

    def injected(self, name: str) -> Callable[..., JSON]:
        """The function of the scope; raises TemplateError where there is none."""

    def now(self) -> JSON:
        """One value per text."""


def _get(
    meter: Meter, value: dict[str, object], key: object, default: object = None
) -> object:
    return value.get(cast("str", entering(meter, key)), default)


def _one_text(
    function: Callable[[str, str | None], object],
) -> Callable[..., object]:
    def call(meter: Meter, value: str, argument: object = None) -> object:
        text = None if is_nothing(argument) else text_form(meter, argument)
        return function(value, text)

    return call


def _join(meter: Meter, value: str, items: object) -> object:
    return join_texts(meter, items, value)


_MAP_CALLS: Final[dict[str, Callable[..., object]]] = {
    "get": _get,
    "items": pairs_of,
    "keys": keys_of,
    "values": values_of,
}

_TEXT_CALLS: Final[dict[str, Callable[..., object]]] = {
    "upper": lambda meter, value: value.upper(),
    "lower": lambda meter, value: value.lower(),
    "strip": _one_text(str.strip),
    "lstrip": _one_text(str.lstrip),
    "rstrip": _one_text(str.rstrip),
    "split": split_text,
    "replace": replace_text,
    "startswith": _one_text(lambda value, text: value.startswith(text or "")),
    "endswith": _one_text(lambda value, text: value.endswith(text or "")),
    "join": _join,
}

_LOOP_CALLS: Final = frozenset({"cycle", "changed"})

METHODS: Final = frozenset({*_MAP_CALLS, *_TEXT_CALLS, *_LOOP_CALLS})
"""Names that may be called on a value."""


@pass_context
def call_method(
    meter: Meter, value: object, name: str, *args: object, **kwargs: object
) -> object:
    """``value.name(…)`` where the value's type allows it."""
    if isinstance(value, LoopContext) and name in _LOOP_CALLS:
        return getattr(value, name)(*args, **kwargs)
    if isinstance(value, StepResult) and isinstance(value.value, dict):
        if member(value, name) is not ABSENT:
            raise TemplateError(f"'{name}' is a key of the map and cannot be called")
        value = whole(value)
    value = entering(meter, value)
    calls: dict[str, Callable[..., object]] = {}
    if isinstance(value, dict):
        calls = {} if name in value else _MAP_CALLS
    elif isinstance(value, str):
        calls = _TEXT_CALLS
    if name not in calls:
        raise TemplateError(f"'{name}' cannot be called on {type_name(value)}")
    result = calls[name](meter, value, *args, **kwargs)
    if isinstance(result, str):
        meter.written(len(result))
    return result


def _range(meter: Meter, *args: object) -> list[object]:
    bounds = [entering(meter, bound) for bound in args]
    if not all(isinstance(bound, int) for bound in bounds):
        raise TemplateError("range takes whole numbers")
    numbers = range(*cast("list[int]", bounds))
    if numbers and abs(numbers[-1] - numbers[0]) // abs(numbers.step) >= ITEMS_MAX:
        raise exceeded("items_max", ITEMS_MAX, "the range is too long")
    meter.listed(len(numbers))
    return list(numbers)


def _dict(meter: Meter, value: object = None, **entries: object) -> dict[str, object]:
    return {**map_of(meter, value, "dict"), **entries}


def _namespace(meter: Meter, value: object = None, **entries: object) -> Namespace:
    return Namespace(_dict(meter, value, **entries))


def _now(meter: Meter) -> JSON:
    return cast("Caller", meter).now()


def _token(meter: Meter, alias: object) -> JSON:
    return cast("Caller", meter).injected("token")(text_form(meter, alias))


_FUNCTIONS: Final[dict[str, Callable[..., object]]] = {
    "range": _range,
    "dict": _dict,
    "namespace": _namespace,
    "now": _now,
    "token": _token,
}

FUNCTIONS: Final = frozenset(_FUNCTIONS)
"""Names that may be called on their own."""


@pass_context
def call_function(meter: Meter, name: str, *args: object, **kwargs: object) -> object:
    """``name(…)`` of one of :data:`FUNCTIONS`."""
    return _FUNCTIONS[name](meter, *args, **kwargs)


def _number_test(name: str) -> Callable[..., bool]:
    test = cast("Callable[..., bool]", BUILT_IN[name])

    def on_number(meter: Meter, value: object, *args: object) -> bool:
        numbers = [entering(meter, number) for number in (value, *args)]
        for number in numbers:
            if not isinstance(number, int | float):
                raise TemplateError(f"'{name}' does not work on {type_name(number)}")
        return test(*numbers)

    return on_number


def _built_in(name: str) -> Callable[..., object]:
    function = cast("Any", BUILT_IN[name])
    wants_environment = hasattr(function, "jinja_pass_arg")

    def test(meter: Meter, value: object, *args: object) -> object:
        given = [entering(meter, item) for item in (value, *args)]
        if wants_environment:
            given.insert(0, cast("Context", meter).environment)
        return function(*given)

    return test


_COMPARING: Final[dict[str, Callable[..., bool]]] = {
    **dict.fromkeys(("eq", "==", "equalto"), operators.equal),
    **dict.fromkeys(("ne", "!="), operators.unequal),
    **dict.fromkeys(("lt", "<", "lessthan"), operators.less),
    **dict.fromkeys(("le", "<="), operators.at_most),
    **dict.fromkeys(("gt", ">", "greaterthan"), operators.greater),
    **dict.fromkeys(("ge", ">="), operators.at_least),
    "in": operators.contains,
    **{name: _number_test(name) for name in ("odd", "even", "divisibleby")},
}

TESTS: Final[dict[str, Callable[..., object]]] = {
    name: pass_context(_COMPARING[name] if name in _COMPARING else _built_in(name))
    for name in BUILT_IN
}
"""Every test an author may write: all of Jinja2's."""
