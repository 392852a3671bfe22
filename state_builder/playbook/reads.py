"""What a step's command may read, for its minimal context (PB-346).

An optimisation only: where it cannot be told which names code reads, it reads all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from state_builder.playbook.findings import is_template
from state_builder.playbook.model import Loop
from state_builder.playbook.texts import expression_text, template_texts
from state_builder.records import JSON

_ALL_NAMES = re.compile(r"(?<![\w.])(?:context|variables)\b")
_MAIN = re.compile(r"(?<![\w.])def\s+main\s*\(([^()]*)")
_PARAMETER = re.compile(r"(?:^|,)\s*(\w+)")
_GIVEN = frozenset(
    {"args", "input_data", "execution_id", "step", "workload", "loop_index"}
)
"""What python code gets whatever the context (TL-PY-04, PB-050)."""


def command_texts(
    config: dict[str, JSON], given: dict[str, JSON], claim: JSON
) -> tuple[str, ...]:
    """Templates a command carries, each once.

    Args:
        config: the canonical tool.
        given: the step's input.
        claim: the claim tool of a cursor loop, else None.
    """
    found: dict[str, None] = {}
    for tool in tools_of(config):
        rules = tool.get("policy", [])
        for text in _rule_texts(rules):
            found[text] = None
        rendered = {
            key: value
            for key, value in tool.items()
            if key not in ("policy", "retry", "tasks")
        }
        for _, text in template_texts(rendered, ()):
            found[text] = None
    for _, text in template_texts([given, claim], ()):
        found[text] = None
    return tuple(found)


def _rule_texts(rules: JSON) -> Iterator[str]:
    assert isinstance(rules, list)
    for rule in rules:
        assert isinstance(rule, dict)
        when = rule.get("when")
        if isinstance(when, str):
            yield expression_text(when)
        rest = {key: value for key, value in rule.items() if key != "when"}
        for _, text in template_texts(rest, ()):
            yield text


def tools_of(config: dict[str, JSON]) -> Iterator[dict[str, JSON]]:
    """A tool and, when it is a pipeline, every tool in it."""
    yield config
    tasks = config.get("tasks", [])
    if config["kind"] != "task_sequence" or not isinstance(tasks, list):
        return
    for task in tasks:
        assert isinstance(task, dict)
        yield from tools_of(task)


def reads_everything(
    config: dict[str, JSON], given: dict[str, JSON], loop: Loop | None
) -> bool:
    """May python code of this command look at any name at all?"""
    known = _GIVEN | given.keys()
    if loop is not None:
        known |= {loop.iterator}
    return any(
        _code_reads_all(tool, known)
        for tool in tools_of(config)
        if tool["kind"] == "python"
    )


def _code_reads_all(tool: dict[str, JSON], known: frozenset[str]) -> bool:
    code = tool.get("code")
    script = tool.get("script")
    if isinstance(script, dict) and "uri" not in script:
        source = script.get("source")
        inline = source.get("code") if isinstance(source, dict) else None
        code = code or inline or script.get("code")
    elif script is not None:
        return True
    if not isinstance(code, str) or (is_template(code) and _is_lone(code)):
        # Fetched, encoded or rendered when it runs: not to be looked into here.
        return True
    if _ALL_NAMES.search(code):
        return True
    own = tool.get("input")
    names = known | (own.keys() if isinstance(own, dict) else set())
    # main() takes from the context what the input does not give (TL-PY-08).
    return any(
        parameter not in names
        for main in _MAIN.findall(code)
        for parameter in _PARAMETER.findall(main)
    )


def _is_lone(code: str) -> bool:
    stripped = code.strip()
    return stripped.startswith("{{") and stripped.endswith("}}")
