"""What operators mean in this dialect: comparison, arithmetic, ``in``, ``~``, parts.

Every operation unwraps results first and charges the meter before it makes something
large. Nothing here knows how texts are parsed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NoReturn, cast

from state_builder.errors import TemplateError
from state_builder.records import JSON
from state_builder.template.limits import INTEGER_BITS_MAX, OUTPUT_MAX, Meter, exceeded
from state_builder.template.results import (
    StepResult,
    elements,
    keys,
    part,
    seen,
    type_name,
)
from state_builder.template.values import (
    Undefined,
    entering,
    is_nothing,
    number_of,
    text_form,
    text_of,
)


def equal(meter: Meter, left: object, right: object) -> bool:
    """By type as in Python; undefined equals null (PB-420, PB-421)."""
    return bool(entering(meter, left) == entering(meter, right))


def unequal(meter: Meter, left: object, right: object) -> bool:
    """Not :func:`equal`."""
    return bool(entering(meter, left) != entering(meter, right))


def _ordering(
    compare: Callable[[object, object], bool], sign: str
) -> Callable[[Meter, object, object], bool]:
    def ordered(meter: Meter, left: object, right: object) -> bool:
        left, right = entering(meter, left), entering(meter, right)
        if isinstance(left, str) != isinstance(right, str):
            left, right = _as_number(left), _as_number(right)
        if is_nothing(left) or is_nothing(right):
            return False
        try:
            return bool(compare(left, right))
        except TypeError:
            _refuse(sign, left, right)

    return ordered


def _as_number(value: object) -> object:
    """A text beside a number counts as the number it is, or as null (PB-421)."""
    return number_of(value) if isinstance(value, str) else value


def _refuse(sign: str, left: object, right: object) -> NoReturn:
    raise TemplateError(
        f"'{sign}' does not work on {type_name(left)} and {type_name(right)}"
    )


less = _ordering(operator.lt, "<")  # type: ignore[arg-type]
at_most = _ordering(operator.le, "<=")  # type: ignore[arg-type]
greater = _ordering(operator.gt, ">")  # type: ignore[arg-type]
at_least = _ordering(operator.ge, ">=")  # type: ignore[arg-type]


def contains(meter: Meter, item: object, container: object) -> bool:
    """``item in container``; nothing is in undefined or null (PB-422)."""
    item, container = entering(meter, item), entering(meter, container)
    if is_nothing(container):
        return False
    if isinstance(container, str):
        return isinstance(item, str) and item in container
    if isinstance(container, dict):
        return isinstance(item, str) and item in container
    if isinstance(container, list):
        return item in container
    raise TemplateError(f"'in' does not work on {type_name(container)}")


def joined(meter: Meter, parts: tuple[object, ...]) -> str:
    """``a ~ b``: the text forms, one after the other."""
    texts = [text_form(meter, part) for part in parts]
    meter.written(sum(map(len, texts)))
    return "".join(texts)


_BINARY: Final[dict[str, Callable[[object, object], object]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}


def calculate(meter: Meter, sign: str, left: object, right: object) -> object:
    """Arithmetic: numbers with numbers, ``+`` on two texts or two lists, ``*`` of a
    text or list by a whole number, ``%`` as formatting; the rest is an error (PB-422).
    """
    left, right = entering(meter, left), entering(meter, right)
    if isinstance(left, int | float) and isinstance(right, int | float):
        return _calculate_numbers(sign, left, right)
    if sign == "+" and isinstance(left, str) and isinstance(right, str):
        meter.written(len(left) + len(right))
        return left + right
    if sign == "+" and isinstance(left, list) and isinstance(right, list):
        meter.listed(len(left) + len(right))
        return left + right
    if sign == "*" and isinstance(left, int) and isinstance(right, str | list):
        left, right = right, left
    if sign == "*" and isinstance(left, str | list) and isinstance(right, int):
        return _repeat(meter, left, right)
    if sign == "%" and isinstance(left, str):
        values = tuple(right) if isinstance(right, list) else (right,)
        return formatted(meter, left, values)
    _refuse(sign, left, right)


def _calculate_numbers(sign: str, left: int | float, right: int | float) -> int | float:
    if isinstance(left, int) and isinstance(right, int):
        bits = 0
        if sign == "*":
            bits = left.bit_length() + right.bit_length()
        elif sign == "**" and right > 0:
            bits = left.bit_length() * right
        if bits > INTEGER_BITS_MAX:
            raise exceeded("integer_bits_max", INTEGER_BITS_MAX, "number too large")
    try:
        result = _BINARY[sign](left, right)
    except ArithmeticError as error:
        raise TemplateError(f"'{sign}': {error}") from error
    if isinstance(result, complex):
        raise TemplateError(f"'{sign}' of these numbers is no real number")
    return cast("int | float", result)


def _repeat(meter: Meter, value: str | list[JSON], times: int) -> str | list[JSON]:
    size = len(value) * max(times, 0)
    if isinstance(value, str):
        meter.written(size)
    else:
        meter.listed(size)
    return value * times


def signed(meter: Meter, sign: str, value: object) -> int | float:
    """``-x`` and ``+x``, of numbers only."""
    value = entering(meter, value)
    if not isinstance(value, int | float):
        raise TemplateError(f"'{sign}' does not work on {type_name(value)}")
    return -value if sign == "-" else +value


_CONVERSION: Final = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d+)?(?:\.(\*|\d+))?")


def formatted(meter: Meter, text: str, values: tuple[object, ...]) -> str:
    """printf formatting; widths are bounded before anything is padded.

    Args:
        values: one per conversion, or one map for ``%(name)s``.
    """
    shown = _printable(values)
    longest = max(
        map(len, map(text_of, shown.values() if isinstance(shown, dict) else shown)),
        default=0,
    )
    size = len(text)
    for found in _CONVERSION.finditer(text):
        size += longest
        for width in found.groups():
            if width == "*":
                raise TemplateError("'*' as a width is not supported in formats")
            if width is not None:
                size += int(width) if len(width) < 10 else OUTPUT_MAX
    meter.written(size)
    try:
        return text % shown
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise TemplateError(f"cannot format '{text[:80]}': {error}") from error


def _printable(values: tuple[object, ...]) -> tuple[object, ...] | dict[str, object]:
    if len(values) == 1 and isinstance(values[0], dict):
        return {name: _shown(value) for name, value in values[0].items()}
    return tuple(map(_shown, values))


def _shown(value: object) -> object:
    return value if type(value) in (int, float) else text_of(value)


def iterated(meter: Meter, value: object, weight: int) -> Iterator[object]:
    """The elements a ``for`` visits; each costs ``weight`` units."""
    for item in _elements(meter, value):
        meter.charge(weight)
        yield item


def _elements(meter: Meter, value: object) -> Iterator[object]:
    value = seen(cast("JSON", value))
    if is_nothing(value):
        return iter(())
    if isinstance(value, StepResult):
        found = elements(value)
        inner = value.value
        if found is not None:
            return iter(found)
        return iter(inner) if isinstance(inner, str) else keys(value)
    if isinstance(value, str | list | tuple | Mapping | Iterator):
        return iter(value)
    raise TemplateError(f"cannot iterate over {type_name(value)}")


def slice_of(
    meter: Meter, value: object, start: object, stop: object, step: object
) -> object:
    """``value[start:stop:step]``; undefined and null have no parts."""
    bounds = [_bound(meter, bound) for bound in (start, stop, step)]
    if bounds[2] == 0:
        raise TemplateError("the step of a slice is not 0")
    value = seen(cast("JSON", value))
    if is_nothing(value):
        return Undefined("slice")
    piece = slice(*bounds)
    if isinstance(value, StepResult):
        found = part(value, piece)
    elif isinstance(value, str | list):
        found = value[piece]
    else:
        raise TemplateError(f"cannot slice {type_name(value)}")
    if isinstance(found, list):
        meter.listed(len(found))
    return found


def _bound(meter: Meter, value: object) -> int | None:
    value = entering(meter, value)
    if is_nothing(value):
        return None
    if not isinstance(value, int):
        raise TemplateError(f"a slice is bounded by numbers, not {type_name(value)}")
    return value
