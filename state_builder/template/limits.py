"""What a text may cost: named bounds, and the meter that counts towards them.

The core has no clock, so time is bounded by counted work: one unit is about a tenth
of a microsecond of a current machine, the whole allowance about a second. Operations
whose result may be large are refused before they are carried out.
"""

from __future__ import annotations

from typing import Final

from state_builder.errors import LimitExceededError

TEXT_MAX: Final = 1 << 20
"""Characters of a template."""

OUTPUT_MAX: Final = 1 << 20
"""Characters of a text made by rendering, a filter or an operator; a value passed on
unchanged by a lone expression may be larger."""

ITEMS_MAX: Final = 1_000_000
"""Elements of a list made by an operator, a filter or ``range``."""

INTEGER_BITS_MAX: Final = 4096
"""Size of a whole number made by ``*`` or ``**``; JSON readers give up much earlier."""

WORK_MAX: Final = 10_000_000
"""Units of work of one text."""

CHARACTERS_PER_UNIT: Final = 256
"""Characters that are read or written in one unit of work."""

CONTAINER_COST: Final = 24
"""Units to walk into one list or map, beside two for each element."""

NESTING_MAX: Final = 200
"""Levels of a value that a text may put together, write or compare."""


def exceeded(limit: str, bound: int, what: str) -> LimitExceededError:
    """The error of a bound that was hit, named as setting-like ``template_<limit>``."""
    name = f"template_{limit}"
    return LimitExceededError(name, f"{what} (limit {name} = {bound})")


def nested_too_deep() -> LimitExceededError:
    """A text or value with more levels than can be walked."""
    return exceeded("nesting_max", NESTING_MAX, "nested too deeply")


class Meter:
    """Counts the work of one text down.

    Attributes:
        left: units that may still be spent.
        builds: the text can put containers together, so that one list may hold
            another many times over; values are then counted before they are walked.
    """

    left: int
    builds: bool

    def charge(self, units: int) -> None:
        """Spend ``units``; the text ends when nothing is left."""
        self.left -= units
        if self.left < 0:
            raise exceeded("work_max", WORK_MAX, "the text does too much work")

    def written(self, characters: int) -> None:
        """A text of that length is about to be made."""
        if characters > OUTPUT_MAX:
            raise exceeded("output_max", OUTPUT_MAX, "the text made is too long")
        self.charge(characters // CHARACTERS_PER_UNIT)

    def listed(self, items: int) -> None:
        """A list of that length is about to be made."""
        if items > ITEMS_MAX:
            raise exceeded("items_max", ITEMS_MAX, "the list made is too long")
        self.charge(items)
