"""What a text reads, told from its tree alone (PB-346, PB-562)."""

from __future__ import annotations

from typing import Any

import pytest

from state_builder.template import Iteration, Scope, StepResult, error_aware, names_of
from state_builder.template import render as rendered

NAMES: list[tuple[str, set[tuple[str, ...]] | None]] = [
    ("plain", set()),
    ("{{ a }}", {("a",)}),
    ("{{ a.b['c'].d[0].e }}", {("a", "b", "c", "d")}),
    ("{{ a[b] }}", {("a",), ("b",)}),
    ("{{ ctx.x + workload.y }}", {("ctx", "x"), ("workload", "y")}),
    ("{{ ctx }}", None),
    ("{{ steps[a] }}", None),
    ("{{ steps['a/b'].c }}", {("steps", "a/b", "c")}),
    ("{{ workload }}", {("workload",)}),
    ("{{ broken ( }}", None),
    ("{{ a|default(b) }}{{ c if d else e }}", {("a",), ("b",), ("c",), ("d",), ("e",)}),
    ("{{ ctx.get('x') }}", None),
    (
        "{{ a.items() }}{{ now() }}{{ range(n) }}{{ f(x) }}",
        {("a",), ("n",), ("f",), ("x",)},
    ),
    (
        "{% for x in list if x > m %}{{ x.a }}{{ loop.index }}{{ y }}{% else %}{{ x }}{% endfor %}",
        {("list",), ("m",), ("y",), ("x",)},
    ),
    ("{% for k, v in a %}{{ k }}{{ v }}{% endfor %}{{ k }}", {("a",), ("k",)}),
    (
        "{% if a %}{% set x = b %}{% elif c %}{{ x }}{% else %}{{ d }}{% endif %}{{ x }}",
        {("a",), ("b",), ("c",), ("x",), ("d",)},
    ),
    ("{% set x = a %}{{ x.y }}{{ x }}", {("a",)}),
    ("{% set x %}{{ a }}{% endset %}{{ x }}", {("a",)}),
    (
        "{% with x = a, y = b %}{{ x }}{{ y }}{{ c }}{% endwith %}{{ x }}",
        {("a",), ("b",), ("c",), ("x",)},
    ),
    ("{% set ns.x = a %}", {("ns",), ("a",)}),
    ("{% filter upper %}{{ a }}{% endfilter %}", {("a",)}),
]


@pytest.mark.parametrize(("text", "paths"), NAMES)
def test_names_a_text_reads(text: str, paths: set[tuple[str, ...]] | None) -> None:
    """PB-346: wider than the truth perhaps, never narrower."""
    found = names_of(text)
    if paths is None:
        assert found is None
    else:
        assert found is not None
        assert set(found.paths) - {("ns",)} == paths - {("ns",)}
        assert found.roots == {path[0] for path in found.paths}


@pytest.mark.parametrize(
    ("text", "aware"),
    [
        ("event.name == 'call.error'", True),
        ("{{ error }}", True),
        ("exit_code != 0", True),
        ("{{ output.error }}", True),
        ("{{ output.data.status }}", True),
        ("outcome.http.status == 500", True),
        ("{{ result['status_code'] }}", True),
        ("{{ response.exit_code }}", True),
        ("{{ mine.error.kind }}", True),
        ("{{ steps.mine.status }}", True),
        ("{{ steps['other'].status }}", False),
        ("{{ steps }}", False),
        ("{{ other.status }}", False),
        ("{{ output.items }}", False),
        ("{{ 'error' }}", False),
        ("{{ status }}", False),
        ("{{ mine }}", False),
        ("{{ broken ( }}", False),
        ("{{ (mine|default({})).status }}", False),
        (True, False),
    ],
)
def test_conditions_that_look_at_a_failure(text: Any, aware: bool) -> None:
    """PB-562: decided on the parsed expression, not by text search."""
    assert error_aware(text, "mine") is aware


def test_names_of_an_iteration_and_what_was_set_in_it() -> None:
    """PB-225, PB-234, PB-450: iter holds both; loop gives way to any other name."""
    scope = Scope(
        iteration=Iteration(name="x", value={"a": 1}, index=1, total=3),
        iter_vars={"page": 2},
        args={"z": 1},
    )
    text = "{{ x.a }}{{ iter.x.a }}{{ iter.page }}{{ loop.index }}{{ input.z }}"
    assert rendered(text, scope) == "11211"
    assert rendered("{{ iter }}", scope) == {
        "_index": 1,
        "index": 1,
        "_total": 3,
        "_first": False,
        "_last": False,
        "x": {"a": 1},
        "page": 2,
    }
    assert rendered("{{ loop }}", Scope()) is None
    assert rendered("{{ loop }}", Scope(workload={"loop": 5})) == 5


def test_ctx_counts_its_variables_over_the_workload() -> None:
    """PB-454: length and iteration are of variables and workload together."""
    scope = Scope(ctx={"a": 1, "b": 2}, workload={"b": 3, "c": 4}, overlay={"d": 5})
    assert rendered("{{ ctx|length }}{% for k in ctx %}{{ k }}{% endfor %}", scope) == (
        "4bcad"
    )


def test_results_of_tasks_are_read_as_results() -> None:
    """PB-181, PB-182: also through _results and the weak name."""
    http: Any = {"status_code": 200, "headers": {}, "body": {"u": 7}, "url": "x"}
    scope = Scope(runtime={"_results": {"get": http}, "get": StepResult(http, "http")})
    assert (
        rendered("{{ get.u }}{{ _results.get.u }}{{ results.get.u }}", scope) == "777"
    )
    assert rendered("{{ results }}", Scope()) is None


def test_secrets_are_read_where_the_scope_has_them() -> None:
    """PB-009: only a worker's scope has a keychain and a token function."""
    scope = Scope(
        keychain={"k": {"user": "u"}}, functions={"token": lambda alias: f"t-{alias}"}
    )
    assert rendered("{{ keychain.k.user }}{{ token('a') }}", scope) == "ut-a"
