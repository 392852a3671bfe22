"""SQL text taken apart into statements, for every tool that takes SQL (TL-SQL).

Pure and linear in the text: one pattern walks over literals, comments and identifiers
that may hold a semicolon; whatever is left of ``;`` at top level ends a statement. Its
repeats are possessive, so a megabyte of quotes costs no more than a megabyte of words.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from state_builder.records import JSON
from tools.errors import ToolCallError, configuration
from tools.fields import wrong

_PLAIN: Final = r"'(?:[^']|'')*+(?:'|\Z)"
_ESCAPED: Final = r"'(?:[^'\\]|\\.|'')*+(?:'|\\?\Z)"
_PIECES: Final = r"""
      (?P<quoted>{quoted} | "(?:[^"]|"")*+(?:"|\Z))
    | (?P<comment>{comment})
    | (?P<block>/\*)
    | (?P<dollar>{dollar})
    | (?P<word>\w[\w$]*+)
    | (?P<end>;)
    | (?P<space>\s++)
    | (?P<other>.)
"""


@dataclass(frozen=True)
class Dialect:
    """How a server reads literals and comments.

    Attributes:
        piece: matches the next piece of a text; its group says what it is.
        nested: block comments nest.
    """

    piece: re.Pattern[str]
    nested: bool


def _dialect(quoted: str, comment: str, dollar: str, nested: bool) -> Dialect:
    text = _PIECES.format(quoted=quoted, comment=comment, dollar=dollar)
    return Dialect(re.compile(text, re.VERBOSE | re.DOTALL), nested)


POSTGRES: Final = _dialect(
    rf"[eE]{_ESCAPED} | {_PLAIN}", r"--[^\n]*+", r"\$(?:[^\W\d]\w*+)?\$", True
)
"""PostgreSQL and DuckDB (TL-SQL-01)."""

SNOWFLAKE: Final = _dialect(_ESCAPED, r"(?:--|//)[^\n]*+", r"\$\$", False)
"""TL-SQL-06."""

REMEMBERED_CHARS: Final = 4096
REMEMBERED_TEXTS: Final = 256
"""Texts up to that length are taken apart once: a loop runs the same for every row."""

_COMMENT_MARK: Final = re.compile(r"/\*|\*/")
_MAIN_VERBS: Final = frozenset(
    ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES", "TABLE")
)


def split(text: str, dialect: Dialect = POSTGRES) -> list[str]:
    """The statements of a text, byte for byte, without empty ones (TL-SQL-01 ff.).

    Raises ToolCallError of ``configuration`` when there is none, or NUL in the text.
    """
    take = _split if len(text) <= REMEMBERED_CHARS else _split.__wrapped__
    return [*take(text, dialect)]


@lru_cache(REMEMBERED_TEXTS)
def _split(text: str, dialect: Dialect) -> tuple[str, ...]:
    if "\0" in text:
        raise configuration("query: SQL cannot contain NUL")
    parts = fragments(text.removeprefix("\ufeff"), dialect)
    statements = tuple(part for part, meaningful in parts if meaningful)
    if not statements:
        raise configuration("query: empty query")
    return statements


def fragments(text: str, dialect: Dialect = POSTGRES) -> Iterator[tuple[str, bool]]:
    """What stands between semicolons, and if it is more than blanks and comments.

    The fragments joined by ``;`` are the text.
    """
    begin = atomic = 0
    meaningful = False
    before = ""
    for kind, start, end in _pieces(text, dialect):
        if kind == "end" and not atomic:
            yield text[begin:start], meaningful
            begin, meaningful, before = end, False, ""
        elif kind == "word":
            word = text[start:end].upper()
            atomic += _atomic_step(before, word, atomic)
            before, meaningful = word, True
        elif kind not in ("space", "comment", "block"):
            meaningful = True
    yield text[begin:], meaningful


def _pieces(text: str, dialect: Dialect) -> Iterator[tuple[str, int, int]]:
    place = 0
    while place < len(text):
        match = dialect.piece.match(text, place)
        assert match is not None and match.lastgroup is not None
        start, place = place, match.end()
        if match.lastgroup == "block":
            place = _after_block(text, place, dialect.nested)
        elif match.lastgroup == "dollar":
            closing = text.find(match.group(), place)
            place = len(text) if closing < 0 else closing + len(match.group())
        yield match.lastgroup, start, place


def _after_block(text: str, place: int, nested: bool) -> int:
    """The end of a block comment."""
    depth = 1
    while depth:
        mark = _COMMENT_MARK.search(text, place)
        if mark is None:
            return len(text)
        if mark.group() == "*/":
            depth -= 1
        elif nested:
            depth += 1
        place = mark.end()
    return place


def _atomic_step(before: str, word: str, depth: int) -> int:
    """Depth of ``BEGIN ATOMIC … END``, where semicolons are inside (TL-SQL-03)."""
    if (before, word) == ("BEGIN", "ATOMIC"):
        return 1
    if depth and word == "CASE":
        return 1
    return -1 if depth and word == "END" else 0


def verb(statement: str) -> str:
    """The word that says what a statement does, upper case; of ``WITH`` its main one.

    Comments, literals and what stands in parentheses do not count.
    """
    depth = 0
    found = ""
    for kind, start, end in _pieces(statement, POSTGRES):
        if kind == "other":
            depth += {"(": 1, ")": -1}.get(statement[start:end], 0)
        elif kind == "word" and (not found or not depth):
            word = statement[start:end].upper()
            if not found and word != "WITH":
                return word
            if found and word in _MAIN_VERBS:
                return word
            found = word
    return found


def words(statement: str) -> str:
    """The words of a statement outside of literals and comments, upper case."""
    if len(statement) <= REMEMBERED_CHARS:
        return _words(statement)
    return _words.__wrapped__(statement)


@lru_cache(REMEMBERED_TEXTS)
def _words(statement: str) -> str:
    return " ".join(
        statement[start:end].upper()
        for kind, start, end in _pieces(statement, POSTGRES)
        if kind == "word"
    )


def numbered(statement: str) -> tuple[str, list[str]]:
    """``:name`` parameters as ``$1`` …, and their names in that order.

    A name that occurs again gets the same number; ``::type`` is a cast.
    """
    names: list[str] = []
    parts: list[str] = []
    colons = 0
    for kind, start, end in _pieces(statement, POSTGRES):
        piece = statement[start:end]
        if kind == "word" and colons == 1 and not piece[0].isdigit():
            if piece not in names:
                names.append(piece)
            parts[-1] = f"${names.index(piece) + 1}"
        else:
            parts.append(piece)
        colons = colons + 1 if piece == ":" else 0
    return "".join(parts), names


def statements_of(
    config: dict[str, JSON], keys: tuple[str, ...], dialect: Dialect = POSTGRES
) -> list[str]:
    """The statements under the first of these keys that is given.

    A key may end in ``_b64``. Each member of a list is split on its own, so that no
    comment or open quote of one reaches into the next.
    """
    for key in keys:
        value = config.get(key)
        if value is None or value in ("", []):
            continue
        texts = value if isinstance(value, list) else [value]
        found: list[str] = []
        for text in texts:
            if not isinstance(text, str):
                raise wrong(key, text, "SQL text, or a list of SQL texts")
            if text.strip():
                text = _decoded(key, text) if key.endswith("_b64") else text
                found += split(text, dialect)
        if not found:
            raise configuration(f"{key}: empty query")
        return found
    raise configuration(f"one of {', '.join(keys)} is required")


def _decoded(key: str, text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError as error:
        raise _not_base64(key) from error


def _not_base64(key: str) -> ToolCallError:
    return configuration(f"{key} must be base64 of UTF-8 SQL text")
