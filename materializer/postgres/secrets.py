"""SealedRows: envelopes of credentials and keychain values, and the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from materializer.postgres.database import Database
from materializer.postgres.reader import documents, number
from state_builder.sealed import (
    AuditFilter,
    AuditRow,
    CredentialRow,
    KeychainRow,
    SealedCell,
    Table,
)

_DOCUMENTS: Final = ("schema", "meta")
_AUDIT_TEXTS: Final = (
    *("worker_id", "server_region", "broker_region", "kek_version", "notes"),
)


class PostgresSecrets:
    """What the wallet keeps; nothing in it can be read without its key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = database.sql

    async def save_credential(self, row: CredentialRow) -> CredentialRow | None:
        """Insert, or replace the row of that name."""
        stored = await self._row(
            "credential_save",
            number(row.id),
            row.name,
            row.type,
            row.data_encrypted,
            bytes(row.schema) if row.schema is not None else None,
            bytes(row.meta) if row.meta is not None else None,
            list(row.tags),
            row.description,
        )
        return _credential(stored) if stored is not None else None

    async def credential(self, name: str) -> CredentialRow | None:
        """By id where the name is a number and there is one, else by name."""
        row = await self._row("credential_find", number(name), name)
        return _credential(row) if row is not None else None

    async def credentials(
        self, *, kind: str = "", text: str = ""
    ) -> list[CredentialRow]:
        """By name."""
        rows = await self._rows("credential_list", kind or None, text or None)
        return [_credential(row) for row in rows]

    async def drop_credential(self, credential_id: str) -> bool:
        """Delete."""
        return await self._row("credential_drop", number(credential_id)) is not None

    async def save_entry(
        self, row: KeychainRow, *, replacing: str | None = None
    ) -> bool:
        """Insert or replace by cache key."""
        if replacing is not None:
            values = (row.cache_key, replacing, row.data_encrypted, row.expires_at)
            return await self._row("keychain_replace", *values) is not None
        await self._row(
            "keychain_save",
            row.cache_key,
            row.keychain_name,
            number(row.catalog_id),
            row.scope_type,
            row.data_encrypted,
            row.credential_type,
            row.cache_type,
            number(row.execution_id),
            number(row.parent_execution_id),
            row.expires_at,
            row.auto_renew,
            row.renew_config,
        )
        return True

    async def entry(self, cache_key: str) -> KeychainRow | None:
        """A cached value; counts the access."""
        row = await self._row("keychain_find", cache_key)
        return _entry(row) if row is not None else None

    async def entries(self, catalog_id: str) -> list[KeychainRow]:
        """Everything cached of a playbook."""
        rows = await self._rows("keychain_list", number(catalog_id))
        return [_entry(row) for row in rows]

    async def drop_entry(self, cache_key: str) -> bool:
        """Delete."""
        return await self._row("keychain_drop", cache_key) is not None

    async def purge_entries(self) -> int:
        """Delete what has expired or belongs to ended executions."""
        return len(await self._rows("keychain_purge"))

    async def cells(self, table: Table, after: str, limit: int) -> list[SealedCell]:
        """The next envelopes after a key."""
        start = int(after or 0) if table == "credential" else after
        rows = await self._rows(f"{table}_cells", start, limit)
        return [SealedCell(row["key"], row["data_encrypted"]) for row in rows]

    async def swap(self, table: Table, key: str, old: str, new: str) -> bool:
        """Put one envelope in the place of another."""
        place = int(key) if table == "credential" else key
        return await self._row(f"{table}_swap", place, old, new) is not None

    async def add_audit(self, rows: Sequence[AuditRow]) -> None:
        """Append to the trail."""
        async with self._database.session() as connection:
            await connection.executemany(
                self._sql["audit_add"], [_audit_values(row) for row in rows]
            )

    async def audit(self, wanted: AuditFilter) -> list[AuditRow]:
        """The trail, newest first."""
        rows = await self._rows(
            "audit_list",
            wanted.credential or None,
            number(wanted.execution_id),
            wanted.operation or None,
            wanted.outcome or None,
            wanted.after,
            wanted.before,
            wanted.limit,
        )
        return [_audit(row) for row in rows]

    async def _row(self, name: str, *values: object) -> Any:
        async with self._database.session() as connection:
            return await connection.fetchrow(self._sql[name], *values)

    async def _rows(self, name: str, *values: object) -> list[Any]:
        async with self._database.session() as connection:
            return list(await connection.fetch(self._sql[name], *values))


def _credential(row: Any) -> CredentialRow:
    return CredentialRow(
        id=str(row["id"]),
        name=row["name"],
        type=row["type"],
        data_encrypted=row["data_encrypted"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        tags=tuple(row["tags"]),
        description=row["description"],
        **documents(row, *_DOCUMENTS),
    )


def _entry(row: Any) -> KeychainRow:
    fields = {name: row[name] for name in KeychainRow.__struct_fields__}
    for name in ("catalog_id", "execution_id", "parent_execution_id"):
        fields[name] = _id(fields[name])
    return KeychainRow(**fields)


def _id(value: int | None) -> str:
    return "" if value is None else str(value)


def _audit_values(row: AuditRow) -> tuple[object, ...]:
    return (
        row.occurred_at,
        row.credential,
        row.operation,
        row.outcome,
        row.worker_id or None,
        number(row.execution_id),
        number(row.parent_execution_id),
        row.server_region or None,
        row.broker_region or None,
        row.kek_version or None,
        row.notes or None,
    )


def _audit(row: Any) -> AuditRow:
    fields = {name: row[name] for name in AuditRow.__struct_fields__}
    for name in ("audit_id", "execution_id", "parent_execution_id"):
        fields[name] = _id(fields[name])
    for name in _AUDIT_TEXTS:
        fields[name] = fields[name] or ""
    return AuditRow(**fields)
