"""``command_<i>`` of an SQL result's last statement is the result itself."""

from __future__ import annotations

from state_builder.template import Scope, StepResult, render

RESULT = {"columns": ["a"], "rows": [{"a": 1}], "row_count": 1, "statement_count": 2}


def test_the_last_statement_is_seen_by_number_without_being_stored_twice() -> None:
    """TL-PG-08."""
    scope = Scope(results={"s": StepResult({**RESULT, "command_0": {"rows": []}})})
    assert render("{{ s.command_1.rows[0].a }}", scope) == 1
    assert render("{{ s.command_1.row_count }}", scope) == 1
    assert render("{{ s.command_0.rows | length }}", scope) == 0
    assert render("{{ s.command_2 is defined }}", scope) is False
