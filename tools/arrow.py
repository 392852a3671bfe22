"""Results with rows as Arrow IPC, and back to the very same JSON (TL-RR-51).

The only importer of pyarrow. A column takes a type of Arrow where all its values have
it; any other column holds each value as JSON text and says so in its metadata. What
stands beside the rows travels in the schema's metadata. A value that would come back
changed, be it by the order of its keys, is refused, and its owner stores it as JSON.
"""

from __future__ import annotations

from typing import Any, Final, cast

import pyarrow as pa
from msgspec.json import decode as decode_json

from state_builder.records import JSON, encode_json

_EXACT: Final = 1 << 53
"""Integers up to here are floats without loss."""

_LONG: Final = 1 << 63
_FRAME: Final = b"noetl:frame"
_COLUMN: Final = b"noetl:column"
_JSON: Final = b"json"
_MIXED: Final = b"whole numbers are integers"
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="zstd")

Fields = dict[str, JSON]
Row = list[JSON] | Fields


def pack(data: JSON) -> bytes | None:
    """An IPC file of a result that has ``columns`` and ``rows``, at its top or under
    one of its labels; None where there is no such table, or not every value would come
    back as it is.
    """
    if not isinstance(data, dict):
        return None
    label = None if _is_table(data) else _label(data)
    table = data if label is None else data[label]
    if not _is_table(table):
        return None
    assert isinstance(table, dict)
    names = cast("list[str]", table["columns"])
    rows = cast("list[Row]", table["rows"])
    columns = _columns(names, rows)
    if columns is None:
        return None
    frame = {
        "label": label,
        "objects": _as_objects(rows),
        "table": {**table, "rows": None},
        "around": None if label is None else {**data, label: None},
    }
    try:
        return _written(names, columns, encode_json(cast("JSON", frame)))
    except UnicodeEncodeError:
        # Half a surrogate pair: JSON can say it, UTF-8 cannot.
        return None


def unpack(data: bytes) -> JSON:
    """The result that :func:`pack` was given. Raises ValueError for anything else."""
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            table = reader.read_all()
    except pa.ArrowInvalid as error:
        raise ValueError(f"not an Arrow IPC file: {error}") from error
    metadata = table.schema.metadata or {}
    if _FRAME not in metadata:
        raise ValueError("an Arrow IPC file that holds no result")
    frame = cast("dict[str, Any]", decode_json(metadata[_FRAME]))
    names = list(frame["table"]["columns"])
    columns = [
        _values(table.field(place), table.column(place))
        for place in range(table.num_columns)
    ]
    rows: list[JSON] = [
        dict(zip(names, row, strict=True)) if frame["objects"] else list(row)
        for row in zip(*columns, strict=True)
    ]
    found: dict[str, JSON] = {**frame["table"], "rows": rows}
    label = frame["label"]
    return found if label is None else {**frame["around"], label: found}


def _label(data: dict[str, JSON]) -> str | None:
    """The member with the most rows."""
    sizes = {
        name: len(cast("list[JSON]", cast("Fields", member)["rows"]))
        for name, member in data.items()
        if _is_table(member)
    }
    return max(sizes, key=lambda name: sizes[name], default=None)


def _is_table(value: JSON) -> bool:
    if not isinstance(value, dict):
        return False
    names, rows = value.get("columns"), value.get("rows")
    return (
        isinstance(names, list)
        and bool(names)
        and all(isinstance(name, str) for name in names)
        and isinstance(rows, list)
    )


def _as_objects(rows: list[Row]) -> bool:
    return bool(rows) and isinstance(rows[0], dict)


def _columns(names: list[str], rows: list[Row]) -> list[list[JSON]] | None:
    """The values of each column; None where a row has another shape."""
    if not _as_objects(rows):
        fits = all(isinstance(row, list) and len(row) == len(names) for row in rows)
        if not fits:
            return None
        lists = cast("list[list[JSON]]", rows)
        return [[row[place] for row in lists] for place in range(len(names))]
    if len(set(names)) < len(names):
        return None
    if not all(isinstance(row, dict) and [*row] == names for row in rows):
        return None
    maps = cast("list[dict[str, JSON]]", rows)
    return [[row[name] for row in maps] for name in names]


def _written(names: list[str], columns: list[list[JSON]], frame: bytes) -> bytes | None:
    fields: list[Any] = []
    arrays: list[Any] = []
    for name, values in zip(names, columns, strict=True):
        kind, mark = _kind(values)
        if mark == _JSON:
            values = [None if value is None else _json_text(value) for value in values]
        arrays.append(pa.array(values, kind))
        fields.append(pa.field(name, kind, metadata={_COLUMN: mark} if mark else None))
    schema = pa.schema(fields, metadata={_FRAME: frame})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=_OPTIONS) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return cast("bytes", sink.getvalue().to_pybytes())


def _kind(values: list[JSON]) -> tuple[Any, bytes]:
    """The column's type, and what tells how its values come back."""
    types = {type(value) for value in values if value is not None}
    if types <= {str}:
        return pa.string(), b""
    if types == {bool}:
        return pa.bool_(), b""
    if types == {float}:
        return pa.float64(), b""
    numbers = [value for value in values if type(value) is int]
    if types == {int} and all(-_LONG <= number < _LONG for number in numbers):
        return pa.int64(), b""
    if types == {int, float} and _are_told_apart(values):
        return pa.float64(), _MIXED
    return pa.string(), _JSON


def _are_told_apart(values: list[JSON]) -> bool:
    """As floats, integers are the whole ones, and exact."""
    return all(
        not value.is_integer()
        if isinstance(value, float)
        else -_EXACT <= value <= _EXACT
        for value in values
        if isinstance(value, int | float)
    )


def _json_text(value: JSON) -> str:
    return encode_json(value).decode()


def _values(field: Any, column: Any) -> list[JSON]:
    found: list[JSON] = column.to_pylist()
    mark = (field.metadata or {}).get(_COLUMN)
    if mark == _MIXED:
        return [
            int(value) if isinstance(value, float) and value.is_integer() else value
            for value in found
        ]
    if mark != _JSON:
        return found
    return [
        None if value is None else decode_json(cast("str", value)) for value in found
    ]
