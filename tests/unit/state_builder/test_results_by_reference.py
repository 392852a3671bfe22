"""A text gives the same value whether a result is inline or stored elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.json import decode

from state_builder.errors import LimitExceededError, TemplateError
from state_builder.records import Reference, ReferenceMeta, encode_json
from state_builder.summary import (
    COUNTS_MAX,
    SUMMARY_BYTES_MAX,
    Selection,
    path_of,
    preview,
    selections,
    summarize,
)
from state_builder.template import (
    BulkNeededError,
    Scope,
    StepResult,
    condition,
    external,
    fetched,
    plain,
    render,
)

NAMES = [
    *("a", "b", "rows", "data", "body", "status", "error", "results", "count"),
    *("_len", "_count", "_keys", "_truncated", "_ref", "status_code", "url"),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.text(min_size=600, max_size=700)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
        | st.fixed_dictionaries(
            {"status_code": st.just(200), "headers": st.just({}), "url": st.just("u"),
             "body": inner}
        )
        | st.fixed_dictionaries({"rows": st.lists(inner, max_size=3)})
    ),
    max_leaves=14,
)  # fmt: skip
MEMBERS = st.lists(
    st.sampled_from([*(f".{name}" for name in NAMES), "[0]", "[1]", "[-1]"]),
    max_size=4,
).map("".join)
TEXTS = st.sampled_from(
    [
        *("{{ s%s }}", "x {{ s%s }}", "{{ s%s | length }}", "{{ s%s | tojson }}"),
        *("{{ s%s is defined }}", "{{ s%s | default('d') }}", "{{ s%s == 1 }}"),
        *("{% for x in s%s %}{{ x }},{% endfor %}", "{{ s%s is mapping }}"),
        *("{% set y = s %}{{ y%s }}", "{% if s%s %}yes{% endif %}", "{{ not s%s }}"),
        *("{{ s%s | first }}", "{{ 'a' in s%s }}", "{{ s%s ~ '!' }}", "{{ s%s.a }}"),
        *("{{ s%s[:1] }}", "{{ s%s.get('a') }}", "{{ s%s is none }}"),
    ]
)
FORMS = st.sampled_from(["plain", "http", "pipeline", "loop", "loop:http"])
LAW = settings(max_examples=600, deadline=None)


def shaped(form: str, value: Any) -> Any:
    """A value as results of a form have it."""
    if form.startswith("loop"):
        listed = value if isinstance(value, list) else [value]
        return {"results": listed, "stats": {"total": len(listed)}, "errors": []}
    if form == "pipeline":
        return value if isinstance(value, dict) else {"a": value, "b": {"b": 1}}
    return value


def outcome(text: str, result: StepResult) -> Any:
    """What a text gives, or the kind of its error."""
    scope = Scope(results={"s": result})
    try:
        return render(text, scope, data=True)
    except (TemplateError, LimitExceededError) as error:
        return type(error).__name__


def reference(data: bytes, **more: Any) -> Reference:
    """A reference as a worker makes it."""
    summary = summarize(data)
    return Reference(
        ref="noetl://default/default/results/1/s/1/0/1@v",
        meta=ReferenceMeta(bytes=len(data)),
        extracted=decode(summary.extracted),
        preview=preview(data),
        **more,
    )


@pytest.mark.slow
@LAW
@given(VALUES, FORMS, TEXTS, MEMBERS, st.booleans())
def test_a_text_gives_the_same_value_inline_and_by_reference(
    value: Any, form: str, text: str, members: str, failed: bool
) -> None:
    """PB-344, TL-RR-42: what the summary answers is the value; the rest is fetched."""
    if "_ref" in members:
        return
    whole, text = (
        shaped(form, value),
        text.replace("s%s", f"s{members}").replace("y%s", f"y{members}"),
    )
    failure = {"kind": "exception", "message": "m"} if failed else None
    inline = StepResult(whole, form, failure, failed)
    stored = reference(encode_json(whole))
    try:
        by_reference = outcome(
            text, external(stored, form, error=failure, failed=failed)
        )
    except BulkNeededError:
        bulk = fetched(whole, stored, form, error=failure, failed=failed)
        by_reference = outcome(text, bulk)
    assert encode_json(by_reference) == encode_json(outcome(text, inline))


HTTP: Any = {"status_code": 200, "headers": {}, "url": "u", "body": {"a": 1}}
LONG = "x" * 700
MANY: Any = {f"key{number:03}": LONG for number in range(300)}


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (MANY, "plain", "{{ s.nothing is defined }}"),
        (HTTP, "http", "{{ s.a }} {{ s.status }} {{ s.data.a }} {{ s.nothing }}"),
        ({**HTTP, "body": [1]}, "http", "{{ s.a is defined }}"),
        ({**HTTP, "body": MANY}, "http", "{{ s.nothing is defined }}"),
        ({"a": HTTP}, "pipeline", "{{ s.data.a }} {{ s.a.data.a }} {{ s.a.a }}"),
        ({"a": {"v": 1}, "b": {"v": 2}}, "pipeline", "{{ s.v }}"),
        ({"a": {"v": 1}, "b": 3, "c": None}, "pipeline", "{{ s.v }}{{ s.b }}{{ s.c }}"),
        ({"a": {"v": 1}, "b": "t"}, "pipeline", "{{ s.b.data }} {{ s.a.data.v }}"),
        ({"a": MANY}, "pipeline", "{{ s.a.nothing is defined }}"),
        ({"a": MANY}, "pipeline", "{{ s.a }}"),
        ({"a": {"v": 1}}, "pipeline", "{{ s.results.a.v }}{{ s.output.v }}"),
        ({"a": {"v": 1}, "_context_updates": {"v": 2}}, "pipeline", "{{ s.v }}"),
        ([1], "pipeline", "{{ s.v is defined }}{{ s.results.v is defined }}"),
        ({"a": {"_context_updates": 1}}, "pipeline", "{{ s._context_updates }}"),
        (MANY, "pipeline", "{{ s.key001 }}"),
        ({"a": {"rows": [{"v": 1}]}}, "pipeline", "{{ s[0].v }}"),
        ({"results": 5}, "loop", "{{ s.results }}"),
        ({"results": [HTTP]}, "loop:http", "{{ s[0].a }}{{ s.results[0].a }}"),
        ({"results": [], "stats": {}}, "loop", "{{ s[0] is defined }}"),
        ([1, 2], "plain", "{{ s[0] }}{{ s.a is defined }}"),
        ({"a": 1}, "plain", "{{ s[0] is defined }}"),
        ("t" * 900, "plain", "{{ s.a is defined }} {{ s.data }}"),
        ({"_keys": 1, "a": 2}, "plain", "{{ s.a }}{{ s.b is defined }}"),
    ],
)
@pytest.mark.parametrize("failed", [False, True])
def test_rare_shapes_give_the_same_value_inline_and_by_reference(
    value: Any, form: str, text: str, failed: bool
) -> None:
    """PB-344: as the law above, of what chance seldom finds."""
    failure = {"kind": "exception", "message": "m"} if failed else None
    inline = StepResult(value, form, failure, failed)
    stored = reference(encode_json(value))
    try:
        found = outcome(text, external(stored, form, error=failure, failed=failed))
    except BulkNeededError:
        bulk = fetched(value, stored, form, error=failure, failed=failed)
        found = outcome(text, bulk)
    assert encode_json(found) == encode_json(outcome(text, inline))


def test_words_of_the_reference_are_told_without_a_summary() -> None:
    """PB-343, PB-203: and those of the envelope before them."""
    stored = Reference(ref="noetl://x")
    result = external(stored, "plain", failed=True)
    for text, value in (("{{ s._ref }}", "noetl://x"), ("{{ s._store }}", "object")):
        assert render(text, Scope(results={"s": result})) == value
    pipeline = external(stored, "pipeline")
    assert render("{{ s._ref }}", Scope(results={"s": pipeline})) == "noetl://x"
    known = external(reference(b'{"a":1}'), "plain").within({"status": "success"})
    scope = Scope(fixed={"output": known})
    assert render("{{ output.status }}{{ output.a }}", scope) == "success1"
    assert render("{{ output.error is defined }}", scope) is False


def test_what_is_too_large_to_look_into_is_marked() -> None:
    """TL-RR-20."""
    huge = "x" * (9 << 20)
    for data in ([huge], {"l": [huge], "m": {"a": huge}}):
        assert len(bytes(summarize(encode_json(data)).extracted)) < 200


@pytest.mark.parametrize("size", [10, 4096])
@pytest.mark.parametrize(
    "make",
    [
        lambda size: ["x" * size],
        lambda size: {"a": ["x" * size], "m": {"b": "x" * size}, "l": [["x" * size]]},
        lambda size: {"_len": "x" * size, **{"k" * 3000 + str(n): n for n in range(3)}},
        lambda size: {f"k{n}": [{"a": "x" * size}] for n in range(200)},
        lambda size: {f"k{n}" * 60: "x" * (size // 500) for n in range(500)},
    ],
)
def test_a_summary_of_any_size_is_small_json(make: Any, size: int) -> None:
    """TL-RR-20."""
    shown = bytes(summarize(encode_json(make(size))).extracted)
    decode(shown)
    assert len(shown) <= SUMMARY_BYTES_MAX


def test_what_cannot_be_selected_is_left_out() -> None:
    """TL-OS-02."""
    wanted = selections(
        ["", {"path": 5}, "a[7]", "a.b", "long", "[0]", "big", "t", "t.x"]  # type: ignore[list-item]
    )
    data = {"a": [1], "long": list(range(9000)), "big": "x" * 480, "t": "y" * 480}
    for number in range(8):
        wanted += (Selection(("big",), f"copy{number}"),)
    selected = summarize(encode_json(data), wanted).selected
    assert set(selected) < {"big", "t", *(f"copy{number}" for number in range(8))}
    assert "big" in selected
    top = summarize(b"[5]", selections(["[0]"]))
    assert top.selected == {"value": 5}
    assert summarize(b'{"a":\xff}').extracted


@pytest.mark.slow
@LAW
@given(VALUES)
def test_a_summary_is_small_and_the_same_for_equal_data(value: Any) -> None:
    """TL-RR-20, TL-RR-23."""
    data = encode_json(value)
    if isinstance(value, int | float):
        return
    shown = bytes(summarize(data).extracted)
    assert len(shown) <= SUMMARY_BYTES_MAX
    assert shown == bytes(summarize(encode_json(decode(data))).extracted)


def test_the_summary_keeps_what_tells_most() -> None:
    """TL-RR-20, TL-RR-21, TL-RR-22, TL-OS-03: counts and scalars before bulk."""
    rows = [{"id": number, "text": "x" * 100} for number in range(1200)]
    data = {"aaa": "y" * 9000, "rows": rows, "row_count": 1200, "status": "ok"}
    shown = decode(summarize(encode_json(data)).extracted)
    assert shown["row_count"] == 1200 and shown["status"] == "ok"
    assert shown["rows"] == [rows[0]]
    assert shown["aaa"] == {"_len": 9000}
    assert shown["_counts"] == {"rows": 1200}


def test_an_array_of_one_is_told_from_a_longer_one() -> None:
    """TL-RR-21: by the counts, of which there are at most 64."""
    data = {f"k{number:03}": [number] for number in range(100)} | {"two": [1, 2]}
    counts = decode(summarize(encode_json(data)).extracted)["_counts"]
    assert set(counts.values()) <= {1, 2} and len(counts) == COUNTS_MAX


def test_what_does_not_fit_is_marked_where_it_is_missing() -> None:
    """TL-RR-20: names that are not shown are not taken for absent ones."""
    data = encode_json({f"key_{number:05}": number for number in range(10_000)})
    assert decode(summarize(data).extracted)["_truncated"] is True
    with pytest.raises(BulkNeededError):
        outcome("{{ s.key_09999 }}", external(reference(data), "plain"))


def test_deep_maps_are_shown_by_their_keys() -> None:
    """TL-RR-20: at depth 8."""
    deep: Any = {"end": 1}
    for _ in range(9):
        deep = {"d": deep}
    shown = decode(summarize(encode_json(deep)).extracted)
    for _ in range(8):
        shown = shown["d"]
    assert shown == {"_keys": ["d"], "_count": 1}


@pytest.mark.parametrize(
    "text",
    ["{{ s._ref }}", "{{ s._ref is defined }}", "{{ s._store }}", "{{ s._uri }}",
     "{{ s._preview }}", "{{ s._size_bytes }}", "{{ s.n }}", "{{ s.rows[0].id }}",
     "{{ s.data.n }}", "{{ s[0].id }}", "{{ s.missing is defined }}"],
)  # fmt: skip
def test_small_fields_and_words_of_the_reference_fetch_nothing(text: str) -> None:
    """TL-RR-30, TL-RR-40, TL-RR-41, PB-343, PB-437, TL-OS-04."""
    data = encode_json({"n": 5, "rows": [{"id": 7}, {"id": 8}], "big": "x" * 200_000})
    assert outcome(text, external(reference(data), "plain")) is not None


@pytest.mark.parametrize("name", ["_ref", "_store", "_uri", "_preview", "_size_bytes"])
def test_an_inline_result_has_no_words_of_a_reference(name: str) -> None:
    """TL-RR-30, PB-343: fixtures branch on it."""
    scope = Scope(results={"s": StepResult({"n": 1})})
    assert condition(f"s.{name} is defined", scope) is False
    bulk = fetched({"n": 1}, reference(b'{"n":1}'), "plain")
    assert condition(f"s.{name} is defined", Scope(results={"s": bulk})) is True
    assert plain(bulk) == {"n": 1}


@pytest.mark.parametrize(
    "text",
    ["{{ s }}", "{{ s.rows }}", "{{ s.rows | length }}", "{{ s.rows[1].id }}",
     "{{ s.big }}", "{{ s | tojson }}", "{% for r in s.rows %}{{ r.id }}{% endfor %}",
     "{{ s[which] }}", "{{ s.get('rows') }}"],
)  # fmt: skip
def test_anything_else_needs_the_bulk(text: str) -> None:
    """TL-RR-40, TL-RR-45: no condition silently sees an undefined."""
    data = encode_json({"n": 5, "rows": [{"id": 7}, {"id": 8}], "big": "x" * 200_000})
    scope = Scope(
        results={"s": external(reference(data), "plain")}, ctx={"which": "rows"}
    )
    with pytest.raises(BulkNeededError):
        render(text, scope)


def test_selected_paths_stay_readable() -> None:
    """PB-342, TL-OS-01, TL-OS-02: by path, and by name where the data has none."""
    wanted = selections(["deep.inner.answer", {"path": "rows[1].id", "as": "second"},
                         "title"])  # fmt: skip
    assert wanted[0] == Selection(("deep", "inner", "answer"), "answer")
    assert path_of("rows[1].id") == ("rows", 1, "id")
    filler = {f"f{number:04}": "x" * 80 for number in range(500)}
    data = encode_json(
        {**filler, "deep": {**filler, "inner": {**filler, "answer": 42}},
         "rows": [{"id": 1}, {"id": 2}], "title": "t" * 900}
    )  # fmt: skip
    summary = summarize(data, wanted)
    assert summary.selected == {"answer": 42, "second": 2, "title": "t" * 500 + "…"}
    stored = Reference(
        ref="noetl://x", extracted=decode(summary.extracted), selected=summary.selected
    )
    scope = Scope(results={"s": external(stored, "plain")})
    assert render("{{ s.deep.inner.answer }}", scope) == 42


def test_a_selected_name_never_hides_data() -> None:
    """PB-344: a real key wins over a selected field of the same name."""
    data = {"status": "real", "deep": {"status": "selected"}, "x": "y" * 200_000}
    summary = summarize(encode_json(data), selections(["deep.status"]))
    stored = Reference(
        ref="noetl://x", extracted=decode(summary.extracted), selected=summary.selected
    )
    scope = Scope(results={"s": external(stored, "plain")})
    assert render("{{ s.status }}", scope) == "real"
