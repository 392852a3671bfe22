"""Tables: catalog, start claims, runtime rows, and the schema itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import asyncpg
from msgspec import Raw

from materializer.postgres.database import Database
from materializer.postgres.reader import documents, number
from materializer.postgres.schema import apply_schema, missing
from state_builder.errors import InvalidError
from state_builder.stores import CatalogDocument, CatalogRow, RuntimeRow

_CATALOG_JSON: Final = ("layout", "payload", "meta")
_RUNTIME_JSON: Final = ("labels", "capabilities", "runtime")


class PostgresTables:
    """What the server keeps."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = database.sql

    async def ping(self) -> None:
        """Answer, or raise UnavailableError."""
        async with self._database.session() as connection:
            await connection.fetchval(self._sql["ping"])

    async def schema_version(self) -> int:
        """Version of the tables; 0 when there are none."""
        async with self._database.session() as connection:
            if not await connection.fetchval(self._sql["schema_exists"]):
                return 0
            return int(await connection.fetchval(self._sql["schema_current"]))

    async def apply_schema(self) -> int:
        """Create or migrate the tables."""
        return await apply_schema(self._database)

    async def missing(self) -> list[str]:
        """Tables and columns this build needs and does not find."""
        return await missing(self._database)

    async def register(self, document: CatalogDocument) -> CatalogRow:
        """Store as the next version of its path."""
        async with self._database.session() as connection, connection.transaction():
            await connection.execute(self._sql["catalog_path_lock"], document.path)
            row = await connection.fetchrow(
                self._sql["catalog_register"],
                number(document.catalog_id),
                document.path,
                document.kind,
                document.content,
                _json(document.layout),
                _json(document.payload),
                _json(document.meta),
            )
        return _catalog(row)

    async def catalog(
        self, *, kind: str = "", path: str = "", archived: bool = False
    ) -> list[CatalogRow]:
        """Newest first."""
        prefix = path.endswith("/")
        async with self._database.session() as connection:
            rows = await connection.fetch(
                self._sql["catalog_list"],
                kind or None,
                None if prefix else path or None,
                path if prefix else None,
                archived,
            )
        return [_catalog(row) for row in rows]

    async def catalog_entry(self, catalog_id: str) -> CatalogRow | None:
        """That version, archived or not."""
        return await self._catalog("catalog_entry", number(catalog_id))

    async def catalog_version(
        self, path: str, version: int | None
    ) -> CatalogRow | None:
        """That version, or the highest that is not archived."""
        if version is None:
            return await self._catalog("catalog_latest", path)
        return await self._catalog("catalog_version", path, version)

    async def archive(self, catalog_id: str) -> bool:
        """Hide an entry."""
        async with self._database.session() as connection:
            query = self._sql["catalog_archive"]
            return bool(await connection.fetchval(query, number(catalog_id)))

    async def claim_start(
        self, scope: str, key: str, *, execution_id: str, window_s: float
    ) -> str:
        """Whose start this is."""
        async with self._database.session() as connection:
            first = await connection.fetchval(
                self._sql["claim_start"],
                number(scope or "0"),
                key,
                number(execution_id),
                timedelta(seconds=window_s),
            )
        return str(first)

    async def register_runtime(self, row: RuntimeRow) -> RuntimeRow:
        """Insert, or update by kind and name."""
        async with self._database.session() as connection:
            stored = await connection.fetchrow(
                self._sql["runtime_register"],
                number(row.runtime_id),
                row.name,
                row.kind,
                row.uri,
                row.status,
                _json(row.labels),
                _json(row.capabilities),
                row.capacity,
                _json(row.runtime),
                row.worker_public_key,
            )
        return _runtime(stored)

    async def beat_runtime(
        self, kind: str, name: str, *, status: str, runtime: Raw | None
    ) -> RuntimeRow | None:
        """Note a heartbeat."""
        async with self._database.session() as connection:
            row = await connection.fetchrow(
                self._sql["runtime_beat"], kind, name, status or None, _json(runtime)
            )
        return _runtime(row) if row is not None else None

    async def drop_runtime(self, kind: str, name: str) -> bool:
        """Forget."""
        async with self._database.session() as connection:
            query = self._sql["runtime_drop"]
            return bool(await connection.fetchval(query, kind, name))

    async def runtimes(
        self, *, kind: str = "", status: str = "", name: str = ""
    ) -> list[RuntimeRow]:
        """Registered processes by name."""
        async with self._database.session() as connection:
            rows = await connection.fetch(
                self._sql["runtimes"], kind or None, status or None, name or None
            )
        return [_runtime(row) for row in rows]

    async def sweep_runtimes(self, older_than_s: float) -> int:
        """Mark those without a heartbeat as offline."""
        async with self._database.session() as connection:
            rows = await connection.fetch(
                self._sql["runtime_sweep"], timedelta(seconds=older_than_s)
            )
        return len(rows)

    async def query(
        self, sql: str, parameters: Sequence[str | int | float | bool | None]
    ) -> list[dict[str, object]]:
        """Rows of an operator's own statement."""
        async with self._database.session() as connection:
            try:
                statement = await connection.prepare(sql)
                rows = await statement.fetch(*parameters)
            except asyncpg.PostgresError as error:
                raise InvalidError(f"database: {error}") from error
        kinds = [(each.name, each.type.name) for each in statement.get_attributes()]
        return [{name: _plain(row[name], kind) for name, kind in kinds} for row in rows]

    async def _catalog(self, name: str, *arguments: object) -> CatalogRow | None:
        async with self._database.session() as connection:
            row = await connection.fetchrow(self._sql[name], *arguments)
        return _catalog(row) if row is not None else None


def _plain(value: Any, kind: str) -> object:
    """A value as JSON has it; documents stay as they are."""
    if value is not None and kind in {"json", "jsonb"}:
        return Raw(value.encode() if isinstance(value, str) else value)
    return value


def _json(document: Raw | None) -> bytes | None:
    return bytes(document) if document is not None else None


def _catalog(row: Any) -> CatalogRow:
    return CatalogRow(
        catalog_id=str(row["catalog_id"]),
        path=row["path"],
        kind=row["kind"],
        version=row["version"],
        content=row["content"],
        created_at=row["created_at"],
        archived=row["archived_at"] is not None,
        **documents(row, *_CATALOG_JSON),
    )


def _runtime(row: Any) -> RuntimeRow:
    return RuntimeRow(
        runtime_id=str(row["runtime_id"]),
        name=row["name"],
        kind=row["kind"],
        status=row["status"],
        heartbeat=row["heartbeat"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        uri=row["uri"],
        capacity=row["capacity"],
        worker_public_key=row["worker_public_key"],
        **documents(row, *_RUNTIME_JSON),
    )
