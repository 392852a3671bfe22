"""The transfer tool between two databases of one real server: rows a second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import asyncpg

from tools.contract import CallContext, ToolLimits
from tools.kinds.transfer import Transfer

ROWS = 500_000
_TABLE = "(id int, customer text, total numeric(10, 2), placed timestamptz)"
_FILL = """
INSERT INTO orders SELECT g, 'customer ' || g % 1000, g % 10000 / 100.0,
  '2024-01-01 UTC'::timestamptz + g * interval '1 second'
FROM generate_series(1, $1) AS g
"""


async def transfer(dsn: str, data: Path, rows: int = ROWS) -> dict[str, Any]:
    """Rows of four columns from one database to another, once the caches are warm."""
    connection = await asyncpg.connect(dsn)
    for name in ("noetl_bench_from", "noetl_bench_to"):
        await connection.execute(f"DROP DATABASE IF EXISTS {name}")
        await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    source, target = (
        dsn.rpartition("/")[0] + f"/noetl_bench_{end}" for end in ("from", "to")
    )
    for end in (source, target):
        connection = await asyncpg.connect(end)
        await connection.execute(f"CREATE TABLE orders {_TABLE}")
        if end == source:
            await connection.execute(_FILL, rows, timeout=120)
        await connection.close()
    limits = ToolLimits(data_dir=str(data))
    tool = Transfer(limits)
    config = tool.validate(
        {
            "source": {
                "type": "postgres",
                "connection_string": source,
                "query": "SELECT * FROM orders",
            },
            "target": {
                "type": "postgres",
                "connection_string": target,
                "table": "orders",
            },
            "mode": "replace",
        }
    )
    call = CallContext(
        execution_id="1",
        command_id="1.bench.1.1",
        step="bench",
        attempt=1,
        timeout_s=120.0,
        limits=limits,
    )
    await tool.run(config, call)
    begun = time.perf_counter()
    await tool.run(config, call)
    seconds = time.perf_counter() - begun
    await tool.close()
    return {"rows_per_s": rows / seconds, "rows": rows, "seconds": seconds}
