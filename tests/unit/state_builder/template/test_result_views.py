"""How a result is read under its step's name (TL-RES-02, TL-RES-03)."""

from __future__ import annotations

from typing import Any

import pytest

from state_builder.template import Scope, StepResult, render


def read(text: str, value: Any, form: str = "plain") -> Any:
    """What a text gives where ``s`` is the result."""
    scope = Scope(results={"s": StepResult(value, form)})
    return render("{{ " + text + " }}", scope, data=True)


@pytest.mark.parametrize(
    ("value", "texts", "wanted"),
    [
        ({"f": 1}, ("s.f", "s.data.f"), 1),
        ({"f": {"g": [2]}}, ("s.f.g[0]", "s.data.f.g[0]"), 2),
        ({"data": {"f": 3}, "f": 4}, ("s.data.f",), 3),
        ({"data": {"f": 3}, "f": 4}, ("s.f",), 4),
        ({"data": {"f": 3}, "g": 4}, ("s.data.g is defined", "s.f is defined"), False),
        ([{"x": 5}], ("s[0].x", "s.data[0].x"), 5),
        ([1, 2], ("s | length", "s.data | length"), 2),
        (7, ("s", "s.data"), 7),
        ("text", ("s", "s.data"), "text"),
        (None, ("s.data",), None),
    ],
)
def test_data_is_its_own_member(
    value: Any, texts: tuple[str, ...], wanted: Any
) -> None:
    """TL-RES-02: unless it has one of that name."""
    assert [read(text, value) for text in texts] == [wanted] * len(texts)


LABELS = {"a": {"f": 1, "g": 1}, "b": {"f": 2}}


@pytest.mark.parametrize(
    ("labels", "text", "wanted"),
    [
        (LABELS, "s.a.f", 1),
        (LABELS, "s.a.data.f", 1),
        (LABELS, "s.b.f", 2),
        (LABELS, "s.f", 2),
        (LABELS, "s.g", 1),
        (LABELS, "s.results.a.f", 1),
        ({**LABELS, "_context_updates": {"f": 9}}, "s.f", 2),
        ({"a": [1, 2]}, "s.a[1]", 2),
    ],
)
def test_members_of_tasks_are_read_beside_their_labels(
    labels: Any, text: str, wanted: Any
) -> None:
    """TL-RES-03: the last to write wins; what is stored is the labels alone."""
    before = repr(labels)
    assert read(text, labels, "pipeline") == wanted
    assert repr(labels) == before
