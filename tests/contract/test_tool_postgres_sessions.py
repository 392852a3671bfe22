"""Sessions, limits and errors of the ``postgres`` tool on a real server (TL §3.4)."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import asyncpg
import pytest
import tool_calls
from pg_service import PgServer
from postgres_tool import Database, db, dsn, pg_server
from services import free_port

from tools.contract import ToolLimits
from tools.errors import ToolCallError
from tools.kinds.postgres import Postgres

__all__ = ["db", "dsn", "pg_server"]

pytestmark = pytest.mark.anyio


async def test_nothing_of_a_session_reaches_the_next_command(
    pg_server: PgServer,
) -> None:
    """TL-PG-11: one connection, used again."""
    db = Database(pg_server.create_database(), ToolLimits(pg_connections_max=1))
    await db.data('CREATE SCHEMA "my schema"; CREATE TABLE "my schema".t (id int)')
    first = await db.data(
        "SELECT pg_backend_pid() AS pid; SET work_mem = '1MB'; "
        "CREATE TEMP TABLE x (id int); PREPARE p AS SELECT 1; LISTEN a; "
        "SELECT pg_advisory_lock(7); SELECT pg_backend_pid() AS pid"
    )
    data = await db.data(
        "SELECT pg_backend_pid() AS pid, current_setting('work_mem') AS mem,"
        " to_regclass('x')::text AS temp, (SELECT count(*) FROM pg_prepared_statements"
        " WHERE NOT from_sql IS false) AS prepared,"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS locks,"
        " (SELECT count(*) FROM pg_listening_channels()) AS listens,"
        " current_setting('search_path') AS path"
    )  # fmt: skip
    row = data["rows"][0]
    assert row["pid"] == first["rows"][0]["pid"]
    assert (row["mem"], row["temp"], row["locks"], row["listens"]) == (
        "4MB",
        None,
        0,
        0,
    )
    assert row["prepared"] == 0
    await db.data("SELECT * FROM t", schema="my schema")
    error = await db.failure("SELECT * FROM t")
    assert error.failure.code == "42P01"
    assert (await db.data("SHOW search_path"))["rows"][0]["search_path"] == row["path"]
    await db.tool.close()


async def test_what_a_trigger_left_does_not_reach_the_next_command(
    pg_server: PgServer,
) -> None:
    """TL-PG-11: nothing in the text of the statement tells of it."""
    db = Database(pg_server.create_database(), ToolLimits(pg_connections_max=1))
    await db.data(
        "CREATE TABLE t (id int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN CREATE TEMP TABLE x (id int); PERFORM pg_advisory_lock(7);"
        " PERFORM set_config('work_mem', '1MB', false); LISTEN a; RETURN NEW; END $$;"
        " CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    for _ in range(2):
        assert (await db.data("INSERT INTO t VALUES (1)"))["affected_rows"] == 1
        data = await db.data(
            "SELECT current_setting('work_mem') AS mem, to_regclass('x')::text AS temp,"
            " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS locks,"
            " (SELECT count(*) FROM pg_listening_channels()) AS listens,"
            " current_setting('statement_timeout') AS time"
        )
        assert data["rows"] == [
            {"mem": "4MB", "temp": None, "locks": 0, "listens": 0, "time": "1min"}
        ]
    await db.tool.close()


async def test_one_statement_is_all_or_nothing(db: Database) -> None:
    """TL-PG-04: also where the rows it returns are too many."""
    await db.data("CREATE TABLE t (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    error = await db.failure(
        "INSERT INTO t SELECT generate_series(1, 9999) RETURNING 1"
    )
    assert error.failure.code == "rows_max"
    for returning in ("", " RETURNING id"):
        error = await db.failure(f"INSERT INTO t VALUES (1), (2), (1){returning}")
        assert (error.failure.kind, error.failure.code) == ("db_constraint", "23505")
    assert await db.value("(SELECT count(*) FROM t)") == 0


@pytest.mark.parametrize(
    "query", ["LOCK TABLE t", "SAVEPOINT s", "DECLARE c CURSOR FOR SELECT 1"]
)
async def test_one_statement_may_want_a_transaction_block(
    db: Database, query: str
) -> None:
    """TL-PG-04."""
    await db.data("CREATE TABLE t (id int)")
    assert (await db.data(query))["statement_count"] == 1


async def test_session_defaults_hold(db: Database) -> None:
    """TL-PG-13."""
    data = await db.data(
        "SELECT current_setting('application_name') AS name,"
        " current_setting('statement_timeout') AS statement,"
        " current_setting('idle_in_transaction_session_timeout') AS idle"
    )
    assert data["rows"] == [
        {"name": "noetl:7:load", "statement": "1min", "idle": "45s"}
    ]
    assert db.tool.default_timeout_s({}) == 60.0
    assert db.tool.timeout_as == ("db_timeout", "57014")


async def test_a_command_out_of_time_is_cancelled_on_the_server(db: Database) -> None:
    """TL-PG-13, TL-LIM-02."""
    config = db.tool.validate(
        {"connection_string": db.dsn, "query": "SELECT pg_sleep(60) -- slow"}
    )
    with pytest.raises(ToolCallError) as caught:
        await db.tool.run(config, tool_calls.context(db.limits, timeout_s=0.2))
    assert caught.value.failure.kind == "db_timeout"
    assert caught.value.failure.retryable
    assert caught.value.failure.code == "57014"
    await _nobody_runs(db, "slow")


async def test_a_cancelled_command_stops_on_the_server(db: Database) -> None:
    """TL-LIM-02: no orphan statements, no leaked connections."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(db.data, "SELECT pg_sleep(60) -- orphan")
        await _somebody_runs(db, "orphan")
        tasks.cancel_scope.cancel()
    await _nobody_runs(db, "orphan")
    assert await db.value("1") == 1


async def _running(db: Database, mark: str) -> int:
    connection = await asyncpg.connect(db.dsn)
    try:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
                " AND pid <> pg_backend_pid() AND query LIKE $1",
                f"%{mark}%",
            )
        )
    finally:
        await connection.close()


async def _nobody_runs(db: Database, mark: str) -> None:
    with anyio.fail_after(10):
        while await _running(db, mark):
            await anyio.sleep(0.02)


async def _somebody_runs(db: Database, mark: str) -> None:
    with anyio.fail_after(10):
        while not await _running(db, mark):
            await anyio.sleep(0.02)


async def test_a_killed_session_is_a_connection_error_and_the_next_one_works(
    db: Database,
) -> None:
    """TL-ERR-02, TL-PG-12: dropped mid-query; never silently sent again."""
    errors: list[ToolCallError] = []

    async def slow() -> None:
        errors.append(await db.failure("SELECT pg_sleep(60) -- dropped"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow)
        await _somebody_runs(db, "dropped")
        connection = await asyncpg.connect(db.dsn)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE '%-- dropped'"
        )
        await connection.close()
    assert errors[0].failure.kind == "db_connection"
    assert errors[0].failure.retryable
    assert await db.value("1") == 1


@pytest.mark.parametrize(
    ("query", "kind", "code", "retryable"),
    [
        ("SELECT 1/0", "db_error", "22012", False),
        ("INSERT INTO t VALUES (1)", "db_constraint", "23505", False),
        ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", "db_deadlock", "40001", True),
        ("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", "db_deadlock", "40P01", True),
        ("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$", "db_timeout", "55P03", True),
        ("DO $$ BEGIN RAISE SQLSTATE '53300'; END $$", "db_connection", "53300", True),
        ("DO $$ BEGIN RAISE SQLSTATE '57P03'; END $$", "db_connection", "57P03", True),
        ("DO $$ BEGIN RAISE SQLSTATE '08006'; END $$", "db_connection", "08006", True),
        ("DO $$ BEGIN RAISE SQLSTATE '28000'; END $$", "auth", "28000", False),
    ],
)
async def test_an_sqlstate_says_what_kind_of_error_it_is(
    db: Database, query: str, kind: str, code: str, retryable: bool
) -> None:
    """TL-ERR-02."""
    await db.data("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    error = await db.failure(query)
    failure = error.failure
    assert (failure.kind, failure.code, failure.retryable) == (kind, code, retryable)
    pg: Any = error.helpers["pg"]
    assert (pg["code"], pg["sqlstate"]) == (code, code)


async def test_an_error_tells_statement_position_detail_and_hint(db: Database) -> None:
    """TL-ERR-03, TL-PG-15."""
    error = await db.failure("SELECT 1; SELECT nme FROM (SELECT 1 AS name) AS t")
    assert error.failure.message == (
        "statement 1 [SELECT nme FROM (SELECT 1 AS name) AS t]: ERROR: "
        'column "nme" does not exist at character 9 (SQLSTATE 42703) | '
        'HINT: Perhaps you meant to reference the column "t.name".'
    )
    assert error.helpers["pg"] == {
        "code": "42703",
        "sqlstate": "42703",
        "statement": 1,
        "position": 9,
        "constraint": None,
    }


async def test_too_many_rows_or_bytes_are_a_limit_not_a_cut(db: Database) -> None:
    """TL-LIM-04: memory is bounded before the whole set is read."""
    error = await db.failure("SELECT generate_series(1, 100000000)")
    assert (error.failure.kind, error.failure.code) == ("limit", "rows_max")
    assert "more than 3,000 rows" in error.failure.message
    assert (await db.data("SELECT generate_series(1, 3000)"))["row_count"] == 3000
    limits = ToolLimits(result_bytes_max=100_000)
    small = Database(db.dsn, limits)
    query = "SELECT repeat('x', 1000) FROM generate_series(1, 100000)"
    error = await small.failure(query)
    assert (error.failure.kind, error.failure.code) == ("limit", "result_bytes_max")
    error = await small.failure(f"BEGIN; {query}; COMMIT")
    assert error.failure.code == "result_bytes_max"
    await small.tool.close()


async def test_copy_to_the_client_is_refused_with_the_way_out(db: Database) -> None:
    error = await db.failure("COPY (SELECT 1) TO STDOUT")
    assert error.failure.kind == "configuration"
    assert "transfer tool" in error.failure.message


async def test_an_address_is_wanted(db: Database) -> None:
    """TL-PG-01."""
    error = await tool_calls.failing(db.tool, db.limits, query="SELECT 1")
    assert error.failure.kind == "configuration"
    assert (
        "needs a connection_string, a host, or an auth block" in error.failure.message
    )


async def test_an_auth_block_is_an_address(db: Database, pg_server: PgServer) -> None:
    """TL-PG-01: and a field of the step wins."""
    auth = {"host": "127.0.0.1", "port": str(pg_server.port), "user": "postgres"}
    database = db.dsn.rpartition("/")[2]
    for config in (
        {"auth": {**auth, "database": "no"}, "database": database},
        {"auth": {f"db_{key}": value for key, value in auth.items()}, "dbname": database},
        {"connection_string": f"host=127.0.0.1 port={pg_server.port} user=postgres "
                              f"dbname='{database}' sslmode=disable"},
    ):  # fmt: skip
        result = await tool_calls.run(
            db.tool, db.limits, query="SELECT current_database() AS d", **config
        )
        assert result.data["rows"] == [{"d": database}]  # type: ignore[index, call-overload]


async def test_a_password_never_comes_from_the_workers_surroundings(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TL-PG-16."""
    monkeypatch.setenv("PGPASSWORD", "of-the-worker")
    monkeypatch.setenv("PGUSER", "of-the-worker")
    monkeypatch.setenv("PGHOST", "10.255.255.1")
    host, port = db.dsn.partition("@")[2].partition("/")[0].split(":")
    data = await tool_calls.run(
        db.tool, db.limits, query="SELECT current_user AS u", host=host, port=port
    )
    assert data.data["rows"] == [{"u": "postgres"}]  # type: ignore[index, call-overload]


async def test_nobody_at_the_address_is_a_retryable_connection_error(
    db: Database,
) -> None:
    """TL-ERR-02, TL-PG-12."""
    error = await tool_calls.failing(
        db.tool, db.limits, query="SELECT 1", host="127.0.0.1", port=free_port(),
        password="hunter2-secret",
    )  # fmt: skip
    assert error.failure.kind == "db_connection"
    assert error.failure.retryable
    assert "cannot be reached" in error.failure.message
    assert "hunter2" not in error.failure.message


async def test_a_wrong_password_is_refused_once(tmp_path: Any) -> None:
    """TL-ERR-02: SQLSTATE 28P01."""
    server = PgServer()
    hba = server.data / "pg_hba.conf"
    server.start()
    try:
        connection = await asyncpg.connect(server.url())
        await connection.execute("CREATE ROLE a LOGIN PASSWORD 'right-one'")
        await connection.close()
        server.stop()
        hba.write_text("host all a 127.0.0.1/32 scram-sha-256\n")
        server.start()
        tool = Postgres(ToolLimits())
        where = {"host": "127.0.0.1", "port": server.port, "user": "a"}
        error = await tool_calls.failing(
            tool, ToolLimits(), query="SELECT 1", password="wrong-one", **where
        )
        assert (error.failure.kind, error.failure.code) == ("auth", "28P01")
        assert not error.failure.retryable
        assert "wrong-one" not in error.failure.message
        result = await tool_calls.run(
            tool, ToolLimits(), query="SELECT 1 AS x", password="right-one", **where
        )
        assert result.data["rows"] == [{"x": 1}]  # type: ignore[index, call-overload]
        await tool.close()
    finally:
        server.remove()


async def test_tls_that_cannot_be_is_said(db: Database) -> None:
    """TL-PG-14: require does not fall back."""
    error = await db.failure("SELECT 1", connection_string=db.dsn + "?sslmode=require")
    assert error.failure.kind in ("db_connection", "db_error")
    error = await db.failure("SELECT 1", connection_string=db.dsn + "?sslmode=maybe")
    assert "sslmode must be one of" in error.failure.message


@pytest.mark.parametrize(
    "text", ["mysql://a:hunter2@h/d", "hunter2", "postgresql://h:hunter2/d", "host='hunter2"]
)  # fmt: skip
async def test_a_bad_connection_string_is_said_without_its_text(
    db: Database, text: str
) -> None:
    error = await db.failure("SELECT 1", connection_string=text)
    assert error.failure.kind == "configuration"
    assert "connection_string is neither a URL" in error.failure.message
    assert "hunter2" not in error.failure.message


async def test_connections_stay_within_the_workers_number(pg_server: PgServer) -> None:
    """TL-PG-12: twelve commands to three databases, three connections at most."""
    limits = ToolLimits(pg_connections_max=3)
    tool = Postgres(limits)
    dsns = [pg_server.create_database() for _ in range(3)]
    watcher = await asyncpg.connect(pg_server.url())
    most = 0
    done = 0

    async def one(number: int) -> None:
        nonlocal done
        await tool_calls.run(
            tool,
            limits,
            query="SELECT pg_sleep(0.03)",
            connection_string=dsns[number % 3],
        )
        done += 1

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(one, number)
        while done < 12:
            count = await watcher.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'noetl:%'"
            )
            most = max(most, count)
    assert 1 <= most <= 3
    await tool.close()
    await watcher.close()


async def test_a_server_that_never_answers_is_given_up(db: Database) -> None:
    """A listener that accepts and is silent costs the command's time, no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = db.tool.validate(
            {
                "query": "SELECT 1",
                "host": "127.0.0.1",
                "port": listener.getsockname()[1],
            }
        )
        with anyio.move_on_after(0.3) as scope:
            await db.tool.run(config, tool_calls.context(db.limits))
        assert scope.cancelled_caught
