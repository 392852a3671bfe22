"""Every error of §18 with its message, path and line, and every warning.

The cases stand in YAML files beside this one, a case to a line: rule id, path (of step
errors behind ``workflow[0].``), line, message, text. Of a step error the text is the
body of the step ``start`` from line 6 on.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playbook_documents import END, errors, only, start, warnings

from state_builder.playbook import PlaybookError, load, parse

NOOP = "tool: {kind: noop}"


def cases(name: str) -> list[object]:
    """Cases of a file, named by their rule and message."""
    rows = json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))
    return [
        pytest.param(*row, id=" ".join(str(cell) for cell in row if cell)[:90])
        for row in rows
    ]


@pytest.mark.parametrize(
    ("rule_id", "path", "line", "message", "text"), cases("document_errors.yaml")
)
def test_error_of_the_document(
    rule_id: str, path: str, line: int, message: str, text: str
) -> None:
    """PB-700, PB-701, PB-064: one finding with id, path, line and contractual message."""
    result = parse(text)
    found = only(result.errors)
    assert (found.id, found.path, found.line) == (rule_id, path, line)
    assert found.message == message
    assert result.playbook is None


@pytest.mark.parametrize(
    ("rule_id", "path", "line", "message", "body"), cases("step_errors.yaml")
)
def test_error_of_a_step(
    rule_id: str, path: str, line: int, message: str, body: str
) -> None:
    """PB-700, PB-701, PB-064: one finding with id, path, line and contractual message."""
    found = only(parse(start(body)).errors)
    assert found.message == message
    assert found.id == rule_id
    assert found.path == f"workflow[0].{path}".rstrip(".")
    assert found.line == line


@pytest.mark.parametrize(("actions", "body", "message"), cases("workbook_errors.yaml"))
def test_pb_724_errors_of_the_workbook(actions: str, body: str, message: str) -> None:
    """PB-724: PB-080, PB-082, PB-083."""
    lines = "\n".join(f"  {line}" for line in actions.splitlines())
    assert errors(start(body, root=f"workbook:\n{lines}\n")) == [("PB-724", message)]


def test_pb_724_a_workbook_entry_must_be_a_map() -> None:
    """PB-724."""
    text = start(NOOP, root="workbook: [a]")
    assert errors(text) == [("PB-727", "workbook[0] must be a map, got text 'a'")]


def test_pb_082_actions_written_out_too_often_are_refused() -> None:
    """PB-082: A long action under many references would outgrow any memory."""
    code = "x = 1 # " + "y" * 400_000
    root = f"workbook:\n- {{name: big, tool: {{kind: python, code: '{code}'}}}}\n"
    more = "\n".join(
        f"- {{step: s{n}, tool: {{kind: workbook, name: big}}}}" for n in range(40)
    )
    found = only(parse(start(NOOP, more, root)).errors)
    assert found.id == "PB-724"
    assert found.message.startswith("Step 's20': tools of all steps are longer than")


def test_pb_700_all_findings_come_at_once_in_document_order() -> None:
    """PB-700."""
    text = f"""\
apiVersion: noetl.io/v3
kind: Playbook
metadata: {{title: x}}
workflow:
  - step: start
    tool: {{kind: bash}}
    when: ""
    next: nowhere
  - step: start
  - {{tool: {{kind: noop}}}}
  {END}"""
    found = parse(text).errors
    assert [(item.id, item.line) for item in found] == [
        ("PB-703", 1),
        ("PB-704", 3),
        ("PB-713", 6),
        ("PB-721", 7),
        ("PB-722", 8),
        ("PB-707", 9),
        ("PB-707", 10),
    ]


def test_load_raises_one_error_that_lists_all_findings() -> None:
    with pytest.raises(PlaybookError) as caught:
        load(start("tool: {kind: bash}\nwhen: ''"))
    assert str(caught.value).splitlines() == [
        "line 6: Step 'start': unknown tool kind 'bash'",
        "line 7: Step 'start': invalid 'when' expression: it is empty",
    ]
    assert [item.id for item in caught.value.findings] == ["PB-713", "PB-721"]
    assert caught.value.code == "playbook"
    assert not caught.value.retryable


def test_the_document_is_there_whenever_the_text_could_be_read() -> None:
    assert parse("a: 1").document == {"a": 1}
    assert parse("a: [").document is None


@pytest.mark.parametrize(("root", "more", "body", "message"), cases("warnings.yaml"))
def test_pb_750_warning(root: str, more: str, body: str, message: str) -> None:
    """PB-464, PB-750: reported, and the playbook may still be executed."""
    result = parse(start(body, more, root))
    assert [item.message for item in result.warnings] == [message]
    assert result.warnings[0].id == "PB-750"
    assert result.playbook is not None


def test_pb_750_nothing_is_said_of_a_sound_playbook() -> None:
    """PB-750."""
    text = start(
        "tool: {kind: python, code: 'x = {a}'}\n"
        "input: {sql: '{x}', code: '{% raw'}\n"
        "next: {spec: {mode: inclusive}, arcs: [{step: end}, {step: end, when: a}]}",
        END,
    )
    assert warnings(text) == []


def test_pb_750_syntax_of_templates_is_the_callers_to_tell() -> None:
    """PB-750: PB-424: only a warning, and conditions without braces are checked as well."""
    asked: list[str] = []

    def check(text: str) -> str | None:
        asked.append(text)
        return "no such thing" if "bad" in text else None

    text = start(
        """
        when: bad >
        tool: {kind: python, code: "{% bad", cmds: ["{{ bad( }}"], input: {x: plain}}
        set: {y: "{{ good }}"}
        """
    )
    result = parse(text, check_text=check)
    assert result.playbook is not None
    assert [(item.path, item.message) for item in result.warnings] == [
        ("workflow[0].when", "Step 'start': template cannot be parsed: no such thing"),
        ("workflow[0].tool.cmds[0]", "template cannot be parsed: no such thing"),
    ]
    assert asked == ["{{ bad > }}", "{{ bad( }}", "{{ good }}"]


@pytest.mark.parametrize(
    "text",
    [
        "x == 'keychain.a'",
        "my.keychain.a",
        "keychain_id == 3",
        "a.token(1)",
        "'it\\'s keychain.a' in x",
        '"open and keychain.x',
        "mytoken(1)",
    ],
)
def test_pb_725_only_the_keychain_itself_is_refused(text: str) -> None:
    """PB-725."""
    quoted = (
        text.replace('"', '\\"') if "\\" not in text else text.replace("\\", "\\\\")
    )
    found = errors(start(f'{NOOP}\nwhen: "{quoted}"'))
    assert ("PB-725" in [item[0] for item in found]) == text.startswith('"open')


def test_pb_725_texts_without_templates_may_speak_of_it() -> None:
    """PB-725."""
    text = start(f"{NOOP}\nset: {{a: see keychain.x, b: '{{{{ open keychain.x'}}")
    assert errors(text) == []


def test_pb_725_rules_run_on_the_worker_and_may_use_it() -> None:
    """PB-725."""
    body = """
    tool:
      kind: noop
      spec: {policy: {rules: [{when: "{{ keychain.x }}", then: {do: continue}}]}}
    """
    assert errors(start(body)) == []


@pytest.mark.parametrize(
    "text",
    [
        "{{ {'a': {}} }}",
        "x == {}",
        "'{' in x",
        "{'a': 1}[x]",
        "{% if x %}yes{% endif %}",
        "{{ x }} and {{ y }}",
        "x",
    ],
)
def test_pb_721_sound_conditions_are_taken_as_they_are(text: str) -> None:
    """PB-721: PB-440, PB-442."""
    quoted = text.replace('"', '\\"')
    playbook = load(start(f'{NOOP}\nwhen: "{quoted}"'))
    assert playbook.steps["start"].when == text


def test_pb_750_a_field_no_tool_of_the_kind_reads_is_told() -> None:
    """PB-750, TL-SPC-07: where somebody knows what the kind reads."""
    text = start("tool: {kind: noop, resutl: 1}")
    known = {"noop": frozenset({"kind", "result"})}
    found = parse(text, fields_of=lambda kind: known.get(kind)).warnings
    assert [item.message for item in found] == [
        "Step 'start': unknown field 'resutl' of tool kind 'noop' is ignored"
    ]
    assert parse(text, fields_of=lambda kind: None).warnings == ()
