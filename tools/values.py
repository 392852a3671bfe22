"""Values of database drivers as strict JSON (TL-RES-06, TL-PG-09, TL-DK-04)."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

from state_builder.records import JSON


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
        return duration_text(value)
    if isinstance(value, Decimal | UUID):
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


def duration_text(value: timedelta) -> str:
    """An ISO 8601 duration."""
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{sign}P{value.days}D" if value.days else f"{sign}P"
    clock = f"{hours}H" if hours else ""
    clock += f"{minutes}M" if minutes else ""
    if value.microseconds:
        fraction = f"{value.microseconds:06d}".rstrip("0")
        clock += f"{seconds}.{fraction}S"
    elif seconds or not (clock or value.days):
        clock += f"{seconds}S"
    return text + (f"T{clock}" if clock else "")


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
