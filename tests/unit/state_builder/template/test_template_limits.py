"""Hostile texts end within named limits, soon, and leave neighbours alone (PB-401)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from state_builder.errors import LimitExceededError, TemplateError
from state_builder.template import Scope, check, condition, render
from state_builder.template.dialect import TOKENS_MAX
from state_builder.template.limits import NESTING_MAX, TEXT_MAX

HOSTILE = YAML(typ="safe").load(
    (Path(__file__).parent / "hostile.yaml").read_text(encoding="utf-8")
)
SECONDS_MAX = 20.0
"""Of this process alone, on a slow and busy machine; the aim is one."""


@pytest.mark.parametrize(("text", "limit"), HOSTILE)
def test_a_hostile_text_is_stopped_by_a_named_limit(text: str, limit: str) -> None:
    """RT-LIM-1, TL-TPL-11: the message names the limit."""
    began = time.process_time()
    with pytest.raises(LimitExceededError) as caught:
        render(text, Scope())
    assert time.process_time() - began < SECONDS_MAX
    assert caught.value.limit == limit
    assert limit in str(caught.value)


def test_a_text_that_is_too_long_is_not_even_read() -> None:
    with pytest.raises(LimitExceededError) as caught:
        render("{{ a }}" + "x" * TEXT_MAX, Scope())
    assert caught.value.limit == "template_text_max"


def test_a_text_of_too_many_parts_is_not_compiled() -> None:
    with pytest.raises(LimitExceededError) as caught:
        render("{{ a }}" * (TOKENS_MAX // 3), Scope())
    assert caught.value.limit == "template_tokens_max"


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
        "{{ " + "[" * 300 + "]" * 300 + "}}",
    ],
)
def test_deep_nesting_is_an_error_not_a_crash(text: str) -> None:
    with pytest.raises(LimitExceededError) as caught:
        render(text, Scope())
    assert caught.value.limit == "template_nesting_max"


def test_a_value_nested_too_deeply_is_not_rendered() -> None:
    value: Any = "{{ 1 }}"
    for _ in range(5000):
        value = [value]
    with pytest.raises(LimitExceededError) as caught:
        render(value, Scope())
    assert caught.value.limit == "template_nesting_max"
    assert NESTING_MAX < 5000


def test_a_large_value_passes_unchanged() -> None:
    """PB-412: only what a text makes is bounded, not what it hands on."""
    large: Any = [{"n": n, "t": "x" * 100} for n in range(20_000)]
    assert render("{{ large }}", Scope(workload={"large": large})) == large


def test_a_number_that_is_too_large_is_no_number() -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{ 9" + "9" * 2000 + " }}", Scope())
    assert "the number is too large" in str(caught.value)
    with pytest.raises(TemplateError):
        render("{{ 1e999 }}", Scope())
    assert render("{{ text|int }}", Scope(workload={"text": "9" * 5000})) == 0


def test_a_condition_may_do_too_much_as_well() -> None:
    with pytest.raises(LimitExceededError):
        condition("range(9999999)", Scope())


def test_an_error_says_where_in_what_was_rendered() -> None:
    """PB-423: keys and indexes lead to the text."""
    with pytest.raises(TemplateError) as caught:
        render({"a": [1, {"b": "{{ 1 + none }}"}]}, Scope())
    assert str(caught.value).startswith("a.1.b: cannot evaluate '{{ 1 + none }}'")
    assert caught.value.text == "{{ 1 + none }}"


@pytest.mark.parametrize(
    ("text", "is_condition", "problem"),
    [
        ("plain", False, None),
        ("{{ a }}", False, None),
        (
            "{{ a",
            False,
            "unexpected end of template, expected 'end of print statement'.",
        ),
        ("a >", True, "unexpected 'end of template'"),
        ("a > 1", True, None),
        ("", True, "the condition is empty"),
        ("{{ a }}" * 30_000, False, "the text has too many parts"),
    ],
)
def test_syntax_is_checked_without_evaluating(
    text: str, is_condition: bool, problem: str | None
) -> None:
    """PB-424, PB-750."""
    found = check(text, is_condition=is_condition)
    if problem is None:
        assert found is None
    else:
        assert found is not None
        assert problem.split(",")[0] in found
