"""Splitting SQL text into statements, for every tool that takes SQL (TL-SQL).

Pure and linear in the text: one pattern walks over literals, comments and identifiers
that may hold a semicolon; whatever is left of ``;`` at top level ends a statement.
"""

from __future__ import annotations

import re
from typing import Final

from tools.errors import configuration

_PIECE: Final = re.compile(
    r"""
      (?P<quoted>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z) | '(?:[^']|'')*(?:'|\Z)
        | "(?:[^"]|"")*(?:"|\Z))
    | (?P<line>--[^\n]*)
    | (?P<block>/\*)
    | (?P<dollar>\$(?:[A-Za-z_][A-Za-z_0-9]*)?\$)
    | (?P<word>[A-Za-z_][A-Za-z_0-9$]*)
    | (?P<end>;)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_MARK: Final = re.compile(r"/\*|\*/")


def split(text: str) -> list[str]:
    """The statements of a text, byte for byte, without empty ones (TL-SQL-01 ff.).

    Raises ToolCallError of ``configuration`` when there is none, or NUL in the text.
    """
    if "\0" in text:
        raise configuration("query: SQL cannot contain NUL")
    text = text.removeprefix("\ufeff")
    statements: list[str] = []
    begin = place = 0
    atomic = 0
    meaningful = False
    words: list[str] = []
    while place < len(text):
        match = _PIECE.match(text, place)
        assert match is not None
        kind, place = match.lastgroup, match.end()
        if kind == "block":
            place = _after_block(text, place)
        elif kind == "dollar":
            closing = text.find(match.group(), place)
            place = len(text) if closing < 0 else closing + len(match.group())
            meaningful = True
        elif kind == "word":
            words = [*words[-1:], match.group().upper()]
            atomic += _atomic_step(words, atomic)
            meaningful = True
        elif kind == "end" and not atomic:
            if meaningful:
                statements.append(text[begin : match.start()])
            begin, meaningful, words = place, False, []
        elif kind in ("quoted", "other", "end"):
            meaningful = True
    if meaningful:
        statements.append(text[begin:])
    if not statements:
        raise configuration("query: empty query")
    return statements


def _after_block(text: str, place: int) -> int:
    """The end of a block comment; they nest."""
    depth = 1
    while depth:
        mark = _COMMENT_MARK.search(text, place)
        if mark is None:
            return len(text)
        depth += 1 if mark.group() == "/*" else -1
        place = mark.end()
    return place


def _atomic_step(words: list[str], depth: int) -> int:
    """Depth of ``BEGIN ATOMIC … END``, where semicolons are inside (TL-SQL-03)."""
    if words[-2:] == ["BEGIN", "ATOMIC"]:
        return 1
    if depth and words[-1] == "CASE":
        return 1
    return -1 if depth and words[-1] == "END" else 0


def statements_of(config: dict[str, object], keys: tuple[str, ...]) -> str:
    """The SQL text under the first of these keys; a list is joined (TL §3.4)."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, list) and value:
            return ";\n".join(str(one) for one in value)
    raise configuration(f"one of {', '.join(keys)} is required")
