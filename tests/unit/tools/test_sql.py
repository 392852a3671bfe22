"""SQL texts are split where the server would split them (TL-SQL)."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.errors import ToolCallError
from tools.sql import (
    POSTGRES,
    SNOWFLAKE,
    Dialect,
    fragments,
    numbered,
    split,
    statements_of,
    verb,
)

PIECES = (
    *("'", "''", '"', "$$", "$a$", "$1", "--", "/*", "*/", "\n", ";", " ", "\\"),
    *("E'", "BEGIN ATOMIC", "CASE", "END", "x", "é", "//", "(", ")", "\r\n"),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        # TL-SQL-01: what holds a semicolon as text
        ("select 'a;b'; select 2", ["select 'a;b'", " select 2"]),
        ("select 'it''s;'; x", ["select 'it''s;'", " x"]),
        (r"select E'a\';b'; x", [r"select E'a\';b'", " x"]),
        (r"select 'a\'; x", [r"select 'a\'", " x"]),
        ('select "a;""b"; x', ['select "a;""b"', " x"]),
        ("do $$ a; b $$; x", ["do $$ a; b $$", " x"]),
        ("do $t$ a; $$ ; $t$; x", ["do $t$ a; $$ ; $t$", " x"]),
        ("select $1; x", ["select $1", " x"]),
        ("select $1$$; x", ["select $1$$", " x"]),
        ("select a$$; x", ["select a$$", " x"]),
        ("select é$$; x", ["select é$$", " x"]),
        ("a -- ;\n; x", ["a -- ;\n", " x"]),
        ("a /* ; /* ; */ ; */ b; x", ["a /* ; /* ; */ ; */ b", " x"]),
        ("name'a;b'; x", ["name'a;b'", " x"]),
        # TL-SQL-02: marks inside each other
        ("a -- it's\n; x", ["a -- it's\n", " x"]),
        ("a /* it's */; x", ["a /* it's */", " x"]),
        ("select '--'; x", ["select '--'", " x"]),
        ("select '/*'; x", ["select '/*'", " x"]),
        ("select 'open; x", ["select 'open; x"]),
        ("select $$open; x", ["select $$open; x"]),
        ("a /* open; x", ["a /* open; x"]),
        ("select E'open\\", ["select E'open\\"]),
        # TL-SQL-03
        (
            "create function f() begin atomic select case when a then 1 end; b; end; x",
            [
                "create function f() begin atomic select case when a then 1 end; b; end",
                " x",
            ],
        ),
        ("begin; update t; end; x", ["begin", " update t", " end", " x"]),
        # TL-SQL-04: nothing but blanks and comments is nothing
        (" ; -- a\n; /* b */; x ;; ", [" x "]),
        # TL-SQL-05
        ("\ufeffselect 1;\r\nselect 2", ["select 1", "\r\nselect 2"]),
    ],
)
def test_a_statement_ends_where_the_server_ends_it(text: str, parts: list[str]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"select 'a\';b'; x", [r"select 'a\';b'", " x"]),
        ("a // it's ; \n; x", ["a // it's ; \n", " x"]),
        ("a /* /* ; */; x", ["a /* /* ; */", " x"]),
        ("$$ a; $$; $t$ a; b", ["$$ a; $$", " $t$ a", " b"]),
    ],
)
def test_snowflake_reads_comments_and_quotes_its_own_way(
    text: str, parts: list[str]
) -> None:
    """TL-SQL-06."""
    assert split(text, SNOWFLAKE) == parts


@given(TEXTS, st.sampled_from([POSTGRES, SNOWFLAKE]))
def test_the_parts_joined_are_the_text(text: str, dialect: Dialect) -> None:
    """TL-SQL-04: byte for byte."""
    assert ";".join(part for part, _ in fragments(text, dialect)) == text


@given(TEXTS)
def test_a_statement_split_again_is_itself(text: str) -> None:
    parts = [part for part, meaningful in fragments(text) if meaningful]
    for part in parts:
        assert split(part) == [part.removeprefix("\ufeff")]


@pytest.mark.parametrize("text", ["", " ;; ", "-- a", "/* a */;"])
def test_nothing_to_run_is_said(text: str) -> None:
    """TL-SQL-04."""
    with pytest.raises(ToolCallError, match="empty query"):
        split(text)


def test_nul_is_refused() -> None:
    """TL-SQL-05."""
    with pytest.raises(ToolCallError, match="NUL"):
        split("select '\0'")


@pytest.mark.parametrize(
    "text",
    [
        "'" * 1_000_001,
        "'a" * 500_000,
        "/*" * 500_000,
        "$" * 1_000_000,
        "E'\\" * 300_000,
    ],
)
def test_a_megabyte_of_quotes_does_not_hang(text: str) -> None:
    """TL-SQL-05: linear; ten seconds would be quadratic many times over."""
    started = time.process_time()
    assert len(split("x " + text)) >= 1
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("-- insert\n /* x */ select 1", "SELECT"),
        (
            "with a as (select 1), b as (delete from t) insert into t values (1)",
            "INSERT",
        ),
        ("WITH RECURSIVE a AS (SELECT 1) SELECT * FROM a", "SELECT"),
        ("(values (1))", "VALUES"),
        ("vacuum t", "VACUUM"),
        ("'nothing'", ""),
    ],
)
def test_the_verb_of_a_statement_is_found_behind_comments(
    statement: str, word: str
) -> None:
    assert verb(statement) == word


def test_named_parameters_become_numbers_outside_of_literals() -> None:
    """TL-TR-04."""
    text = "insert into t values (:a, ':a', :b::int, :a) -- :c"
    assert numbered(text) == (
        "insert into t values ($1, ':a', $2::int, $1) -- :c",
        ["a", "b"],
    )


def test_members_of_a_list_do_not_reach_into_each_other() -> None:
    config = {"queries": ["select 1 -- one", "select 2; select 3", " "]}
    assert statements_of(config, ("query", "queries")) == [
        "select 1 -- one",
        "select 2",
        " select 3",
    ]


def test_sql_may_come_as_base64() -> None:
    text = base64.b64encode(b"select 1; select 2").decode()
    keys = ("query", "query_b64")
    assert statements_of({"query_b64": text}, keys) == ["select 1", " select 2"]
    with pytest.raises(ToolCallError, match="query_b64 must be base64"):
        statements_of({"query_b64": "%%"}, keys)
    with pytest.raises(ToolCallError, match="one of query, query_b64 is required"):
        statements_of({}, keys)
    with pytest.raises(ToolCallError, match="query must be SQL text"):
        statements_of({"query": 5}, keys)
