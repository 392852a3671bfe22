"""Fields of a tool's configuration, read with one clear error each (TL-INT-04).

A rendered configuration holds any JSON; numbers and booleans often come as texts. Each
function names the field it could not use, what it wants and what it got.
"""

from __future__ import annotations

from typing import Final

from state_builder.records import JSON
from tools.errors import ToolCallError, configuration

Fields = dict[str, JSON]

_TRUE: Final = frozenset(("true", "1", "yes", "on"))
_FALSE: Final = frozenset(("false", "0", "no", "off"))
_NAMES: Final[dict[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a map",
}


def wrong(key: str, value: JSON, wanted: str) -> ToolCallError:
    """The error of a field that has the wrong type or value."""
    shown = repr(value) if isinstance(value, str | int | float) else ""
    got = _NAMES.get(type(value), type(value).__name__)
    detail = f"{got} {shown[:60]}".rstrip()
    return configuration(f"{key} must be {wanted}, got {detail}")


def first_of(config: Fields, keys: tuple[str, ...]) -> tuple[str, JSON]:
    """The first of these keys that is given, and its value; else the first and None."""
    for key in keys:
        if config.get(key) is not None:
            return key, config[key]
    return keys[0], None


def reference_of(value: JSON) -> str:
    """The text of a reference, or of a reference object's ``ref`` or ``uri``; else
    empty."""
    if isinstance(value, dict):
        _, value = first_of(value, ("ref", "uri", "_ref"))
    return value if isinstance(value, str) else ""


def text_of(config: Fields, key: str, where: str = "") -> str | None:
    """A text that is not empty, or None."""
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise wrong(where + key, value, "a text that is not empty")
    return value


def map_of(config: Fields, key: str) -> Fields:
    """A map; empty when not given."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(key, value, "a map")
    return value


def texts_of(config: Fields, key: str, where: str = "") -> list[str]:
    """A list of texts; one text is a list of one."""
    value = config.get(key)
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong(where + key, value, "a list of texts")
    found: list[str] = []
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise wrong(f"{where}{key}[{index}]", item, "a text")
        found.append(item)
    return found


def number_of(config: Fields, key: str) -> float | None:
    """A finite number, also as a text."""
    value = config.get(key)
    if value is None:
        return None
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            number = float(value)
            if number - number == 0:
                return number
    except (ValueError, OverflowError):
        pass
    raise wrong(key, value, "a number")


def integer_of(config: Fields, key: str, *, least: int, most: int) -> int | None:
    """A whole number within bounds, also as a text."""
    number = number_of(config, key)
    if number is None:
        return None
    if number != int(number) or not least <= number <= most:
        raise wrong(key, config[key], f"a whole number from {least} to {most}")
    return int(number)


def boolean_of(config: Fields, key: str, default: bool) -> bool:
    """A boolean, also as a text or as 0 and 1."""
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if isinstance(value, str | int) and word in _TRUE | _FALSE:
        return word in _TRUE
    raise wrong(key, value, "true or false")


def environment_of(config: Fields, key: str = "env") -> dict[str, str]:
    """Variables of a process as texts; null leaves one out."""
    result: dict[str, str] = {}
    for name, value in map_of(config, key).items():
        if not name or "=" in name or "\0" in name:
            raise configuration(f"{key}: '{name}' cannot be the name of a variable")
        if value is None:
            continue
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, str | int | float):
            text = str(value)
        else:
            raise wrong(f"{key}.{name}", value, "a text or a number")
        if "\0" in text:
            raise configuration(f"{key}.{name} contains NUL")
        result[name] = text
    return result
