"""Statements, rows and types of the ``postgres`` tool on a real server (TL §3.4)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_tool import Database, db, dsn, pg_server

from tools.contract import ToolLimits

__all__ = ["db", "dsn", "pg_server"]

pytestmark = pytest.mark.anyio

TYPES = [
    # TL-PG-09: the SQL, the JSON
    ("true", True),
    ("1::int2", 1),
    ("9007199254740993::int8", 9007199254740993),
    ("1.5::float8", 1.5),
    ("'NaN'::float8", None),
    ("'-Infinity'::float4", None),
    ("1e-10::numeric", "0.0000000001"),
    ("12345678901234567890.123456789::numeric", "12345678901234567890.123456789"),
    ("100::numeric(10,2)", "100.00"),
    ("'NaN'::numeric", "NaN"),
    ("'é'::text", "é"),
    ("'ab'::char(3)", "ab "),
    ("'a'::\"char\"", "a"),
    ("'x'::name", "x"),
    ("'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ('\'{"a": [1, null, "x"]}\'::jsonb', {"a": [1, None, "x"]}),
    ("'[1, 2]'::json", [1, 2]),
    ("'null'::jsonb", None),
    ("'\\x00ff'::bytea", base64.b64encode(b"\x00\xff").decode()),
    ("'2024-02-29'::date", "2024-02-29"),
    ("'0044-03-15 BC'::date", "-0043-03-15"),
    ("'12024-03-01'::date", "12024-03-01"),
    ("'infinity'::date", "infinity"),
    ("'01:02:03'::time", "01:02:03"),
    ("'24:00'::time", "24:00:00"),
    ("'01:02:03.5'::time", "01:02:03.500000"),
    ("'12:00+05:30'::timetz", "12:00:00+05:30"),
    ("'2024-01-02 03:04:05'::timestamp", "2024-01-02T03:04:05"),
    ("'2024-01-02 03:04:05.25'::timestamp", "2024-01-02T03:04:05.250000"),
    ("'2024-01-02 03:04:05+02'::timestamptz", "2024-01-02T01:04:05+00:00"),
    ("'-infinity'::timestamptz", "-infinity"),
    ("'1 year 2 mons 3 days 04:05:06.789'::interval", "P1Y2M3DT4H5M6.789S"),
    ("'-1 mons +1 day -00:00:01'::interval", "P-1M1DT-1S"),
    ("'0'::interval", "PT0S"),
    ("'10.1.2.3/8'::inet", "10.1.2.3/8"),
    ("'10.0.0.0/8'::cidr", "10.0.0.0/8"),
    ("'08:00:2b:01:02:03'::macaddr", "08:00:2b:01:02:03"),
    ("'{{1,2},{3,null}}'::int[]", [[1, 2], [3, None]]),
    ("'{}'::text[]", []),
    ("array['2024-01-02'::date]", ["2024-01-02"]),
    ("array[1.50::numeric, null]", ["1.50", None]),
    ("row(1, 'x')", {"f1": 1, "f2": "x"}),
    ("'[1,5)'::int4range", {"lower": 1, "upper": 5, "lower_inc": True, "upper_inc": False}),
    ("'(1,2)'::point", "(1,2)"),
    ("B'101'", "101"),
    ("'a b'::tsvector", "'a' 'b'"),
    ("'12.34'::money", "$12.34"),
    ("'pg_class'::regclass", "pg_class"),
    ("'0/16B3748'::pg_lsn", "0/16B3748"),
    ("null::int", None),
]  # fmt: skip


async def test_every_type_has_its_json_and_none_becomes_null(db: Database) -> None:
    """TL-PG-09."""
    expressions = ", ".join(f"{sql} AS c{n}" for n, (sql, _) in enumerate(TYPES))
    row = (await db.data(f"SELECT {expressions}"))["rows"][0]
    for number, (sql, expected) in enumerate(TYPES):
        assert row[f"c{number}"] == expected, sql
    json.dumps(row, allow_nan=False)


async def test_numerics_may_come_as_numbers(db: Database) -> None:
    """TL-PG-10."""
    floats = Database(db.dsn, ToolLimits(pg_numeric_as_float=True))
    assert await floats.value("1.50::numeric") == 1.5
    assert await floats.value("array[0.1::numeric, null]") == [0.1, None]
    assert await floats.value("$1::numeric", "2.5") == 2.5
    await floats.tool.close()


async def test_types_of_the_database_come_as_what_they_are(db: Database) -> None:
    """TL-PG-09: enum, domain, composite, and arrays of them."""
    await db.data(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN age AS int;"
        "CREATE TYPE person AS (name text, born date, mood mood)"
    )
    data = await db.data(
        "SELECT 'ok'::mood AS m, 5::age AS a, ROW('x', '2000-01-01', 'sad')::person AS p,"
        " ARRAY['sad'::mood] AS ms"
    )
    person = {"name": "x", "born": "2000-01-01", "mood": "sad"}
    assert data["rows"] == [{"m": "ok", "a": 5, "p": person, "ms": ["sad"]}]


ROUND_TRIPS = {
    "int8": st.integers(-(2**63), 2**63 - 1),
    "float8": st.floats(allow_nan=False, allow_infinity=False),
    "text": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    "bool": st.booleans(),
    "jsonb": st.recursive(
        st.booleans() | st.integers(-(2**53), 2**53) | st.text("ab'\"\\é", max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
        max_leaves=8,
    ).filter(lambda value: not isinstance(value, str)),
    "bytea": st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode()),
    "date": st.dates().map(lambda day: day.isoformat()),
    "timestamp": st.datetimes().map(lambda moment: moment.isoformat()),
    "uuid": st.uuids().map(str),
    "int4[]": st.lists(st.integers(-(2**31), 2**31 - 1) | st.none(), max_size=5),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False).map(
        lambda number: format(number, "f")
    ).filter(lambda text: len(text) < 60),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROUND_TRIPS)
async def test_a_parameter_comes_back_as_it_went(db: Database, kind: str) -> None:
    """TL-PG-02, TL-PG-09: both ways through the server."""
    examples: list[Any] = []

    @given(ROUND_TRIPS[kind])
    @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
    def collect(value: Any) -> None:
        examples.append(value)

    collect()
    query = ", ".join(f"${n + 1}::{kind} AS c{n}" for n in range(len(examples)))
    row = (await db.data(f"SELECT {query}", params=examples))["rows"][0]
    assert list(row.values()) == examples


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("int4", "5", 5),
        ("int4", 5.0, 5),
        ("int4", " 7 ", 7),
        ("numeric", 0.1, "0.1"),
        ("numeric", "1.10", "1.10"),
        ("bool", "yes", True),
        ("text", 5, "5"),
        ("text", True, "true"),
        ("text", {"a": 1}, '{"a":1}'),
        ("jsonb", '{"a": 1}', {"a": 1}),
        ("jsonb", [{"a": 1}], [{"a": 1}]),
        ("timestamptz", "2024-01-02T03:04:05Z", "2024-01-02T03:04:05+00:00"),
        ("timestamptz", "Jan 2 2024 UTC", "2024-01-02T00:00:00+00:00"),
        ("date", "infinity", "infinity"),
        ("interval", "1 month 2 days", "P1M2D"),
        ("interval", "P1Y-2DT0.5S", "P1Y-2DT0.5S"),
        ("inet", "10.0.0.1", "10.0.0.1"),
        (
            "int4range",
            "[1,3)",
            {"lower": 1, "upper": 3, "lower_inc": True, "upper_inc": False},
        ),
        ("timestamptz[]", ["2024-01-02 UTC"], ["2024-01-02T00:00:00+00:00"]),
        ("date[]", ["2024-01-02", None], ["2024-01-02", None]),
        ("bytea", "\\x00ff", "AP8="),
    ],
)
async def test_a_text_becomes_what_the_statement_wants(
    db: Database, kind: str, given: Any, expected: Any
) -> None:
    """TL-PG-02."""
    assert await db.value(f"$1::{kind}", given) == expected


@pytest.mark.parametrize(
    ("kind", "given", "code"),
    [
        ("int4", "secret-five", "22P02"),
        ("int2", 70000, "22003"),
        ("timestamptz", "secret-day", "22007"),
        ("jsonb", "{secret", "22P02"),
        ("bytea", "secret!", "22P02"),
        ("int4[]", ["secret"], "22P02"),
    ],
)
async def test_a_parameter_that_does_not_fit_is_named_without_its_value(
    db: Database, kind: str, given: Any, code: str
) -> None:
    """TL-PG-02, TL-PG-15."""
    error = await db.failure(f"SELECT 1, $2::{kind}, $1::int", params=[1, given])
    assert (error.failure.kind, error.failure.code) == ("db_error", code)
    assert "params[1]" in error.failure.message
    assert "secret" not in error.failure.message
    assert "70000" not in error.failure.message


async def test_parameters_go_with_one_statement_and_their_number(db: Database) -> None:
    """TL-PG-02."""
    two = await db.failure("SELECT $1; SELECT 2", params=[1])
    assert two.failure.kind == "configuration"
    assert "only one statement" in two.failure.message
    few = await db.failure("SELECT $1::int, $2::int", params=[1])
    assert few.failure.message == (
        "params: the statement has 2 parameters, 1 are given"
    )


async def test_the_last_statement_gives_the_result(db: Database) -> None:
    """TL-PG-03, TL-PG-05, TL-PG-08."""
    data = await db.data(
        "CREATE TABLE t (id int); SELECT 1 AS a; INSERT INTO t VALUES (1), (2);"
        "SELECT id FROM t ORDER BY id"
    )
    assert data == {
        "columns": ["id"],
        "rows": [{"id": 1}, {"id": 2}],
        "row_count": 2,
        "affected_rows": 0,
        "message": "SELECT 2",
        "statement_count": 4,
        "command_1": {
            "columns": ["a"],
            "rows": [{"a": 1}],
            "row_count": 1,
            "affected_rows": 0,
            "message": "SELECT 1",
        },
    }


async def test_statements_may_come_from_a_file(db: Database, tmp_path: Path) -> None:
    """TL-PY-02: loaded when the step runs, confined, and split like any other."""
    (tmp_path / "load.sql").write_text("\ufeffSELECT 1 AS a; SELECT 'x;' AS b")
    limits = ToolLimits(data_dir=str(tmp_path))
    db = Database(db.dsn, limits)
    data = await db.data(None, script={"uri": "load.sql", "source": {"type": "file"}})
    assert (data["rows"], data["statement_count"]) == ([{"b": "x;"}], 2)
    inline = {"source": {"type": "inline", "code": "SELECT 2 AS a"}}
    assert (await db.data(None, script=inline))["rows"] == [{"a": 2}]
    error = await db.failure(None, script={"uri": "../load.sql"})
    assert "outside the directories" in error.failure.message
    error = await db.failure(None, script={"uri": "load.sql"}, params=[1])
    assert "only one statement" in error.failure.message
    await db.tool.close()


async def test_large_earlier_row_sets_are_not_kept(db: Database) -> None:
    """TL-PG-08."""
    data = await db.data("SELECT generate_series(1, 101); SELECT 1")
    assert "command_0" not in data


@pytest.mark.parametrize(
    ("query", "columns", "rows", "count", "affected"),
    [
        ("INSERT INTO t VALUES (9) RETURNING id", ["id"], [[9]], 1, 1),
        ("UPDATE t SET id = id + 1 WHERE false RETURNING id", ["id"], [], 0, 0),
        ("/* x */ SELECT id FROM t", ["id"], [[1]], 1, 0),
        ("WITH a AS (SELECT 3 AS x) SELECT x FROM a", ["x"], [[3]], 1, 0),
        (
            "WITH a AS (SELECT 4 AS x) INSERT INTO t SELECT x FROM a RETURNING id",
            ["id"],
            [[4]],
            1,
            1,
        ),
        ("VALUES (1, 'a')", ["column1", "column2"], [[1, "a"]], 1, 0),
        ("TABLE t", ["id"], [[1]], 1, 0),
        ("SHOW server_encoding", ["server_encoding"], [["UTF8"]], 1, 0),
        ("INSERT INTO t VALUES (5), (6)", [], [], 2, 2),
        ("DELETE FROM t", [], [], 1, 1),
        ("CREATE TABLE u (id int)", [], [], 0, 0),
        ("SELECT id AS a, id AS a, id AS a FROM t", ["a", "a_2", "a_3"], [[1, 1, 1]], 1, 0),
    ],
)  # fmt: skip
async def test_rows_are_told_by_the_servers_description(
    db: Database,
    query: str,
    columns: list[str],
    rows: list[Any],
    count: int,
    affected: int,
) -> None:
    """TL-PG-05, TL-PG-06, TL-PG-07."""
    await db.data("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    data = await db.data(query, as_objects=False)
    found = (data["columns"], data["rows"], data["row_count"], data["affected_rows"])
    assert found == (columns, rows, count, affected)


async def test_a_command_is_all_or_nothing(db: Database) -> None:
    """TL-PG-04."""
    await db.data("CREATE TABLE t (id int PRIMARY KEY)")
    error = await db.failure("INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)")
    assert error.failure.kind == "db_constraint"
    assert await db.value("count(*) FROM t") == 0


async def test_constraints_that_speak_up_at_the_end_fail_the_command(
    db: Database,
) -> None:
    """TL-PG-04: the commit is part of it."""
    await db.data("CREATE TABLE t (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);")
    error = await db.failure("INSERT INTO t VALUES (1), (1)")
    assert error.failure.kind == "db_constraint"


async def test_own_transactions_and_what_cannot_be_in_one(db: Database) -> None:
    """TL-PG-04."""
    await db.data("CREATE TABLE t (id int)")
    await db.data("BEGIN; INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2)")
    await db.data("BEGIN; INSERT INTO t VALUES (3); ROLLBACK")
    await db.data("VACUUM t; /* x */ CREATE INDEX CONCURRENTLY i ON t (id)")
    await db.data("SAVEPOINT s; INSERT INTO t VALUES (4); ROLLBACK TO s")
    data = await db.data("BEGIN; SELECT id FROM t ORDER BY id; COMMIT")
    assert data["command_1"]["rows"] == [{"id": 1}, {"id": 2}]


async def test_a_procedure_may_commit(db: Database) -> None:
    """TL-PG-04, TL-PG-06."""
    await db.data("CREATE TABLE t (id int)")
    await db.data(
        "CREATE PROCEDURE p(INOUT n int) LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO t VALUES (n); COMMIT; n := n + 1; END $$"
    )
    data = await db.data("CALL p(1)")
    assert data["rows"] == [{"n": 2}]
    assert await db.value("count(*) FROM t") == 1


async def test_a_transaction_left_open_is_rolled_back_and_said(db: Database) -> None:
    """TL-PG-04."""
    await db.data("CREATE TABLE t (id int)")
    error = await db.failure("BEGIN; INSERT INTO t VALUES (1)")
    assert error.failure.code == "25000"
    assert "left a transaction open" in error.failure.message
    assert await db.value("count(*) FROM t") == 0
