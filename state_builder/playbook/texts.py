"""Texts that are templates: what can be said of them without evaluating them.

Conditions (PB-440, PB-442), keychain values where the drive evaluates (PB-009), the
warnings of PB-750, and the list of texts a command carries (PB-346).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from state_builder.playbook.findings import Report, is_template
from state_builder.playbook.model import Condition
from state_builder.playbook.source import Path, type_name
from state_builder.records import JSON

_QUOTE = re.compile("['\"]")
_CLOSING = {quote: re.compile(rf"\\.|{quote}", re.DOTALL) for quote in "'\""}
_OPENING = re.compile(r"\{[{%]")
_SECRET = re.compile(r"(?<![\w.])(?:keychain\s*[.\[]|keychain\b\s*\||token\s*\()")
_SINGLE_BRACE = re.compile(r"\{\s*[A-Za-z_][\w.]*\s*\}")
_LITERAL_BLOCKS = frozenset({"code", "query", "command", "commands", "cmds", "sql"})
"""Keys whose text is another language, where single braces mean something else."""


def condition_of(
    report: Report,
    value: JSON,
    path: Path,
    prefix: str = "invalid 'when' expression",
    *,
    on_worker: bool = False,
) -> Condition | None:
    """A condition as it is, or None and a finding (PB-721).

    Args:
        on_worker: a rule's condition; all others are evaluated by the drive, which
            never sees the keychain (PB-725).
    """
    problem = _problem_of(value)
    if problem is not None:
        report.error("PB-721", path, f"{prefix}: {problem}")
        return None
    assert isinstance(value, str | bool)
    if isinstance(value, str):
        if not on_worker:
            refuse_secrets(report, expression_text(value), path, str(path[-1]))
        if not is_template(value):
            _warn_syntax(report, expression_text(value), path)
    return value


def expression_text(condition: str) -> str:
    """A condition as a template text: without braces it is an expression (PB-440)."""
    return condition if is_template(condition) else "{{ " + condition + " }}"


def _problem_of(value: JSON) -> str | None:
    if isinstance(value, bool):
        return None
    if not isinstance(value, str):
        return f"must be a text or true/false, got {type_name(value)}"
    if not value.strip():
        return "it is empty"
    bare = _unquoted(value).strip()
    if is_template(value):
        open_block = bare.rfind("{{") > bare.rfind("}}")
        open_block = open_block or bare.rfind("{%") > bare.rfind("%}")
        return "unpaired brace" if open_block else None
    if bare.startswith("{") and bare.endswith("}"):
        return "single braces; write {{ … }}"
    return "unpaired brace" if bare.count("{") != bare.count("}") else None


def refuse_secrets(report: Report, value: JSON, path: Path, key: str) -> None:
    """PB-725: what the drive evaluates never sees the keychain."""
    for _, text in template_texts(value, path):
        if any(_SECRET.search(_unquoted(part)) for part in _evaluated(text)):
            problem = f"keychain values are not available in {key}"
            report.error("PB-725", path, problem)
            return


def refuse_durable_secrets(report: Report, values: dict[str, JSON], path: Path) -> None:
    """PB-009: what a worker sets for good goes into events, so no keychain there."""
    for key, value in values.items():
        if key.startswith("ctx."):
            refuse_secrets(report, value, path, f"set of {key}")


def _evaluated(text: str) -> Iterator[str]:
    """What stands between the braces. One pass: a text may be the whole source."""
    place = 0
    while (opening := _OPENING.search(text, place)) is not None:
        closing = "}}" if opening[0] == "{{" else "%}"
        end = text.find(closing, opening.end())
        if end < 0:
            return
        yield text[opening.end() : end]
        place = end + 2


def _unquoted(expression: str) -> str:
    """An expression with its quoted texts emptied, in one pass."""
    parts: list[str] = []
    place = 0
    while (opening := _QUOTE.search(expression, place)) is not None:
        closing = _CLOSING[opening[0]]
        end = opening.end()
        while (found := closing.search(expression, end)) is not None:
            end = found.end()
            if found[0] == opening[0]:
                break
        else:
            break
        parts.append(expression[place : opening.end()])
        parts.append(opening[0])
        place = end
    return "".join((*parts, expression[place:]))


def template_texts(value: JSON, path: Path) -> Iterator[tuple[Path, str]]:
    """Every template at every depth, and where it stands."""
    for place, text in _strings(value, path):
        if is_template(text):
            yield place, text


def _strings(value: JSON, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _strings(member, (*path, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _strings(member, (*path, index))


def warn_texts(report: Report, value: JSON, path: Path) -> None:
    """Warn of templates with wrong syntax, and of texts that look like templates."""
    for place, text in _strings(value, path):
        if is_template(text):
            if place[-1] == "code":
                # Blocks in code are text of the other language (TL-PY-16).
                text = text.replace("{%", "").replace("{#", "")
            if is_template(text):
                _warn_syntax(report, text, place)
        elif _SINGLE_BRACE.fullmatch(text.strip()) and not (
            _LITERAL_BLOCKS.intersection(place) or place[-1] == "when"
        ):
            hint = f"'{text.strip()}' is plain text; a template needs {{{{ … }}}}"
            report.warning(place, hint)


def _warn_syntax(report: Report, text: str, path: Path) -> None:
    problem = report.check_text(text) if report.check_text else None
    if problem is not None:
        report.warning(path, f"template cannot be parsed: {problem}")
