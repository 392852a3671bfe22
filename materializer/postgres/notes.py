"""What clients keep beside playbooks and executions, on PostgreSQL."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from materializer.postgres.database import Database
from materializer.postgres.reader import number
from state_builder.notes import SuiteRow, VariableRow


class PostgresNotes:
    """See :class:`state_builder.notes.Notes`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = database.sql

    async def set_variables(self, execution_id: str, rows: list[VariableRow]) -> None:
        """Insert, or replace by name."""
        async with self._database.session() as connection:
            await connection.execute(
                self._sql["variables_set"],
                number(execution_id),
                [row.name for row in rows],
                [row.type for row in rows],
                [bytes(row.value) for row in rows],
                [row.source_step for row in rows],
            )

    async def variables(self, execution_id: str) -> list[VariableRow]:
        """All of an execution by name."""
        async with self._database.session() as connection:
            rows = await connection.fetch(self._sql["variables"], number(execution_id))
        return [_variable(row) for row in rows]

    async def read_variable(self, execution_id: str, name: str) -> VariableRow | None:
        """One, counted as read."""
        async with self._database.session() as connection:
            row = await connection.fetchrow(
                self._sql["variable_read"], number(execution_id), name
            )
        return None if row is None else _variable(row)

    async def drop_variables(self, execution_id: str, name: str = "") -> int:
        """Remove one, or all without a name; how many there were."""
        async with self._database.session() as connection:
            rows = await connection.fetch(
                self._sql["variables_drop"], number(execution_id), name or None
            )
        return len(rows)

    async def save_suite(self, row: SuiteRow) -> SuiteRow:
        """Insert, or replace by id."""
        async with self._database.session() as connection:
            stored = await connection.fetchrow(
                self._sql["suite_save"],
                row.suite_id,
                row.playbook_path,
                bytes(row.tests),
                bytes(row.metadata),
            )
        return _suite(stored)

    async def suite(self, suite_id: str) -> SuiteRow | None:
        """One."""
        async with self._database.session() as connection:
            row = await connection.fetchrow(self._sql["suite"], suite_id)
        return None if row is None else _suite(row)

    async def drop_suite(self, suite_id: str) -> bool:
        """Remove; False when it was not there."""
        async with self._database.session() as connection:
            return bool(await connection.fetchval(self._sql["suite_drop"], suite_id))


def _variable(row: Any) -> VariableRow:
    return VariableRow(
        name=row["var_name"],
        value=_raw(row["var_value"]),
        type=row["var_type"],
        source_step=row["source_step"],
        created_at=row["created_at"],
        accessed_at=row["accessed_at"],
        access_count=row["access_count"],
    )


def _suite(row: Any) -> SuiteRow:
    return SuiteRow(
        suite_id=row["suite_id"],
        playbook_path=row["playbook_path"],
        tests=_raw(row["tests"]),
        metadata=_raw(row["metadata"]),
        updated_at=row["updated_at"],
    )


def _raw(document: bytes | str | None) -> Raw:
    return Raw(document or b"null")
