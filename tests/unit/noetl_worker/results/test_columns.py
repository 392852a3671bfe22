"""Rows over the budget are stored by columns, and nobody can tell from what they read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.json import decode

from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.daemons.references import CommandValues
from noetl_worker.lifecycle import SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.columns import ARROW_TYPE
from noetl_worker.results.values import Values, ValueSettings
from state_builder.errors import LimitExceededError
from state_builder.ports import Command
from state_builder.records import Reference, ToolOutcome, decode_reference, encode_json
from state_builder.template import (
    BulkNeededError,
    Scope,
    StepResult,
    external,
    fetched,
    render,
)

COMMAND = Command(
    execution_id="7",
    command_id="7.load.1.1",
    step="load",
    kind="postgres",
    visit=1,
    iteration="",
    attempt=1,
    context=b"{}",
    path="p",
    worker_id="w",
    trace={},
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False).map(str)
    | st.datetimes().map(lambda time: time.isoformat())
    | TEXT
)
CELL = SCALAR | st.lists(SCALAR, max_size=2) | st.dictionaries(TEXT, SCALAR, max_size=2)
NAMES = st.lists(st.sampled_from(["id", "n", "at", "what"]), min_size=1, unique=True)
TEXTS = (
    *("{{ s | tojson }}", "{{ s.rows }}", "{{ s.rows | length }}", "{{ s[0] }}"),
    *("{{ s.rows[1] }}", "{{ s.columns }}", "{{ s.row_count }}", "{{ s.rows[-1].n }}"),
    *("{{ s.rows | map(attribute='id') | list }}", "{{ s.rows[0].at ~ '' }}"),
    *("{% for row in s %}{{ row }};{% endfor %}", "{{ s.data.rows[0] is defined }}"),
)


@st.composite
def results(draw: st.DrawFn) -> dict[str, Any]:
    """What a database gives: columns of one type, or of any."""
    names = draw(NAMES)
    kinds = draw(st.lists(st.sampled_from([SCALAR, CELL, st.floats(-4, 4) | st.integers(-4, 4), st.integers(), TEXT]), min_size=4, max_size=4))  # fmt: skip
    rows = [
        {name: draw(kind) for name, kind in zip(names, kinds, strict=False)}
        for _ in range(draw(st.integers(0, 3)))
    ]
    table = {"columns": names, "rows": rows, "row_count": len(rows)}
    keys = draw(st.permutations(list(table)))
    return {key: table[key] for key in keys}


def values_on(store: MemoryResults, **more: int) -> Values:
    return Values(store, SystemClock(), PrometheusObserver(), ValueSettings(**more))


def stored(
    data: bytes, budget: int, store: MemoryResults | None = None
) -> tuple[ToolOutcome, Values]:
    """The outcome of a command that gave the data."""
    values = values_on(store or MemoryResults())
    outcome = ToolOutcome(data=Raw(data))
    settled = CommandValues(values, budget).settle(COMMAND, outcome)
    return asyncio.run(settled), values


def seen(text: str, result: StepResult) -> Any:
    return render(text, Scope(results={"s": result}), data=True)


def by_reference(text: str, reference: Reference, bulk: bytes) -> Any:
    try:
        return seen(text, external(reference, "plain"))
    except BulkNeededError:
        return seen(text, fetched(decode(bulk), reference, "plain"))


@settings(max_examples=300, deadline=None)
@given(results())
def test_size_never_changes_what_a_text_yields(table: dict[str, Any]) -> None:
    """PB-344, TL-RR-01, TL-RR-51: just under and just over the budget, byte for byte."""
    data = encode_json(table)
    under, _ = stored(data, len(data))
    assert not under.reference and bytes(under.data) == data
    over, values = stored(data, len(data) - 1)
    reference = decode_reference(over.reference)
    assert reference.meta.media_type == ARROW_TYPE
    assert reference.meta.value_bytes == len(data)
    bulk = asyncio.run(values.fetch(reference))
    assert bulk == data
    for text in TEXTS:
        wanted = seen(text, StepResult(decode(data), "plain"))
        got = by_reference(text, reference, bulk)
        assert encode_json(got) == encode_json(wanted), text


@pytest.mark.parametrize(
    "table",
    [
        {"columns": ["a", "a"], "rows": [[1, 2]] * 3, "row_count": 3, "x": "columns"},
        {"columns": ["a"], "rows": [{"a": 1}, {"b": 2}]},
        {"columns": ["a", "b"], "rows": [{"b": 1, "a": 2}]},
        {"columns": 7, "rows": "none"},
    ],
)
def test_what_columns_cannot_say_is_stored_as_json(table: dict[str, Any]) -> None:
    """TL-RR-51: a table Arrow would change stays what it is."""
    data = encode_json(table)
    over, values = stored(data, 0)
    reference = decode_reference(over.reference)
    assert asyncio.run(values.fetch(reference)) == data


def test_a_large_table_takes_less_room_and_is_bounded_by_what_it_is() -> None:
    """TL-RR-44, TL-RR-51: limits are of the value, not of its packed form."""
    rows = [{"id": number, "text": f"row {number % 100}"} for number in range(20_000)]
    data = encode_json({"columns": ["id", "text"], "rows": rows})
    store = MemoryResults()
    over, values = stored(data, 100_000, store)
    reference = decode_reference(over.reference)
    assert reference.meta.bytes < len(data) / 5
    assert asyncio.run(values.fetch(reference)) == data
    with pytest.raises(LimitExceededError, match="artifact put and source"):
        asyncio.run(values_on(store, bytes_max=len(data) - 1).fetch(reference))
