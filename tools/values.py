"""Values of database drivers as strict JSON (TL-RES-06, TL-PG-09, TL-DK-04)."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from state_builder.records import JSON

_DAY: Final = 86_400_000_000
_EPOCH_ORDINAL: Final = date(2000, 1, 1).toordinal()
_LAST_ORDINAL: Final = date.max.toordinal()
_ERA_DAYS: Final = 146_097


def json_of(value: object) -> JSON:
    """A value as strict JSON; what has no JSON form becomes its text, never null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        rest = value - timedelta(days=value.days)
        return interval_text(0, value.days, rest // timedelta(microseconds=1))
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, Mapping):
        return {str(key): json_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_of(item) for item in value]
    if hasattr(value, "lower_inc"):
        return _range(value)
    if hasattr(value, "items"):
        return {str(key): json_of(item) for key, item in value.items()}
    return str(value)


def _moment(value: datetime) -> str:
    """ISO 8601; with a zone always in UTC."""
    return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()


def moment_text(micros: int, zone: str) -> str:
    """ISO 8601 of microseconds since 2000-01-01; any year there is."""
    days, rest = divmod(micros, _DAY)
    return f"{date_text(days)}T{time_text(rest)}{zone}"


def date_text(days: int) -> str:
    """ISO 8601 of days since 2000-01-01; years before 1 are negative or 0."""
    ordinal = days + _EPOCH_ORDINAL
    if 1 <= ordinal <= _LAST_ORDINAL:
        return date.fromordinal(ordinal).isoformat()
    # The calendar repeats itself every 400 years.
    eras, inside = divmod(ordinal - 1, _ERA_DAYS)
    day = date.fromordinal(inside + 1)
    year = day.year + eras * 400
    sign = "-" if year < 0 else ""
    return f"{sign}{abs(year):04}-{day.month:02}-{day.day:02}"


def time_text(micros: int) -> str:
    """``HH:MM:SS[.ffffff]`` of microseconds since midnight; 24:00:00 exists."""
    seconds, fraction = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{hour:02}:{minute:02}:{second:02}"
    return f"{text}.{fraction:06}" if fraction else text


def interval_text(months: int, days: int, micros: int) -> str:
    """An ISO 8601 duration; each part has its own sign."""
    years, months = _split(months, 12)
    date_part = "".join(
        f"{number}{unit}"
        for number, unit in ((years, "Y"), (months, "M"), (days, "D"))
        if number
    )
    minutes, rest = _split(micros, 60_000_000)
    hours, minutes = _split(minutes, 60)
    clock = "".join(
        f"{number}{unit}" for number, unit in ((hours, "H"), (minutes, "M")) if number
    )
    if rest:
        text = f"{abs(rest) // 1_000_000}.{abs(rest) % 1_000_000:06}".rstrip("0")
        clock += f"{'-' if rest < 0 else ''}{text.rstrip('.')}S"
    if not date_part and not clock:
        return "PT0S"
    return f"P{date_part}" + (f"T{clock}" if clock else "")


def _split(value: int, by: int) -> tuple[int, int]:
    """Quotient and rest, both with the sign of the value."""
    whole, rest = divmod(abs(value), by)
    return (whole, rest) if value >= 0 else (-whole, -rest)


def _range(value: object) -> JSON:
    return {
        name: json_of(getattr(value, name))
        for name in ("lower", "upper", "lower_inc", "upper_inc")
    }


def unique_names(names: list[str]) -> list[str]:
    """Column names for objects: a repeated one gets ``_2``, ``_3`` … (TL-PG-07)."""
    seen: dict[str, int] = {}
    found: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found


def table_of(
    names: list[str], rows: list[tuple[object, ...]], as_objects: bool
) -> dict[str, JSON]:
    """``columns`` and ``rows`` of a result."""
    columns = unique_names(names)
    if not as_objects:
        lists: list[JSON] = [[json_of(item) for item in row] for row in rows]
        return {"columns": list(columns), "rows": lists}
    objects: list[JSON] = [
        {name: json_of(item) for name, item in zip(columns, row, strict=True)}
        for row in rows
    ]
    return {"columns": list(columns), "rows": objects}
