"""Transfers from and to Snowflake, against a server that speaks its SQL API (TL §3.8)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import asyncpg
import pytest
import tool_calls
from pg_service import PgServer, pg_server

from tools.contract import ToolLimits
from tools.kinds.transfer import Transfer

__all__ = ["pg_server"]

pytestmark = pytest.mark.anyio

CELLS = {
    "rowType": [
        {"name": "ID", "type": "fixed"},
        {"name": "AT", "type": "timestamp_tz"},
        {"name": "LOCAL", "type": "timestamp_ntz"},
        {"name": "DAY", "type": "date"},
        {"name": "OK", "type": "boolean"},
        {"name": "NOTE", "type": "text"},
    ],
    "partitionInfo": [{}, {}],
}
FIRST = [
    "1",
    "1704157445.250000000 1560",
    "1704157445.000000000",
    "19724",
    "true",
    "it's \\ a",
]
SECOND = ["2", "-1.000000000 1440", None, "-1", "false", None]


class Api(BaseHTTPRequestHandler):
    """One query with two partitions; a table ORDERS; takes whatever is written."""

    said: list[tuple[str, list[Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/session/v1/login-request":
            self._say(200, {"success": True, "data": {"token": "t"}})
            return
        binds = [one["value"] for one in (body.get("bindings") or {}).values()]
        text = body["statement"]
        self.said.append((text, binds))
        if text.startswith("SELECT * FROM sales"):
            self._say(
                200,
                {"statementHandle": "h", "resultSetMetaData": CELLS, "data": [FIRST]},
            )
        elif "information_schema" in text:
            known = binds == ["ORDERS", "PUBLIC"]
            rows = (
                [["PUBLIC", "ORDERS", name, "TEXT"] for name in ("ID", "NAME")]
                if known
                else []
            )
            kinds = [{"name": str(n), "type": "text"} for n in range(4)]
            self._say(200, {"resultSetMetaData": {"rowType": kinds}, "data": rows})
        elif "bad" in binds:
            self._say(
                422,
                {
                    "message": "numeric value 'bad' is not recognized",
                    "sqlState": "22018",
                },
            )
        else:
            self._say(200, {"resultSetMetaData": {"rowType": []}, "data": []})

    def do_GET(self) -> None:
        self._say(200, {"data": [SECOND]})

    def _say(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class Lab:
    def __init__(self, url: str, dsn: str, said: list[Any]) -> None:
        self.dsn = dsn
        self.said = said
        self.limits = ToolLimits()
        self.tool = Transfer(self.limits)
        auth = {"account": "xy1", "user": "u", "password": "p", "base_url": url}
        self.snowflake = {"type": "snowflake", "auth": auth}
        self.postgres = {"type": "postgres", "connection_string": dsn}

    async def sql(self, text: str) -> Any:
        connection = await asyncpg.connect(self.dsn)
        try:
            return [tuple(row) for row in await connection.fetch(text)]
        finally:
            await connection.close()

    def texts(self) -> list[str]:
        return [re.sub(r"NOETL_[^\"]+", "STAGE", text) for text, _ in self.said]


@pytest.fixture
async def lab(pg_server: PgServer) -> AsyncIterator[Lab]:
    said: list[Any] = []
    handler = type("Handler", (Api,), {"said": said})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        lab = Lab(
            f"http://127.0.0.1:{server.server_port}", pg_server.create_database(), said
        )
        yield lab
        await lab.tool.close()
        server.shutdown()
        thread.join()


async def test_cells_become_values_of_the_target(lab: Lab) -> None:
    """TL-TR-01, TL-TR-06: every partition, timestamps, dates, booleans, nulls."""
    await lab.sql(
        'CREATE TABLE t ("ID" int, "AT" timestamptz, "LOCAL" timestamp, "DAY" date, "OK" bool, "NOTE" text)'
    )
    source = {**lab.snowflake, "query": "SELECT * FROM sales"}
    result = await tool_calls.run(
        lab.tool, lab.limits, source=source, target={**lab.postgres, "table": "t"}
    )
    data: Any = result.data
    assert (data["rows_transferred"], data["direction"]) == (2, "snowflake_to_postgres")
    rows = await lab.sql(
        'SELECT "ID", "AT"::text, "LOCAL"::text, "DAY"::text, "OK", "NOTE" FROM t'
    )
    assert rows == [
        (
            1,
            "2024-01-02 01:04:05.25+00",
            "2024-01-02 01:04:05",
            "2024-01-02",
            True,
            "it's \\ a",
        ),
        (2, "1969-12-31 23:59:59+00", None, "1969-12-31", False, None),
    ]


@pytest.mark.parametrize(
    ("mode", "settles"),
    [
        ("append", 'INSERT INTO "PUBLIC"."ORDERS"'),
        ("replace", 'INSERT OVERWRITE INTO "PUBLIC"."ORDERS"'),
        ("upsert", 'MERGE INTO "PUBLIC"."ORDERS"'),
    ],
)
async def test_rows_are_settled_by_one_statement(
    lab: Lab, mode: str, settles: str
) -> None:
    """TL-TR-06, TL-TR-07, TL-TR-08: bind variables, never raw text."""
    query = "SELECT g AS \"ID\", 'it''s' AS \"NAME\" FROM generate_series(1, 3000) g"
    source, target = (
        {**lab.postgres, "query": query},
        {**lab.snowflake, "table": "orders"},
    )
    result = await tool_calls.run(
        lab.tool, lab.limits, source=source, target=target, mode=mode, key_columns=["ID"]
    )  # fmt: skip
    assert result.data["rows_transferred"] == 3000  # type: ignore[index, call-overload]
    writes = [text for text in lab.texts() if "ORDERS" in text or "STAGE" in text]
    assert (
        writes[0]
        == 'CREATE OR REPLACE TRANSIENT TABLE "PUBLIC"."STAGE" LIKE "PUBLIC"."ORDERS"'
    )
    assert writes[-2].startswith(settles)
    assert writes[-1] == 'DROP TABLE IF EXISTS "PUBLIC"."STAGE"'
    inserts = [binds for text, binds in lab.said if text.startswith("INSERT") and binds]
    assert sum(map(len, inserts)) == 6000
    assert inserts[0][:2] == ["1", "it's"]


async def test_a_failure_leaves_the_target_as_it_was(lab: Lab) -> None:
    """TL-TR-07, TL-TR-10."""
    source = {**lab.postgres, "query": "SELECT 'bad' AS \"ID\""}
    target = {**lab.snowflake, "table": "orders"}
    error = await tool_calls.failing(
        lab.tool, lab.limits, source=source, target=target, mode="replace"
    )
    assert (error.failure.kind, error.failure.code) == ("db_error", "22018")
    assert not [text for text in lab.texts() if text.startswith("INSERT OVERWRITE")]
    assert lab.texts()[-1].startswith("DROP TABLE IF EXISTS")
    missing = await tool_calls.failing(
        lab.tool,
        lab.limits,
        source=source,
        target={**lab.snowflake, "table": "nothing"},
    )
    assert "there is no table 'nothing'" in missing.failure.message
