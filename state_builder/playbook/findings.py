"""What a validator finds, and typed look-ups that report what they do not find (§18).

A :class:`Report` collects; a :class:`Block` is a map of the document with its place, so
that a wrong type is one finding with path and line and reading goes on with a default:
all findings come at once. Nothing here knows what a playbook is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Final

from state_builder.playbook.model import Finding
from state_builder.playbook.source import Document, Path, type_name
from state_builder.records import JSON

CheckText = Callable[[str], "str | None"]
FieldsOf = Callable[[str], "frozenset[str] | None"]
"""A template's syntax error, or None."""

WARNING: Final = "PB-750"
WRONG_TYPE: Final = "PB-727"

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, None: 1.0}


def written(path: Path) -> str:
    """A path as people write it: ``workflow[2].next.arcs[0].step``."""
    parts: list[str] = []
    for key in path:
        if isinstance(key, int):
            parts.append(f"[{key}]")
        elif _PLAIN_KEY.fullmatch(key):
            parts.append(f".{key}" if parts else key)
        else:
            parts.append(f"[{key!r}]")
    return "".join(parts)


def is_template(value: JSON) -> bool:
    """Is it a text with ``{{`` or ``{%`` in it (PB-072)?"""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def as_number(value: JSON) -> float | int | None:
    """A number, or a text that is one; a boolean is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str) and len(value) <= 20:
        found = _DURATION.fullmatch(value.strip())
        if found is not None and found[2] is None:
            return float(found[1]) if "." in found[1] else int(found[1])
    return None


def as_seconds(value: JSON) -> float | None:
    """Seconds of a number, ``"30"``, ``"250ms"``, ``"30s"``, ``"5m"``, ``"1h"``,
    ``"7d"``."""
    if isinstance(value, str) and len(value) <= 20:
        found = _DURATION.fullmatch(value.strip())
        return None if found is None else float(found[1]) * _UNIT_S[found[2]]
    number = as_number(value)
    return None if number is None else float(number)


class Report:
    """Findings so far, and who the next one is about.

    Attributes:
        owner: put before each message, ``Step 'x'`` or nothing.
        check_text: syntax of a template, for warnings (PB-424).
        fields_of: what a tool of a kind may carry, for warnings (TL-SPC-07).
    """

    def __init__(
        self,
        document: Document,
        check_text: CheckText | None = None,
        fields_of: FieldsOf | None = None,
    ) -> None:
        self.document = document
        self.check_text = check_text
        self.fields_of = fields_of
        self.owner = ""
        self.errors: list[Finding] = []
        self.warnings: list[Finding] = []

    def of_step(self, name: str) -> Report:
        """The same report, speaking of one step."""
        report = Report(self.document, self.check_text, self.fields_of)
        report.owner = f"Step '{name}'"
        report.errors, report.warnings = self.errors, self.warnings
        return report

    def error(self, rule: str, path: Path, text: str, joint: str = ": ") -> None:
        """The document may not be executed; ``joint`` stands behind the owner."""
        self.errors.append(self._finding(rule, path, text, joint))

    def warning(self, path: Path, text: str) -> None:
        """Probably not what the author means."""
        self.warnings.append(self._finding(WARNING, path, text, ": "))

    def _finding(self, rule: str, path: Path, text: str, joint: str) -> Finding:
        return Finding(
            id=rule,
            path=written(path),
            line=self.document.line_of(path),
            message=self.owner + joint + text if self.owner else text,
        )

    def wrong(self, path: Path, value: JSON, wanted: str) -> None:
        """PB-727: a value of another type than the key takes."""
        inside_step = len(path) > 2 and path[0] == "workflow"
        key = written(path[2:] if inside_step else path)
        got = type_name(value)
        if got in ("text", "number", "boolean"):
            got = f"{got} {shortened(value)}"
        self.error(WRONG_TYPE, path, f"{key} must be {wanted}, got {got}")


def shortened(value: JSON) -> str:
    """A scalar in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class Block:
    """A map of the document at its place. A key with null counts as absent."""

    __slots__ = ("path", "report", "value")

    def __init__(self, report: Report, path: Path, value: dict[str, JSON]) -> None:
        self.report = report
        self.path = path
        self.value = value

    def at(self, key: str) -> Path:
        """Where a key stands."""
        return (*self.path, key)

    def get(self, key: str) -> JSON:
        """The value as it is, null when absent."""
        return self.value.get(key)

    def block(self, key: str) -> Block:
        """A map; empty when absent or no map."""
        value = self.value.get(key)
        if isinstance(value, dict):
            return Block(self.report, self.at(key), value)
        if value is not None:
            self.report.wrong(self.at(key), value, "a map")
        return Block(self.report, self.at(key), {})

    def items(self, key: str) -> list[JSON]:
        """A list; empty when absent or no list."""
        value = self.value.get(key)
        if isinstance(value, list):
            return value
        if value is not None:
            self.report.wrong(self.at(key), value, "a list")
        return []

    def text(self, key: str) -> str:
        """A text; empty when absent or no text."""
        value = self.value.get(key)
        if isinstance(value, str):
            return value
        if value is not None:
            self.report.wrong(self.at(key), value, "a text")
        return ""

    def name(self, key: str) -> str:
        """A text or a number written without quotes, as text."""
        value = self.value.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return self.text(key)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A boolean."""
        value = self.value.get(key)
        if isinstance(value, bool):
            return value
        if value is not None:
            self.report.wrong(self.at(key), value, "true or false")
        return default

    def choice(self, key: str, allowed: Collection[str], default: str) -> str:
        """One of some words."""
        value = self.value.get(key)
        if isinstance(value, str) and value in allowed:
            return value
        if value is not None:
            self.report.wrong(self.at(key), value, f"one of {', '.join(allowed)}")
        return default

    def seconds(self, key: str) -> float:
        """A positive duration; 0 when absent or wrong."""
        value = self.value.get(key)
        found = as_seconds(value)
        if found is not None and found > 0:
            return found
        if value is not None:
            wanted = "a positive number of seconds, or a text like 30s, 5m, 1h"
            self.report.wrong(self.at(key), value, wanted)
        return 0.0

    def ignored(self, known: Collection[str]) -> Iterator[str]:
        """Keys that are none of these and have no effect."""
        return (key for key in self.value if key not in known)

    def warn_ignored(self, known: Collection[str]) -> None:
        """Warn of every key that has no effect."""
        for key in self.ignored(known):
            self.report.warning(self.at(key), f"unknown key '{key}' is ignored")
