"""The manuals say what the code does: fields, errors, and examples that parse."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.json import decode as decode_json

from noetl_worker.cli.main import run
from state_builder.errors import NotFoundError
from state_builder.playbook import parse
from state_builder.playbook.toolspec import KINDS
from tools.contract import ToolLimits
from tools.errors import KINDS as ERROR_KINDS
from tools.manual import documented, known_fields, manual_of
from tools.registry import BUILT_IN, Registry

RUN_BY_THE_OWNER = {"playbook", "workbook", "task_sequence"}
"""Kinds no worker runs by itself, so that the registry need not know them."""


class Watched(dict[str, Any]):
    """A configuration that remembers what it was asked for."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


def tools_of(kind: str) -> list[dict[str, Any]]:
    """Configurations of a kind in its example, as the parser gives them."""
    parsed = parse(manual_of(kind).example)
    assert parsed.playbook is not None, parsed.errors
    steps = parsed.playbook.steps.values()
    found = [decode_json(step.tool) for step in steps if step.tool]
    flat = [task for tool in found for task in tool.get("tasks", [tool])]
    return [tool for tool in flat if tool["kind"] == kind]


def test_every_kind_has_a_manual_and_every_manual_a_kind() -> None:
    missing = set(BUILT_IN) - set(documented())
    assert not missing, f"write tools/kinds/<kind>.toml for {sorted(missing)}"
    assert set(documented()) <= KINDS


@pytest.mark.parametrize("kind", documented())
def test_errors_of_a_manual_are_those_of_the_taxonomy(kind: str) -> None:
    """TL-ERR-01."""
    assert set(manual_of(kind).errors) <= ERROR_KINDS


@pytest.mark.parametrize("kind", documented())
def test_the_example_is_a_playbook_of_that_kind(kind: str) -> None:
    assert tools_of(kind)


@pytest.mark.parametrize("kind", sorted(set(BUILT_IN) - RUN_BY_THE_OWNER))
def test_a_kind_reads_no_field_that_its_manual_does_not_name(kind: str) -> None:
    """TL-INT-04: one table of fields and aliases for each kind."""
    tool = Registry(ToolLimits()).get(kind)
    for config in tools_of(kind):
        watched = Watched(config)
        try:
            tool.validate(watched)
        except Exception:
            # A template where a value belongs: what was read up to it counts.
            assert "{{" in str(config)
        unknown = watched.asked - manual_of(kind).names
        assert not unknown, f"name them in tools/kinds/{kind}.toml"


def test_a_kind_without_manual_names_those_there_are() -> None:
    with pytest.raises(NotFoundError, match=r"no tool kind 'htp'.*http"):
        manual_of("htp")


def test_the_command_line_lists_and_explains_kinds(capsys: Any) -> None:
    assert run(["tools"]) == 0
    assert "noop" in capsys.readouterr().out
    assert run(["tools", "http"]) == 0
    page = capsys.readouterr().out
    assert all(word in page for word in ("follow_redirects", "rate_limit", "Example:"))
    assert run(["tools", "http", "--json"]) == 0
    assert '"kind": "http"' in capsys.readouterr().out
    assert run(["tools", "nothing"]) == 4


UNKNOWN = """
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: n, path: a/n}
workflow:
  - step: start
    tool: {kind: http, url: 'http://h', spec: {metod: POST}}
    next: b
  - step: b
    tool:
      - {name: one, kind: python, code: 'result = 1', inputs: {}}
      - {name: two, kind: noop, sink: true}
      - {name: three, kind: transfer, source: {}, target: {}, chunks: 1}
"""


def test_fields_no_tool_reads_are_warned_of_once_by_place() -> None:
    """TL-SPC-05, TL-SPC-07: wherever they stand; they hinder nothing."""
    found = parse(UNKNOWN, fields_of=known_fields)
    assert found.playbook is not None
    assert [(one.line, one.message) for one in found.warnings] == [
        (7, "Step 'start': unknown field 'metod' of tool kind 'http' is ignored"),
        (11, "Step 'b': unknown field 'inputs' of tool kind 'python' is ignored"),
        (13, "Step 'b': unknown field 'chunks' of tool kind 'transfer' is ignored"),
    ]
    assert known_fields("no-such") is None
    for kind in documented():
        example = parse(manual_of(kind).example, fields_of=known_fields)
        assert example.warnings == (), kind
