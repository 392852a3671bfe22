"""Results with rows survive Arrow IPC exactly, or are refused (TL-RR-51)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_builder.records import encode_json
from tools.arrow import pack, unpack

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Columns of one type each, or of any; rows as objects or as lists."""
    names = draw(st.lists(TEXTS, min_size=1, max_size=4, unique=True))
    count = draw(st.integers(0, 5))
    numbers = st.integers(-9, 9) | st.floats(-9, 9)
    longs = st.integers(-(2**63), 2**63 - 1)
    kinds = [st.booleans(), longs, TEXTS, st.none(), numbers, VALUES]
    columns = []
    for _ in names:
        kind = draw(st.sampled_from(kinds)) | st.none()
        columns.append(draw(st.lists(kind, min_size=count, max_size=count)))
    rows: list[Any] = [list(row) for row in zip(*columns, strict=True)]
    if draw(st.booleans()):
        rows = [dict(zip(names, row, strict=True)) for row in rows]
    rest = draw(st.dictionaries(TEXTS, SCALARS, max_size=3))
    return {**rest, "columns": names, "rows": rows}


@given(tables(), st.none() | TEXTS, st.dictionaries(TEXTS, SCALARS, max_size=2))
def test_what_was_packed_comes_back(
    table: dict[str, Any], label: str | None, around: dict[str, Any]
) -> None:
    """Byte for byte: types, whole floats, the order of keys."""
    data: Any = table if label is None else {**around, label: table}
    packed = pack(data)
    assert packed is not None
    assert encode_json(unpack(packed)) == encode_json(data)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, None, False], pa.bool_()),
        ([1, 2**63 - 1, None], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([1, 2.0], pa.string()),
        ([1, -0.0], pa.string()),
        ([0.5], pa.float64()),
        (["a", None], pa.string()),
        ([None, None], pa.string()),
        ([], pa.string()),
        ([2**53 + 1, 0.5], pa.string()),
        ([2**63], pa.string()),
        ([True, 1], pa.string()),
        ([{"k": [1]}, "text", None], pa.string()),
    ],
)
def test_a_column_takes_the_type_all_its_values_have(values: Any, kind: Any) -> None:
    data = {"columns": ["c"], "rows": [[value] for value in values], "row_count": 0}
    packed = pack(data)
    assert packed is not None
    with pa.ipc.open_file(pa.BufferReader(packed)) as reader:
        assert reader.schema.field(0).type == kind
    assert encode_json(unpack(packed)) == encode_json(data)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [1],
        {"columns": ["a"]},
        {"columns": [], "rows": []},
        {"columns": ["a"], "rows": [{"a": 1}, {"b": 1}]},
        {"columns": ["a"], "rows": [{"a": 1, "b": 2}]},
        {"columns": ["a"], "rows": [[1, 2]]},
        {"columns": ["a", "a"], "rows": [{"a": 1}]},
        {"columns": ["a", "b"], "rows": [{"b": 1, "a": 2}]},
        {"columns": ["a"], "rows": [1]},
        {"columns": ["a"], "rows": [["\ud800"]]},
        {"columns": ["a"], "rows": [[["\ud800"]]]},
        {"columns": ["a"], "rows": [], "note": "\ud800"},
    ],
)
def test_what_is_no_table_or_would_come_back_changed_is_refused(data: Any) -> None:
    assert pack(data) is None


def test_bytes_that_are_no_result_are_told() -> None:
    with pytest.raises(ValueError, match="not an Arrow IPC file"):
        unpack(b"{}")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([])):
        pass
    with pytest.raises(ValueError, match="holds no result"):
        unpack(sink.getvalue().to_pybytes())
