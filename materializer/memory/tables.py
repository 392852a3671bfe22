"""Tables on dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Raw
from msgspec.structs import replace

from materializer.errors import RowError
from materializer.memory.database import MemoryDatabase
from state_builder.errors import InvalidError
from state_builder.stores import CatalogDocument, CatalogRow, RuntimeRow

KINDS = frozenset(
    {"playbook", "credential", "mcp", "agent", "memory", "subscription", "notebook"}
)
RUNTIME_KINDS = frozenset({"worker_pool", "server_api", "broker"})


class MemoryTables:
    """What the server keeps."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def ping(self) -> None:
        """Answer, or raise UnavailableError."""
        self._database.check()

    async def schema_version(self) -> int:
        """Memory always has the version of this build."""
        self._database.check()
        return 1

    async def apply_schema(self) -> int:
        """Nothing to do."""
        self._database.check()
        return 1

    async def missing(self) -> list[str]:
        """Nothing."""
        self._database.check()
        return []

    async def register(self, document: CatalogDocument) -> CatalogRow:
        """Store as the next version of its path."""
        self._database.check()
        if document.kind not in KINDS:
            raise RowError(f"catalog.kind {document.kind!r} is not known")
        if document.catalog_id in self._database.catalog:
            raise RowError(f"catalog_id {document.catalog_id} is taken")
        versions = [
            row.version
            for row in self._database.catalog.values()
            if row.path == document.path
        ]
        row = CatalogRow(
            catalog_id=document.catalog_id,
            path=document.path,
            kind=document.kind,
            version=max(versions, default=0) + 1,
            content=document.content,
            created_at=self._now(),
            layout=document.layout,
            payload=document.payload,
            meta=document.meta,
        )
        self._database.catalog[row.catalog_id] = row
        return row

    async def catalog(
        self, *, kind: str = "", path: str = "", archived: bool = False
    ) -> list[CatalogRow]:
        """Newest first."""
        self._database.check()
        rows = reversed(self._database.catalog.values())
        return [
            row
            for row in rows
            if (not kind or row.kind == kind.lower())
            and (
                not path
                or (row.path.startswith(path) if path[-1] == "/" else row.path == path)
            )
            and (archived or not row.archived)
        ]

    async def catalog_entry(self, catalog_id: str) -> CatalogRow | None:
        """That version, archived or not."""
        self._database.check()
        return self._database.catalog.get(catalog_id)

    async def catalog_version(
        self, path: str, version: int | None
    ) -> CatalogRow | None:
        """That version, or the highest that is not archived."""
        self._database.check()
        rows = [row for row in self._database.catalog.values() if row.path == path]
        if version is not None:
            return next((row for row in rows if row.version == version), None)
        current = [row for row in rows if not row.archived]
        return max(current, key=lambda row: row.version, default=None)

    async def archive(self, catalog_id: str) -> bool:
        """Hide an entry."""
        self._database.check()
        row = self._database.catalog.get(catalog_id)
        if row is None:
            return False
        self._database.catalog[catalog_id] = replace(row, archived=True)
        return True

    async def claim_start(
        self, scope: str, key: str, *, execution_id: str, window_s: float
    ) -> str:
        """Whose start this is."""
        self._database.check()
        now = self._database.clock.now()
        place = (scope or "0", key)
        known = self._database.claims.get(place)
        if known is not None and known[1] > now:
            return known[0]
        self._database.claims[place] = (execution_id, now + window_s)
        return execution_id

    async def register_runtime(self, row: RuntimeRow) -> RuntimeRow:
        """Insert, or update by kind and name."""
        self._database.check()
        if row.kind not in RUNTIME_KINDS:
            raise RowError(f"runtime.kind {row.kind!r} is not known")
        now = self._now()
        known = self._database.runtimes.get((row.kind, row.name))
        stored = replace(
            row,
            runtime_id=known.runtime_id if known is not None else row.runtime_id,
            created_at=known.created_at if known is not None else now,
            heartbeat=now,
            updated_at=now,
        )
        self._database.runtimes[row.kind, row.name] = stored
        return stored

    async def beat_runtime(
        self, kind: str, name: str, *, status: str, runtime: Raw | None
    ) -> RuntimeRow | None:
        """Note a heartbeat."""
        self._database.check()
        known = self._database.runtimes.get((kind, name))
        if known is None:
            return None
        now = self._now()
        alive = "ready" if known.status == "offline" else known.status
        stored = replace(
            known,
            status=status or alive,
            runtime=known.runtime if runtime is None else runtime,
            heartbeat=now,
            updated_at=now,
        )
        self._database.runtimes[kind, name] = stored
        return stored

    async def drop_runtime(self, kind: str, name: str) -> bool:
        """Forget."""
        self._database.check()
        return self._database.runtimes.pop((kind, name), None) is not None

    async def runtimes(
        self, *, kind: str = "", status: str = "", name: str = ""
    ) -> list[RuntimeRow]:
        """Registered processes by name."""
        self._database.check()
        return [
            row
            for _, row in sorted(self._database.runtimes.items())
            if (not kind or row.kind == kind)
            and (not status or row.status == status)
            and (not name or row.name == name)
        ]

    async def sweep_runtimes(self, older_than_s: float) -> int:
        """Mark those without a heartbeat as offline."""
        self._database.check()
        now = self._database.clock.now()
        stale = [
            (key, row)
            for key, row in self._database.runtimes.items()
            if row.status != "offline"
            and row.heartbeat.timestamp() < now - older_than_s
        ]
        for key, row in stale:
            self._database.runtimes[key] = replace(
                row, status="offline", updated_at=self._now()
            )
        return len(stale)

    async def query(
        self, sql: str, parameters: Sequence[str | int | float | bool | None]
    ) -> list[dict[str, object]]:
        """Refused: there is no SQL in memory."""
        raise InvalidError("these tables are in memory and know no SQL")

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._database.clock.now(), UTC)
