"""The index of stored results, on PostgreSQL (RT-RES-5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Raw

from materializer.postgres.database import Database
from materializer.postgres.reader import number
from state_builder.errors import UnavailableError
from state_builder.values import NamedReference, ResultRow

_ADD_TRIES: Final = 10
"""The row that has the key may be dropped before it is read."""


class PostgresResults:
    """See :class:`state_builder.values.ResultRows`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = database.sql

    async def add(self, row: ResultRow) -> ResultRow:
        """See the port."""
        values = (
            number(row.result_id),
            number(row.execution_id),
            row.name,
            row.scope,
            row.source_step,
            row.object_key,
            row.bytes,
            row.sha256,
            row.media_type,
            row.idempotency_key,
            row.expires_at,
        )
        async with self._database.session() as connection:
            for _ in range(_ADD_TRIES):
                found = await connection.fetchrow(self._sql["result_add"], *values)
                if found is None:
                    found = await connection.fetchrow(
                        self._sql["result_by_key"], row.idempotency_key
                    )
                if found is not None:
                    return _row(found)
        raise UnavailableError(
            f"result '{row.name}': its idempotency key comes and goes; put it again"
        )

    async def find(self, execution_id: str, result_id: str) -> ResultRow | None:
        """See the port."""
        async with self._database.session() as connection:
            found = await connection.fetchrow(
                self._sql["result_find"], number(execution_id), number(result_id)
            )
        return None if found is None else _row(found)

    async def listed(
        self, execution_id: str, *, scope: str = "", step: str = ""
    ) -> list[ResultRow]:
        """See the port."""
        async with self._database.session() as connection:
            found = await connection.fetch(
                self._sql["results_listed"],
                number(execution_id),
                scope or None,
                step or None,
            )
        return [_row(one) for one in found]

    async def drop(
        self, execution_id: str, *, scope: str = "", step: str = ""
    ) -> list[ResultRow]:
        """See the port."""
        async with self._database.session() as connection:
            found = await connection.fetch(
                self._sql["results_drop"],
                number(execution_id),
                scope or None,
                step or None,
            )
        return [_row(one) for one in found]

    async def expired(self, limit: int) -> list[ResultRow]:
        """See the port."""
        async with self._database.session() as connection:
            found = await connection.fetch(self._sql["results_expired"], limit)
        return [_row(one) for one in found]

    async def forget(self, result_ids: Sequence[str]) -> None:
        """See the port."""
        ids = [number(one) for one in result_ids]
        async with self._database.session() as connection:
            await connection.execute(self._sql["results_forget"], ids)

    async def references(self, execution_id: str) -> list[NamedReference]:
        """See the port."""
        async with self._database.session() as connection:
            found = await connection.fetch(
                self._sql["references_of"], number(execution_id)
            )
        return [
            NamedReference(one["node_name"] or "", Raw(one["reference"].encode()))
            for one in found
        ]

    async def unneeded(self, execution_ids: list[str], after_s: float) -> set[str]:
        """See the port."""
        ids = [number(one) for one in execution_ids]
        async with self._database.session() as connection:
            found = await connection.fetch(
                self._sql["executions_unneeded"], ids, after_s
            )
        return {str(one["execution_id"]) for one in found}


def _row(row: Any) -> ResultRow:
    return ResultRow(
        result_id=str(row["result_id"]),
        execution_id=str(row["execution_id"]),
        name=row["name"],
        scope=row["scope"],
        source_step=row["source_step"],
        object_key=row["object_key"],
        bytes=row["bytes"],
        sha256=row["sha256"],
        media_type=row["media_type"],
        idempotency_key=row["idempotency_key"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )
