"""The ``duckdb`` and ``ducklake`` tools on real files (TL §3.5, §3.6)."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pytest
import tool_calls

from tools.contract import ToolLimits
from tools.doors.duck import MEMORY, Duck, Opening, failure_of, installed
from tools.doors.duck_secrets import access_of
from tools.errors import ToolCallError
from tools.kinds.duckdb import Duckdb
from tools.kinds.ducklake import Ducklake, attach, run_statements

pytestmark = pytest.mark.anyio


class Lab:
    """The tool with a data directory of its own."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.folder = folder
        self.limits = ToolLimits(data_dir=str(folder), **limits)
        self.tool = Duckdb(self.limits)

    async def data(self, query: Any, **config: Any) -> Any:
        return (
            await tool_calls.run(self.tool, self.limits, query=query, **config)
        ).data

    async def failure(self, query: Any, **config: Any) -> ToolCallError:
        return await tool_calls.failing(self.tool, self.limits, query=query, **config)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "data", rows_max=3000)


async def test_steps_of_one_execution_share_a_file(lab: Lab) -> None:
    """TL-DK-01."""
    await lab.data("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    assert (await lab.data("SELECT id FROM t"))["rows"] == [{"id": 1}]
    assert (lab.folder / "noetldb" / "duckdb_7.duckdb").exists()
    other = tool_calls.context(lab.limits, execution_id="8")
    config = lab.tool.validate({"query": "SELECT * FROM t"})
    with pytest.raises(ToolCallError, match="does not exist"):
        await lab.tool.run(config, other)


async def test_memory_is_of_one_call(lab: Lab) -> None:
    """TL-DK-01."""
    await lab.data("CREATE TABLE t (id int)", database=":memory:")
    error = await lab.failure("SELECT * FROM t", database=":memory:")
    assert (error.failure.kind, error.failure.code) == ("db_error", "CatalogException")


@pytest.mark.parametrize("path", ["../out.duckdb", "/etc/x.duckdb", "a/../../b"])
async def test_a_database_outside_the_roots_is_refused(lab: Lab, path: str) -> None:
    """TL-DK-01, TL-SEC-04."""
    for key in ("database", "db_path", "path"):
        error = await lab.failure("SELECT 1", **{key: path})
        assert error.failure.kind == "configuration"
        assert "outside the directories" in error.failure.message


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '/tmp/noetl-out.csv'",
        "ATTACH '/tmp/noetl-other.duckdb'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_text('{data}/../../../etc/hostname')",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "INSTALL httpfs",
        "LOAD httpfs",
    ],
)
async def test_sql_cannot_leave_the_roots(lab: Lab, query: str) -> None:
    """TL-DK-06, TL-SEC-04."""
    error = await lab.failure(query.format(data=lab.folder), database=":memory:")
    assert error.failure.code in (
        "PermissionException",
        "InvalidInputException",
        "IOException",
    )


async def test_files_below_the_roots_are_read_and_written(tmp_path: Path) -> None:
    """TL-DK-06, TL-SEC-04."""
    root = tmp_path / "root"
    root.mkdir()
    lab = Lab(tmp_path / "data", file_roots=(str(root),))
    await lab.data(f"COPY (SELECT 5 AS n) TO '{root}/n.csv'", database=":memory:")
    data = await lab.data(f"SELECT n FROM '{root}/n.csv'", database=":memory:")
    assert data["rows"] == [{"n": 5}]


@pytest.mark.parametrize(
    ("query", "columns", "rows", "count", "affected"),
    [
        ("SELECT 1 AS a, 2 AS a", ["a", "a_2"], [[1, 2]], 1, 0),
        ("-- x\nWITH q AS (SELECT 1 AS a) SELECT a FROM q", ["a"], [[1]], 1, 0),
        ('SELECT 5 AS "Count"', ["Count"], [[5]], 1, 0),
        ("SELECT 1 AS a WHERE false", ["a"], [], 0, 0),
        ("FROM t", ["id"], [[1]], 1, 0),
        ("VALUES (7)", ["col0"], [[7]], 1, 0),
        ("INSERT INTO t VALUES (2), (3)", [], [], 2, 2),
        ("INSERT INTO t VALUES (2) RETURNING id", ["id"], [[2]], 1, 1),
        ("DELETE FROM t WHERE false", [], [], 0, 0),
        ("CREATE TABLE u (id int)", [], [], 0, 0),
    ],
)
async def test_rows_are_told_by_the_kind_of_statement(
    lab: Lab, query: str, columns: list[str], rows: list[Any], count: int, affected: int
) -> None:
    """TL-DK-03."""
    data = await lab.data(
        f"CREATE TABLE t (id int); INSERT INTO t VALUES (1); {query}", as_objects=False
    )
    found = (data["columns"], data["rows"], data["row_count"], data["affected_rows"])
    assert found == (columns, rows, count, affected)


async def test_earlier_row_sets_are_views_by_number(lab: Lab) -> None:
    """TL-DK-03, TL-PG-08."""
    data = await lab.data("SELECT 1 AS a; SELECT 2 AS b", database=":memory:")
    assert data["statement_count"] == 2
    assert data["command_0"]["rows"] == [{"a": 1}]
    assert "command_1" not in data


TYPES = [
    ("date '2024-01-02'", "2024-01-02"),
    ("time '01:02:03'", "01:02:03"),
    ("timestamp '2024-01-02 03:04:05'", "2024-01-02T03:04:05"),
    ("timestamptz '2024-01-02 03:04:05+02'", "2024-01-02T01:04:05+00:00"),
    ("1.50::decimal(10,2)", "1.50"),
    ("170141183460469231731687303715884105727::hugeint", str(2**127 - 1)),
    ("'ab'::blob", base64.b64encode(b"ab").decode()),
    ("[1, 2]", [1, 2]),
    ("{'a': 1, 'b': [date '2024-01-01']}", {"a": 1, "b": ["2024-01-01"]}),
    ("map {'k': 1}", {"k": 1}),
    ("union_value(num := 2)", 2),
    ("interval '3 days 4 hours 5.5 seconds'", "P3DT4H5.5S"),
    ("'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ("'a'::enum('a', 'b')", "a"),
    ("'nan'::double", None),
    ("'{\"a\": [1]}'::json", {"a": [1]}),
    ("null::int", None),
    ("true", True),
]  # fmt: skip


async def test_every_type_has_its_json(lab: Lab) -> None:
    """TL-DK-04; more columns than a hundred are all there."""
    wanted = TYPES * 8
    query = ", ".join(f"{sql} AS c{n}" for n, (sql, _) in enumerate(wanted))
    row = (await lab.data(f"SELECT {query}", database=":memory:"))["rows"][0]
    for number, (sql, expected) in enumerate(wanted):
        assert row[f"c{number}"] == expected, sql


async def test_parameters_are_bound(lab: Lab) -> None:
    data = await lab.data("SELECT $1 + 1 AS n", params=[4], database=":memory:")
    assert data["rows"] == [{"n": 5}]
    data = await lab.data("SELECT $x AS n", params={"x": "a"}, database=":memory:")
    assert data["rows"] == [{"n": "a"}]
    error = await lab.failure("SELECT $1; SELECT 1", params=[4])
    assert "only one statement" in error.failure.message


async def test_an_error_names_the_statement(lab: Lab) -> None:
    """TL-DK-09."""
    error = await lab.failure("SELECT 1; SELEC 2", database=":memory:")
    assert (error.failure.kind, error.failure.code) == ("db_error", "ParserException")
    assert error.failure.message.startswith("statement 1: Parser Error")


async def test_too_many_rows_or_bytes_are_a_limit(tmp_path: Path, lab: Lab) -> None:
    """TL-DK-08, TL-LIM-04."""
    error = await lab.failure("SELECT * FROM range(100000000)", database=":memory:")
    assert (error.failure.kind, error.failure.code) == ("limit", "rows_max")
    small = Lab(tmp_path / "small", result_bytes_max=10_000)
    error = await small.failure("SELECT repeat('x', 100) FROM range(1000)")
    assert error.failure.code == "result_bytes_max"


async def test_memory_and_threads_are_bounded(lab: Lab) -> None:
    query = (
        "SELECT current_setting('memory_limit') AS m, current_setting('threads') AS t"
    )
    data = await lab.data(query, database=":memory:")
    assert data["rows"] == [{"m": "953.6 MiB", "t": 2}]
    data = await lab.data(query, database=":memory:", memory_limit="64MiB", threads="1")
    assert data["rows"] == [{"m": "64.0 MiB", "t": 1}]
    error = await lab.failure(query, memory_limit="lots")
    assert error.failure.kind == "configuration"
    assert "memory_limit" in error.failure.message


ENDLESS = "SELECT count(*) FROM range(100000000000) a"


async def test_cancelling_stops_the_query_and_frees_the_file(lab: Lab) -> None:
    """TL-LIM-02, TL-LIM-03: the event loop turns while the query runs."""
    turns = 0
    began = time.monotonic()
    with anyio.move_on_after(0.3) as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lab.data, f"CREATE TABLE t (id int); {ENDLESS}")
            while True:
                await anyio.sleep(0.01)
                turns += 1
    assert scope.cancelled_caught
    assert turns > 5
    assert time.monotonic() - began < 10
    assert (await lab.data("SELECT 1 AS x"))["rows"] == [{"x": 1}]


async def test_calls_on_one_file_take_turns(lab: Lab) -> None:
    """TL-DK-02."""
    await lab.data("CREATE TABLE t (id int)")

    async def insert(number: int) -> None:
        await lab.data(f"INSERT INTO t VALUES ({number})")

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(insert, number)
    assert (await lab.data("SELECT count(*) AS n FROM t"))["rows"] == [{"n": 8}]


HOLDER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


async def test_a_file_another_process_holds_is_waited_for(
    lab: Lab, tmp_path: Path
) -> None:
    """TL-DK-02."""
    path = lab.folder / "shared.duckdb"
    path.parent.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: lab.data("SELECT 1", database="shared.duckdb"))
            await anyio.sleep(0.1)
            holder.stdin.close()
            holder.wait()


async def test_what_was_written_is_in_the_file_itself(lab: Lab) -> None:
    """TL-DK-07: no write-ahead log is left beside it."""
    await lab.data("CREATE TABLE t AS SELECT * FROM range(10)")
    folder = lab.folder / "noetldb"
    assert [path.name for path in folder.iterdir()] == ["duckdb_7.duckdb"]
    with duckdb.connect(str(folder / "duckdb_7.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (10,)


async def test_read_only_writes_nothing(lab: Lab) -> None:
    await lab.data("CREATE TABLE t (id int)")
    error = await lab.failure("INSERT INTO t VALUES (1)", read_only="true")
    assert error.failure.code == "InvalidInputException"


def test_credentials_become_secrets_of_the_connection() -> None:
    """TL-DK-05."""
    access = access_of(
        {
            "auth": {
                "pg": {"type": "postgres", "host": "h", "password": "it's"},
                "lake": {"service": "s3", "access_key_id": "k", "region": "eu-1"},
            },
            "gcs_credential": {"key_id": "k", "secret_key": "s", "scope": "gs://b"},
        }
    )
    assert access.extensions == ("postgres", "httpfs")
    assert access.urls == ("s3://", "gs://b")
    assert access.statements == (
        "CREATE TEMPORARY SECRET \"pg\" (TYPE POSTGRES, HOST 'h', PASSWORD 'it''s')",
        "CREATE TEMPORARY SECRET \"lake\" (TYPE S3, KEY_ID 'k', REGION 'eu-1')",
        'CREATE TEMPORARY SECRET "gcs_credential" '
        "(TYPE GCS, KEY_ID 'k', SECRET 's', SCOPE 'gs://b')",
    )
    with pytest.raises(ToolCallError, match=r"auth\.x\.type must be one of"):
        access_of({"auth": {"x": {"type": "ftp"}}})


@pytest.mark.skipif(installed("httpfs"), reason="the extension is here")
async def test_an_extension_that_is_not_there_is_named(lab: Lab) -> None:
    """TL-DK-06, TL-IDX-02: nothing is downloaded unless allowed."""
    auth = {"type": "s3", "access_key_id": "k"}
    error = await lab.failure("SELECT 1", auth=auth, database=":memory:")
    assert error.failure.kind == "configuration"
    assert "extension 'httpfs' is not installed" in error.failure.message


LAKE = {"catalog_connection": "postgresql://u:pass'word@h/c", "data_path": "lake"}


@pytest.mark.skipif(installed("ducklake"), reason="the extension is here")
def test_a_lake_without_its_extension_is_refused_at_validation(lab: Lab) -> None:
    """TL-IDX-02."""
    with pytest.raises(ToolCallError) as caught:
        Ducklake(lab.limits).validate({**LAKE, "query": "SELECT 1"})
    assert caught.value.failure.kind == "configuration"
    assert "needs DuckDB's extension 'ducklake'" in caught.value.failure.message


async def test_a_lakes_result_tells_of_every_statement(lab: Lab) -> None:
    """TL-DL-03, TL-DL-04: the statements of a lake, run in a database in memory."""
    config: Any = {"as_objects": True, "name": "lake", "data_path": "files"}
    statements = [
        "CREATE TABLE t (id int)",
        "INSERT INTO t VALUES (1), (2)",
        "SELECT id FROM t",
    ]
    async with Duck(lab.limits).session(Opening(place=MEMORY)) as session:
        data: Any = await run_statements(session, {**config, "statements": statements})
        with pytest.raises(ToolCallError) as caught:
            await run_statements(
                session,
                {**config, "statements": ["SELECT 1 AS a", "SELEC", "SELECT 3"]},
            )
    assert (data["command_count"], data["rows"], data["row_count"]) == (
        3,
        [{"id": 1}, {"id": 2}],
        2,
    )
    assert data["commands"][1] == {
        "command_index": 1, "status": "success", "columns": [], "row_count": 2, "affected_rows": 2,
    }  # fmt: skip
    assert data["catalog_info"] == {"catalog_name": "lake", "data_path": "files"}
    failed: Any = caught.value.data
    assert (failed["command_count"], failed["commands"][0]["rows"]) == (1, [{"a": 1}])


def test_writers_in_each_others_way_may_try_again() -> None:
    """TL-DL-04."""
    failure = failure_of(duckdb.TransactionException("conflict"), "statement 0").failure
    assert (failure.kind, failure.retryable) == ("db_deadlock", True)


def test_a_lake_is_attached_by_quoted_names(tmp_path: Path) -> None:
    """TL-DL-01, TL-DL-02."""
    limits = ToolLimits(data_dir=str(tmp_path), duckdb_allow_install=True)
    tool = Ducklake(limits)
    config = tool.validate(
        {**LAKE, "catalog_name": 'my"lake', "create_catalog": "no", "query": "SELECT 1"}
    )
    connection = (
        "host='h' port='5432' dbname='c' user='u' password='pass\\'word' sslmode='prefer'"
    ).replace("'", "''")
    assert attach(config) == [
        f'ATTACH \'ducklake:postgres:{connection}\' AS "my""lake" '
        f"(DATA_PATH '{tmp_path}/lake', CREATE_IF_NOT_EXISTS false)",
        'USE "my""lake"',
    ]
    with pytest.raises(ToolCallError, match="data_path is required"):
        tool.validate({"catalog_connection": "host=h", "query": "SELECT 1"})
    with pytest.raises(ToolCallError, match=r"data_path: '\.\./x' is outside"):
        tool.validate({**LAKE, "data_path": "../x", "query": "SELECT 1"})
