"""Types of PostgreSQL both ways: what a column gives and a parameter takes (TL-PG-09).

Dates, times and intervals come as the numbers the server keeps them in, so infinity,
years beyond 9999 and months of an interval survive, which ``datetime`` has no room for.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.records import JSON, encode_json
from tools.values import date_text, interval_text, json_of, moment_text, time_text

UNSET: Final = object()
"""A parameter only the server can convert."""

UNFIT: Final = object()
"""A parameter that is none of its type, whatever the server would make of it."""

_EPOCH: Final = datetime(2000, 1, 1)
_INFINITE: Final = {(1 << 63) - 1: "infinity", -(1 << 63): "-infinity"}
_INFINITE_DATE: Final = {(1 << 31) - 1: "infinity", -(1 << 31): "-infinity"}
_TEXT_TYPES: Final = (
    *("point", "box", "lseg", "path", "polygon", "circle", "line"),
    *("bit", "varbit", "tid", "pg_lsn", "pg_snapshot", "txid_snapshot"),
)
"""Types taken in their text form; the driver would make objects of its own."""

_DURATION: Final = re.compile(
    r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?"
    r"(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?\d+(?:\.\d+)?)S)?)?"
)


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL text literal that no setting changes the meaning of."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def type_name(kind: Any) -> str:
    """A type of the server, for a cast."""
    name = str(kind.name)
    array = "[]" if name.endswith("[]") else ""
    return f"{quoted(kind.schema)}.{quoted(name.removesuffix('[]'))}{array}"


async def prepare_types(connection: Any, *, numeric_as_float: bool) -> None:
    """Teach a new connection our forms."""
    for name in ("json", "jsonb"):
        await _codec(connection, name, "text", _json_text, decode_json)
    for name, (encode, decode) in _TUPLES.items():
        await _codec(connection, name, "tuple", encode, decode)
    for name in _TEXT_TYPES:
        await _codec(connection, name, "text", str, str)
    if numeric_as_float:
        await _codec(connection, "numeric", "text", str, float)


async def _codec(
    connection: Any,
    name: str,
    form: str,
    encoder: Callable[[Any], Any],
    decoder: Callable[[Any], Any],
) -> None:
    await connection.set_type_codec(
        name, schema="pg_catalog", format=form, encoder=encoder, decoder=decoder
    )


def _json_text(value: JSON) -> str:
    """A text is JSON already, as with every other type (TL-PG-02)."""
    return value if isinstance(value, str) else encode_json(value).decode()


def _moment(zone: str) -> Callable[[tuple[int]], str]:
    def decode(value: tuple[int]) -> str:
        found = _INFINITE.get(value[0])
        return found if found is not None else moment_text(value[0], zone)

    return decode


def _date(value: tuple[int]) -> str:
    found = _INFINITE_DATE.get(value[0])
    return found if found is not None else date_text(value[0])


def _time(value: tuple[int]) -> str:
    return time_text(value[0])


def _timetz(value: tuple[int, int]) -> str:
    offset = -value[1]
    hours, minutes = divmod(abs(offset) // 60, 60)
    sign = "-" if offset < 0 else "+"
    return f"{time_text(value[0])}{sign}{hours:02}:{minutes:02}"


def _interval(value: tuple[int, int, int]) -> str:
    return interval_text(*value)


def _from_infinite(text: str, table: dict[int, str]) -> int | None:
    return next((number for number, name in table.items() if name == text), None)


def _to_moment(text: str) -> tuple[int]:
    known = _from_infinite(text, _INFINITE)
    if known is not None:
        return (known,)
    found = datetime.fromisoformat(text)
    if found.tzinfo is not None:
        found = found.astimezone(UTC).replace(tzinfo=None)
    return ((found - _EPOCH) // timedelta(microseconds=1),)


def _to_date(text: str) -> tuple[int]:
    known = _from_infinite(text, _INFINITE_DATE)
    if known is not None:
        return (known,)
    return ((date.fromisoformat(text) - _EPOCH.date()).days,)


def _to_time(text: str) -> tuple[int]:
    if text == "24:00:00":
        return (86_400_000_000,)
    return (_microseconds(time.fromisoformat(text)),)


def _to_timetz(text: str) -> tuple[int, int]:
    found = time.fromisoformat(text)
    offset = found.utcoffset() or timedelta()
    return (_microseconds(found), -int(offset.total_seconds()))


def _microseconds(value: time) -> int:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return seconds * 1_000_000 + value.microsecond


def _to_interval(text: str) -> tuple[int, int, int]:
    found = _DURATION.fullmatch(text)
    if found is None or text in ("P", "PT"):
        raise ValueError("not an ISO 8601 duration")
    parts = (part or "0" for part in found.groups())
    years, months, days, hours, minutes, seconds = parts
    whole = int(hours) * 3600 + int(minutes) * 60
    micros = whole * 1_000_000 + int(Decimal(seconds) * 1_000_000)
    return (int(years) * 12 + int(months), int(days), micros)


_TUPLES: Final[dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]]] = {
    "timestamp": (_to_moment, _moment("")),
    "timestamptz": (_to_moment, _moment("+00:00")),
    "date": (_to_date, _date),
    "time": (_to_time, _time),
    "timetz": (_to_timetz, _timetz),
    "interval": (_to_interval, _interval),
}

_AS_IS: Final = frozenset(
    (
        *("int2", "int4", "int8", "oid", "bool", "text", "varchar", "bpchar", "name"),
        *("json", "jsonb", *_TUPLES, *_TEXT_TYPES),
    )
)
"""Types whose columns are JSON values as they come."""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _character(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _reader(name: str) -> Callable[[Any], JSON] | None:
    if name in _AS_IS:
        return None
    if name in ("float4", "float8"):
        return _finite
    if name == "char":
        return _character
    return _anonymous if name == "record" else json_of


def _anonymous(value: Any) -> JSON:
    """A row without names, as ``to_json`` gives it."""
    return {f"f{number}": json_of(item) for number, item in enumerate(value, 1)}


def reader_of(
    attributes: Any, names: list[str], as_objects: bool
) -> Callable[[list[Any]], list[JSON]]:
    """Records of a query into rows of JSON."""
    readers = [_reader(one.type.name) for one in attributes]
    odd = [(place, read) for place, read in enumerate(readers) if read is not None]

    def values(record: Any) -> list[JSON]:
        found = list(record)
        for place, read in odd:
            if found[place] is not None:
                found[place] = read(found[place])
        return found

    def objects(records: list[Any]) -> list[JSON]:
        return [dict(zip(names, values(record), strict=True)) for record in records]

    def lists(records: list[Any]) -> list[JSON]:
        return [values(record) for record in records]

    return objects if as_objects else lists


_TEXTS: Final = frozenset(("text", "varchar", "bpchar", "name", "unknown"))
_INTEGERS: Final = {"int2": 15, "int4": 31, "int8": 63}


def local_parameter(value: JSON, kind: str) -> object:
    """A parameter as the driver wants it, or UNSET where only the server knows.

    Args:
        kind: the type's name, ``int4[]`` for an array.
    """
    if value is None:
        return None
    if kind in ("json", "jsonb"):
        return value if not isinstance(value, str) or _is_json(value) else UNSET
    if kind.endswith("[]") and isinstance(value, list):
        items = [_item(item, kind) for item in value]
        return UNSET if any(item is UNSET for item in items) else items
    if kind in _TEXTS:
        return value if isinstance(value, str) else encode_json(value).decode()
    try:
        return _converted(value, kind)
    except (ValueError, ArithmeticError):
        return UNSET


def _is_json(text: str) -> bool:
    try:
        decode_json(text)
    except DecodeError:
        return False
    return True


def _item(value: JSON, kind: str) -> object:
    """A member of an array; lists in lists have the array's own type."""
    return local_parameter(value, kind if isinstance(value, list) else kind[:-2])


def _converted(value: JSON, kind: str) -> object:
    if kind == "bool":
        return value if isinstance(value, bool) else UNSET
    if isinstance(value, bool):
        return UNSET
    if kind in _INTEGERS:
        return _integer(value, _INTEGERS[kind])
    if kind in ("float4", "float8"):
        return float(value) if isinstance(value, int | float) else UNSET
    if kind == "numeric":
        return Decimal(str(value)) if isinstance(value, int | float) else UNSET
    if not isinstance(value, str):
        return UNSET
    if kind == "bytea":
        return _bytes(value)
    if kind == "uuid":
        return UUID(value)
    if kind in _TUPLES:
        _TUPLES[kind][0](value)
        return value
    return UNSET


def _integer(value: JSON, bits: int) -> object:
    number = int(value) if isinstance(value, int | float | str) else None
    if number is None or (isinstance(value, float) and number != value):
        return UNSET
    return number if -(1 << bits) <= number < 1 << bits else UNSET


def _bytes(value: str) -> object:
    """Base64, as columns give it; ``\\x…`` is the server's own form.

    Anything else the server would take letter by letter, which nobody means.
    """
    try:
        if value.startswith("\\x"):
            return bytes.fromhex(value[2:])
        return base64.b64decode(value, validate=True)
    except ValueError:
        return UNFIT
