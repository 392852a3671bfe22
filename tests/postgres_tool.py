"""A database of a test's own and the ``postgres`` tool that works on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import tool_calls
from pg_service import PgServer, pg_server

from tools.contract import ToolLimits
from tools.errors import ToolCallError
from tools.kinds.postgres import Postgres

__all__ = ["Database", "db", "dsn", "pg_server"]


class Database:
    """A database of the test's own and the tool that works on it."""

    def __init__(self, dsn: str, limits: ToolLimits) -> None:
        self.dsn = dsn
        self.limits = limits
        self.tool = Postgres(limits)

    async def data(self, query: Any, **config: Any) -> Any:
        config = {"connection_string": self.dsn, "query": query, **config}
        return (await tool_calls.run(self.tool, self.limits, **config)).data

    async def value(self, expression: str, *params: Any) -> Any:
        config = {"params": list(params)} if params else {}
        data = await self.data(f"SELECT {expression}", as_objects=False, **config)
        return data["rows"][0][0]

    async def failure(self, query: Any, **config: Any) -> ToolCallError:
        config = {"connection_string": self.dsn, "query": query, **config}
        return await tool_calls.failing(self.tool, self.limits, **config)


@pytest.fixture(scope="module")
def dsn(pg_server: PgServer) -> str:
    return pg_server.create_database()


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn, ToolLimits(rows_max=3000))
    yield database
    await database.tool.close()
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
