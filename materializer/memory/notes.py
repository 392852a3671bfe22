"""What clients keep beside playbooks and executions, in memory."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from materializer.memory.database import MemoryDatabase
from state_builder.notes import SuiteRow, VariableRow


class MemoryNotes:
    """See :class:`state_builder.notes.Notes`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._variables: dict[tuple[str, str], VariableRow] = {}
        self._suites: dict[str, SuiteRow] = {}

    async def set_variables(self, execution_id: str, rows: list[VariableRow]) -> None:
        """Insert, or replace by name."""
        self._database.check()
        for row in rows:
            known = self._variables.get((execution_id, row.name))
            self._variables[execution_id, row.name] = replace(
                known or replace(row, created_at=self._now()),
                value=row.value,
                type=row.type,
                source_step=row.source_step,
            )

    async def variables(self, execution_id: str) -> list[VariableRow]:
        """All of an execution by name."""
        self._database.check()
        return [
            row for (eid, _), row in sorted(self._variables.items())
            if eid == execution_id
        ]  # fmt: skip

    async def read_variable(self, execution_id: str, name: str) -> VariableRow | None:
        """One, counted as read."""
        self._database.check()
        row = self._variables.get((execution_id, name))
        if row is None:
            return None
        count = row.access_count + 1
        row = replace(row, accessed_at=self._now(), access_count=count)
        self._variables[execution_id, name] = row
        return row

    async def drop_variables(self, execution_id: str, name: str = "") -> int:
        """Remove one, or all without a name; how many there were."""
        self._database.check()
        gone = [
            key for key in self._variables
            if key[0] == execution_id and name in ("", key[1])
        ]  # fmt: skip
        for key in gone:
            del self._variables[key]
        return len(gone)

    async def save_suite(self, row: SuiteRow) -> SuiteRow:
        """Insert, or replace by id."""
        self._database.check()
        stored = self._suites[row.suite_id] = replace(row, updated_at=self._now())
        return stored

    async def suite(self, suite_id: str) -> SuiteRow | None:
        """One."""
        self._database.check()
        return self._suites.get(suite_id)

    async def drop_suite(self, suite_id: str) -> bool:
        """Remove; False when it was not there."""
        self._database.check()
        return self._suites.pop(suite_id, None) is not None

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._database.clock.now(), UTC)
