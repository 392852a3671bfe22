"""The template dialect as a table: every rule of §12 with texts and their values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from state_builder.errors import TemplateError
from state_builder.template import Scope, StepResult, condition, render
from state_builder.template.results import Outside

NULLS: Any = {"a": None, "b": [None, {"c": None}]}
PEOPLE: Any = [
    {"name": "ann", "team": "a", "age": 20},
    {"name": "bob", "team": "b", "age": 30},
    {"name": "cyd", "team": "a", "age": 40},
]
TIMEOUT: Any = {"kind": "timeout"}


def http(body: Any, status: int = 201) -> Any:
    """Data of an http tool."""
    return {"status_code": status, "headers": {}, "body": body, "url": "u"}


def loop(*results: Any, form: str = "loop") -> StepResult:
    """The aggregate of a loop."""
    stats: Any = {"total": len(results), "completed": len(results), "failed": 0}
    value: Any = {"results": [*results], "stats": stats, "count": len(results)}
    return StepResult(value, form)


ROWS: Any = {"rows": [{"id": 1}, {"id": 2}], "row_count": 2}
PIPE: Any = {"a": {"f": 1}, "b": {"f": 2}, "l": [3], "web": http({"user": 8})}
NAMES: Any = {
    "a": 1,
    "b": True,
    "word": "abcd",
    "list": [1, 2, 3],
    "zeros": "0042",
    "jsonish": "[1, 2]",
    "html": "<b>&'\"",
    "big": 12345678901234567890,
    "nulls": NULLS,
    "none_value": None,
    "people": PEOPLE,
    "map": {"x": 1, "y": 2},
    "tricky": {"items": "key", "_id": 7},
    "nested": {"db": ROWS},
}
RESULTS = {
    "res": StepResult({"v": 5}),
    "scalar": StepResult(7),
    "scalar_text": StepResult("hello"),
    "scalar_no": StepResult("no"),
    "listed": StepResult([1, 2]),
    "with_data": StepResult({"data": 3}),
    "result_map": StepResult({"result": "own", "get": 1}),
    "null_result": StepResult(NULLS),
    "rows": StepResult(ROWS),
    "no_rows": StepResult({"rows": [], "row_count": 0}),
    "loop_result": loop({"v": 1}, {"v": 2}),
    "empty_loop": loop(),
    "http_loop": loop(http({"user": 7}, 200), form="loop:http"),
    "cursor": StepResult({"rows": 3, "stats": {"total": 1}}, "cursor"),
    "http": StepResult(http({"user": 9}), "http"),
    "http_status": StepResult(http({"status": "mine"}), "http"),
    "http_list": StepResult(http([1, 2]), "http"),
    "pipe": StepResult({**PIPE, "_context_updates": {"f": 9}}, "pipeline"),
    "pipe_rows": StepResult({"q": {"rows": [{"id": 1}]}}, "pipeline"),
    "pipe_results": StepResult({"q": {"results": 2}}, "pipeline"),
    "failed": StepResult({"got": 1}, error=TIMEOUT, failed=True),
    "failed_bare": StepResult(None, error=TIMEOUT, failed=True),
    "failed_own": StepResult({"status": "mine"}, error=TIMEOUT, failed=True),
    "failed_pipe": StepResult(
        {"labeled_results": {"a": 1}}, "pipeline", error=TIMEOUT, failed=True
    ),
}


def scope() -> Scope:
    """The names of the table."""
    return Scope(
        execution_id="1",
        workload=NAMES,
        results=RESULTS,
        functions={"now": lambda: "2026-01-01T00:00:00+00:00"},
    )


def cases(key: str) -> list[Any]:
    """Rows of a kind, named by their rules and text."""
    path = Path(__file__).parent / "rules.yaml"
    found = []
    for group in YAML(typ="safe").load(path.read_text(encoding="utf-8")):
        for text, value in group.get(key, []):
            name = f"{group['rules']}: {text}"
            found.append(pytest.param(group, text, value, id=name[:100]))
    return found


@pytest.mark.parametrize(("group", "text", "value"), cases("texts"))
def test_a_text_gives_its_value(group: dict[str, Any], text: Any, value: Any) -> None:
    if not group.get("truth"):
        found = render(text, scope(), data=group.get("data", False))
        assert found == value
        assert type(found) is type(value)
    elif isinstance(value, bool):
        assert condition(text, scope()) is value
    else:
        with pytest.raises(TemplateError) as caught:
            condition(text, scope())
        assert value in str(caught.value)


def test_rooms_that_hold_results_say_what_they_lack() -> None:
    """PB-454: ``ctx`` is a map; a result that is elsewhere needs somebody to answer."""
    ctx = Scope(ctx={"a": 1}, workload={"a": 0, "b": 2}).lookup("ctx")
    assert isinstance(ctx, Mapping)
    assert (len(ctx), dict(ctx)) == (2, {"a": 1, "b": 2})
    for ask in (lambda: Outside(None).lookup("a"), Outside(None).first):
        with pytest.raises(NotImplementedError):
            ask()


@pytest.mark.parametrize(("group", "text", "message"), cases("fails"))
def test_a_text_fails_with_a_reason(
    group: dict[str, Any], text: str, message: str
) -> None:
    """PB-423: one error, which shows the text."""
    with pytest.raises(TemplateError) as caught:
        render(text, scope())
    assert message in str(caught.value)
    assert text[:20] in str(caught.value)
