"""The index of stored results, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Raw
from msgspec.json import decode
from msgspec.structs import replace

from materializer.memory.database import MemoryDatabase
from materializer.memory.reader import when
from state_builder.values import NamedReference, ResultRow


class MemoryResultRows:
    """See :class:`state_builder.values.ResultRows`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._rows: dict[str, ResultRow] = {}

    async def add(self, row: ResultRow) -> ResultRow:
        """See the port."""
        self._database.check()
        for known in self._rows.values():
            if row.idempotency_key and known.idempotency_key == row.idempotency_key:
                return known
        stored = replace(row, created_at=self._now())
        self._rows[row.result_id] = stored
        return stored

    async def find(self, execution_id: str, result_id: str) -> ResultRow | None:
        """See the port."""
        self._database.check()
        found = self._rows.get(result_id)
        if found is None or found.execution_id != execution_id or self._over(found):
            return None
        return found

    async def listed(
        self, execution_id: str, *, scope: str = "", step: str = ""
    ) -> list[ResultRow]:
        """See the port."""
        self._database.check()
        return [
            row
            for row in self._rows.values()
            if row.execution_id == execution_id
            and scope in ("", row.scope)
            and step in ("", row.source_step or row.name)
            and not self._over(row)
        ]

    async def drop(
        self, execution_id: str, *, scope: str = "", step: str = ""
    ) -> list[ResultRow]:
        """See the port."""
        self._database.check()
        found = [
            row
            for row in self._rows.values()
            if row.execution_id == execution_id
            and scope in ("", row.scope)
            and step in ("", row.source_step or row.name)
        ]
        for row in found:
            del self._rows[row.result_id]
        return found

    async def expired(self, limit: int) -> list[ResultRow]:
        """See the port."""
        self._database.check()
        return [row for row in self._rows.values() if self._over(row)][:limit]

    async def forget(self, result_ids: Sequence[str]) -> None:
        """See the port."""
        self._database.check()
        for result_id in result_ids:
            self._rows.pop(result_id, None)

    async def references(self, execution_id: str) -> list[NamedReference]:
        """See the port."""
        self._database.check()
        found = []
        for event in self._database.events.get(int(execution_id), {}).values():
            if not event.result or event.event_type != "call.done":
                continue
            envelope = decode(event.result, type=dict[str, Raw])
            if "reference" in envelope:
                found.append(
                    NamedReference(event.node_name or "", envelope["reference"])
                )
        return found

    async def unneeded(self, execution_ids: list[str], after_s: float) -> set[str]:
        """See the port."""
        self._database.check()
        limit = self._database.clock.now() - after_s
        return {eid for eid in execution_ids if not self._needed(int(eid), limit)}

    def _needed(self, execution_id: int, limit: float) -> bool:
        """It, or one above it, is open or ended after that."""
        row = self._database.executions.get(execution_id)
        while row is not None:
            over = when(row.end_time)
            if over is None or over.timestamp() >= limit:
                return True
            row = self._database.executions.get(row.parent_execution_id or 0)
        return False

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._database.clock.now(), UTC)

    def _over(self, row: ResultRow) -> bool:
        return row.expires_at is not None and row.expires_at <= self._now()
