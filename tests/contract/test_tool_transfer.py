"""The ``transfer`` tool between real servers and files (TL §3.8)."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import duckdb
import pytest
import tool_calls
from pg_service import PgServer, pg_server

from state_builder.credentials import Credential
from tools.auth import authorize
from tools.contract import ToolLimits
from tools.errors import ToolCallError
from tools.kinds.transfer import Transfer

__all__ = ["pg_server"]

pytestmark = pytest.mark.anyio


class Lab:
    """Two databases, a data directory and the tool between them."""

    def __init__(self, dsns: tuple[str, str], folder: Path) -> None:
        self.source, self.target = dsns
        self.folder = folder
        self.limits = ToolLimits(data_dir=str(folder))
        self.tool = Transfer(self.limits)
        self.duck = str(folder / "noetldb" / "duckdb_7.duckdb")
        Path(self.duck).parent.mkdir(parents=True)

    def ends(self, rows: str, table: str | None = "t", **target: Any) -> dict[str, Any]:
        """From a query of one database to a table of the other."""
        return {
            "source": {"type": "postgres", "connection_string": self.source, "query": rows},
            "target": {
                "type": "postgres", "connection_string": self.target, "table": table, **target,
            },
        }  # fmt: skip

    async def data(self, **config: Any) -> Any:
        return (await tool_calls.run(self.tool, self.limits, **config)).data

    async def failure(self, **config: Any) -> ToolCallError:
        return await tool_calls.failing(self.tool, self.limits, **config)

    async def sql(self, text: str, dsn: str = "") -> Any:
        connection = await asyncpg.connect(dsn or self.target)
        try:
            if text.startswith("SELECT"):
                return [tuple(row) for row in await connection.fetch(text)]
            return await connection.execute(text)
        finally:
            await connection.close()

    def in_duck(self, text: str) -> Any:
        with duckdb.connect(self.duck) as connection:
            return connection.execute(text).fetchall()


@pytest.fixture(scope="module")
def dsns(pg_server: PgServer) -> tuple[str, str]:
    return pg_server.create_database(), pg_server.create_database()


@pytest.fixture
async def lab(dsns: tuple[str, str], tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(dsns, tmp_path)
    await lab.sql("CREATE TABLE t (id int PRIMARY KEY, name text, at timestamptz)")
    yield lab
    await lab.tool.close()
    for dsn in dsns:
        await lab.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public", dsn)


ROWS = "SELECT g AS id, 'n' || g AS name, '2024-01-01 UTC'::timestamptz AS at FROM generate_series(1, 2500) g"


async def test_rows_move_between_servers(lab: Lab) -> None:
    """TL-TR-01, TL-TR-09, TL-TR-10."""
    data = await lab.data(**lab.ends(ROWS))
    assert data == {
        "status": "success",
        "direction": "postgres_to_postgres",
        "source_type": "postgres",
        "target_type": "postgres",
        "mode": "append",
        "rows_transferred": 2500,
        "chunks_processed": 3,
        "target_table": "t",
        "columns": ["id", "name", "at"],
    }
    assert await lab.sql("SELECT count(*), sum(id), max(name) FROM t") == [
        (2500, 3126250, "n999")
    ]


async def test_every_value_survives_the_way(lab: Lab) -> None:
    """TL-TR-05: null is not the empty text; escapes, arrays, bytes, json."""
    columns = (
        "a text, b text, c text[], d bytea, e jsonb, f interval, g numeric, h float8,"
        " i date, j bool"
    )
    values = (
        "null, '', array['x,\"y\"', null, '\\'], '\\x00ff'::bytea, '{\"k\": [1]}'::jsonb,"
        " '1 mon 2 days'::interval, 'NaN'::numeric, 'Infinity'::float8, 'infinity'::date, true"
    )
    await lab.sql(f"CREATE TABLE v ({columns})", lab.source)
    await lab.sql(
        f"INSERT INTO v VALUES ({values}), (E'tab\\tnew\\nline\\\\'{', null' * 9})",
        lab.source,
    )
    await lab.sql(f"CREATE TABLE w ({columns})")
    await lab.data(**lab.ends("SELECT * FROM v", "w"))
    text = "SELECT (t.*)::text FROM {} t ORDER BY 1"
    assert await lab.sql(text.format("w")) == await lab.sql(
        text.format("v"), lab.source
    )


async def test_a_mapping_names_columns_and_leaves_out_the_rest(lab: Lab) -> None:
    """TL-TR-03."""
    query = "SELECT 1 AS x, 'a' AS y, 'unused' AS z -- a comment"
    data = await lab.data(**lab.ends(query), mapping={"name": "y", "id": "x"})
    assert data["columns"] == ["name", "id"]
    assert await lab.sql("SELECT id, name FROM t") == [(1, "a")]


async def test_texts_become_what_the_target_wants(lab: Lab) -> None:
    """TL-TR-05."""
    query = "SELECT '12' AS id, 5 AS name, '2024-02-29T00:00:00Z' AS at"
    await lab.data(**lab.ends(query))
    assert await lab.sql(
        "SELECT id, name, at::text FROM t WHERE id = 12 AND name = '5'"
    )


async def test_a_value_that_does_not_fit_is_named_and_nothing_is_written(
    lab: Lab,
) -> None:
    """TL-TR-05, TL-TR-09, TL-TR-10."""
    query = "SELECT CASE g WHEN 1500 THEN 'x' ELSE g::text END AS id FROM generate_series(1, 2000) g"
    error = await lab.failure(**lab.ends(query))
    assert (error.failure.kind, error.failure.code) == ("db_error", "22P02")
    assert "row 1500, column 'id'" in error.failure.message
    data: Any = error.data
    assert data["rows_transferred"] == 0
    assert await lab.sql("SELECT count(*) FROM t") == [(0,)]


async def test_replace_keeps_the_old_rows_when_it_fails(lab: Lab) -> None:
    """TL-TR-07."""
    await lab.sql("INSERT INTO t VALUES (7, 'old')")
    error = await lab.failure(
        **lab.ends("SELECT 1 AS id FROM generate_series(1, 2)"), mode="replace"
    )
    assert error.failure.kind == "db_constraint"
    assert await lab.sql("SELECT id, name FROM t") == [(7, "old")]
    await lab.data(**lab.ends("SELECT 1 AS id"), mode="replace")
    assert await lab.sql("SELECT id, name FROM t") == [(1, None)]


async def test_upsert_changes_what_is_there_and_adds_the_rest(lab: Lab) -> None:
    """TL-TR-08: the last row of a key counts."""
    await lab.sql("INSERT INTO t VALUES (1, 'old', '2024-01-01'), (9, 'kept', null)")
    query = "SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (1, 'c')) AS v (id, name)"
    data = await lab.data(**lab.ends(query), mode="upsert")
    assert data["rows_transferred"] == 3
    assert await lab.sql("SELECT id, name, at IS NULL FROM t ORDER BY id") == [
        (1, "c", False),
        (2, "b", True),
        (9, "kept", True),
    ]
    await lab.sql("CREATE TABLE keyless (id int, name text)")
    error = await lab.failure(**lab.ends(query, "keyless"), mode="upsert")
    assert error.failure.kind == "configuration"
    assert "has no primary key" in error.failure.message
    await lab.sql("CREATE UNIQUE INDEX ON keyless (name)")
    data = await lab.data(
        **lab.ends(query, "keyless"), mode="upsert", key_columns=["name"]
    )
    assert await lab.sql("SELECT count(*) FROM keyless") == [(3,)]


@pytest.mark.parametrize(
    ("query", "table", "config", "message"),
    [
        ("SELECT 1 AS id", "nowhere", {}, "there is no table 'nowhere'"),
        ("SELECT 1 AS id", "a.b.c", {}, "is not table or schema.table"),
        (
            "SELECT 1 AS nme",
            "t",
            {},
            "public.t has no column 'nme' (it has: id, name, at)",
        ),
        (
            "SELECT 1 AS id",
            "t",
            {"mapping": {"id": "x"}},
            "the source gives no column 'x'",
        ),
        ("SELECT 1 AS id, 2 AS id", "t", {}, "the source gives id more than once"),
        ("SELECT 1; SELECT 2", "t", {}, "one statement gives the rows"),
        (
            "SELECT 1",
            "t",
            {"mode": "merge"},
            "mode must be one of append, replace, upsert",
        ),
        ("SELECT 1", "t", {"chunk_size": 0}, "chunk_size must be a whole number"),
        ("SELECT 1", None, {}, "either a table or a query"),
    ],
)
async def test_what_cannot_move_is_said_before_anything_is_written(
    lab: Lab, query: str, table: str | None, config: dict[str, Any], message: str
) -> None:
    """TL-TR-03."""
    error = await lab.failure(**lab.ends(query, table), **config)
    assert error.failure.kind == "configuration"
    assert message in error.failure.message


async def test_a_direction_that_is_not_there_lists_those_that_are(lab: Lab) -> None:
    """TL-TR-01."""
    error = await lab.failure(source={"type": "ftp"}, target={"tool": "postgres"})
    assert "no transfer goes ftp → postgres" in error.failure.message
    assert "postgres → postgres" in error.failure.message


async def test_each_end_has_a_credential_of_its_own(lab: Lab) -> None:
    """TL-TR-02: both are looked up before the transfer runs."""

    def fields(dsn: str) -> dict[str, Any]:
        host, port = dsn.partition("@")[2].partition("/")[0].split(":")
        return {
            "db_host": host,
            "db_port": port,
            "db_user": "postgres",
            "db_name": dsn.rpartition("/")[2],
        }

    stored = {"from": fields(lab.source), "to": fields(lab.target)}

    async def lookup(alias: str, want: object) -> Credential:
        return Credential(alias, "postgres", stored[alias])

    config = lab.ends("SELECT 5 AS id")
    for end, alias in (("source", "from"), ("target", "to")):
        del config[end]["connection_string"]
        config[end]["auth"] = alias
    await lab.data(**await authorize("transfer", config, lookup))
    assert await lab.sql("SELECT id FROM t") == [(5,)]
    error = await lab.failure(**config)
    assert "source.auth: credential 'from' was not resolved" in error.failure.message


async def test_tables_of_other_schemas_and_spellings_are_found(lab: Lab) -> None:
    """TL-TR-03: names are quoted."""
    await lab.sql('CREATE SCHEMA "My S"; CREATE TABLE "My S"."T;x" ("A b" int)')
    query = 'SELECT 5 AS "A b"'
    await lab.data(**lab.ends(query, "My S.T;x"))
    await lab.data(**lab.ends(query, "T;x", schema="My S"))
    assert await lab.sql('SELECT count(*) FROM "My S"."T;x"') == [(2,)]
    await lab.data(**lab.ends("SELECT 1 AS id", "PUBLIC.T"))
    await lab.sql('DROP SCHEMA "My S" CASCADE')


async def test_a_statement_runs_once_per_row(lab: Lab) -> None:
    """TL-TR-04."""
    query = "INSERT INTO t (id, name) VALUES (:id, :name || '!') ON CONFLICT DO NOTHING"
    source = "SELECT g AS id, g::text AS name FROM generate_series(1, 1200) g"
    data = await lab.data(**lab.ends(source, None, query=query))
    assert data["rows_transferred"] == 1200
    assert await lab.sql("SELECT count(*), max(name) FROM t WHERE name LIKE '%!'") == [
        (1200, "999!")
    ]
    bad = "SELECT CASE g WHEN 3 THEN 'x' ELSE (g + 5000)::text END AS id, '' AS name FROM generate_series(1, 5) g"
    error = await lab.failure(**lab.ends(bad, None, query=query))
    assert error.failure.message.startswith("row 3: params[0]")
    assert await lab.sql("SELECT count(*) FROM t") == [(1200,)]


class Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body: Any = {
            "/rows": {
                "data": {"items": [{"id": 1, "name": "é", "tags": [1]}, {"id": 2}]}
            },
            "/one": {"id": 5, "name": {"k": 1}},
        }.get(self.path.partition("?")[0])
        if self.headers.get("Authorization") == "Bearer no":
            body = None
        data = json.dumps(body).encode()
        self.send_response(200 if body else 503)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_an_api_fills_a_table(lab: Lab, api: str) -> None:
    """TL-TR-01, TL-TR-05, TL-TR-09: objects are rows, an object alone is one."""
    await lab.sql("CREATE TABLE a (id int, name text, tags jsonb)")
    target = lab.ends("", "a")["target"]
    source = {"kind": "http", "url": f"{api}/rows", "data_path": "data.items"}
    data = await lab.data(source=source, target=target)
    assert data["rows_transferred"] == 2
    await lab.data(source={"type": "http", "endpoint": f"{api}/one"}, target=target)
    assert await lab.sql("SELECT id, name, tags::text FROM a ORDER BY id") == [
        (1, "é", "[1]"),
        (2, None, None),
        (5, '{"k":1}', None),
    ]


async def test_an_api_that_does_not_give_rows_is_an_error(lab: Lab, api: str) -> None:
    """TL-TR-09."""
    target = lab.ends("")["target"]
    auth = {"type": "bearer", "token": "no"}
    error = await lab.failure(
        source={"type": "http", "url": f"{api}/rows", "auth": auth}, target=target
    )
    assert (error.failure.kind, error.failure.code) == ("server_error", "HTTP_503")
    assert error.failure.retryable
    source = {"type": "http", "url": f"{api}/rows", "data_path": "data.rows"}
    error = await lab.failure(source=source, target=target)
    assert "has no 'rows' in 'data.rows'" in error.failure.message


async def test_duckdb_fills_a_table(lab: Lab) -> None:
    """TL-TR-01: of the execution's own file."""
    lab.in_duck(
        "CREATE TABLE d AS SELECT range::int AS id, 'x' || range AS name,"
        " timestamptz '2024-01-01 00:00:00+00' AS at FROM range(3000)"
    )
    source = {"type": "duckdb", "query": "SELECT * FROM d"}
    data = await lab.data(source=source, target=lab.ends("")["target"])
    assert data["rows_transferred"] == 3000
    assert await lab.sql("SELECT count(*), sum(id), min(at)::text FROM t") == [
        (3000, 4498500, "2024-01-01 00:00:00+00")
    ]


async def test_postgres_fills_a_table_of_duckdb(lab: Lab) -> None:
    """TL-TR-01, TL-TR-07, TL-TR-08."""
    lab.in_duck("CREATE TABLE d (id int PRIMARY KEY, name text, tags int[], raw blob)")
    query = (
        "SELECT * FROM (VALUES (1, 'a,\"b\"\n', array[1,2], '\\x00ff'::bytea),"
        " (2, '', null, null), (3, null, '{}'::int[], '')) AS v (id, name, tags, raw)"
    )
    source = lab.ends(query)["source"]
    target = {"type": "duckdb", "table": "d"}
    data = await lab.data(source=source, target=target)
    assert (data["rows_transferred"], data["direction"]) == (3, "postgres_to_duckdb")
    rows = [
        (1, 'a,"b"\n', [1, 2], b"\x00\xff"),
        (2, "", None, None),
        (3, None, [], b""),
    ]
    assert lab.in_duck("SELECT * FROM d ORDER BY id") == rows
    error = await lab.failure(source=source, target=target)
    assert error.failure.code == "ConstraintException"
    assert lab.in_duck("SELECT count(*) FROM d") == [(3,)]
    change = lab.ends("SELECT 2 AS id, 'c' AS name UNION ALL SELECT 4, 'd'")["source"]
    await lab.data(source=change, target=target, mode="upsert")
    assert lab.in_duck("SELECT id, name FROM d ORDER BY id")[1:] == [
        (2, "c"),
        (3, None),
        (4, "d"),
    ]
    bad = lab.ends("SELECT 'x' AS id")["source"]
    await lab.failure(source=bad, target=target, mode="replace")
    assert lab.in_duck("SELECT count(*) FROM d") == [(4,)]
    await lab.data(source=change, target=target, mode="replace")
    assert lab.in_duck("SELECT count(*) FROM d") == [(2,)]
    error = await lab.failure(source=bad, target={"type": "duckdb", "table": "no"})
    assert "there is no table 'no'" in error.failure.message
    assert not [*lab.folder.glob("scratch/transfer-*")]


async def test_many_transfers_within_one_database_do_not_wait_for_each_other(
    lab: Lab,
) -> None:
    """TL-PG-12: each needs two connections, and there are six to an address."""
    await lab.sql("CREATE TABLE many (id int)")
    config = lab.ends("SELECT 1 AS id", "many")
    config["source"]["connection_string"] = lab.target
    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(lambda: lab.data(**config))
    assert await lab.sql("SELECT count(*) FROM many") == [(12,)]


async def test_cancelling_leaves_the_target_as_it_was(lab: Lab) -> None:
    """TL-LIM-02, TL-TR-09."""
    slow = (
        "SELECT g AS id, pg_sleep(0.01)::text AS name FROM generate_series(1, 100000) g"
    )
    with anyio.move_on_after(0.5) as scope:
        await lab.data(**lab.ends(slow), mode="replace")
    assert scope.cancelled_caught
    assert await lab.sql("SELECT count(*) FROM t") == [(0,)]
    await lab.data(**lab.ends("SELECT 1 AS id"))


async def test_a_source_that_fails_midway_writes_nothing(lab: Lab) -> None:
    """TL-TR-09, TL-ERR-02."""
    query = "SELECT 1 / (1900 - g) AS id FROM generate_series(1, 2500) g"
    await lab.sql("CREATE TABLE free (id int)")
    error = await lab.failure(**lab.ends(query, "free"))
    assert error.failure.code == "22012"
    assert await lab.sql("SELECT count(*) FROM free") == [(0,)]
