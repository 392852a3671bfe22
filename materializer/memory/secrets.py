"""SealedRows on dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

from msgspec.structs import replace

from materializer.memory.database import OPEN_EXECUTION, MemoryDatabase
from state_builder.sealed import (
    AuditFilter,
    AuditRow,
    CredentialRow,
    KeychainRow,
    SealedCell,
    Table,
)


class MemorySecrets:
    """What the wallet keeps; nothing in it can be read without its key."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def save_credential(self, row: CredentialRow) -> CredentialRow | None:
        """Insert, or replace the row of that name."""
        rows = self._credentials()
        known = self._named(row.name)
        if known is not None and known.id != row.id:
            return None
        now = self._now()
        created = now if known is None else known.created_at
        rows[row.id] = replace(row, created_at=created, updated_at=now)
        return rows[row.id]

    async def credential(self, name: str) -> CredentialRow | None:
        """By id where the name is a number and there is one, else by name."""
        return self._credentials().get(name) or self._named(name)

    async def credentials(
        self, *, kind: str = "", text: str = ""
    ) -> list[CredentialRow]:
        """By name."""
        found = [
            row
            for row in self._credentials().values()
            if (not kind or row.type == kind)
            and text.lower() in f"{row.name} {row.description or ''}".lower()
        ]
        return sorted(found, key=lambda row: row.name)

    async def drop_credential(self, credential_id: str) -> bool:
        """Delete."""
        return self._credentials().pop(credential_id, None) is not None

    async def save_entry(
        self, row: KeychainRow, *, replacing: str | None = None
    ) -> bool:
        """Insert or replace by cache key."""
        rows = self._keychain()
        known = rows.get(row.cache_key)
        if replacing is None:
            rows[row.cache_key] = row
            return True
        if known is None or known.data_encrypted != replacing:
            return False
        rows[row.cache_key] = replace(
            known, data_encrypted=row.data_encrypted, expires_at=row.expires_at
        )
        return True

    async def entry(self, cache_key: str) -> KeychainRow | None:
        """A cached value; counts the access."""
        rows = self._keychain()
        row = rows.get(cache_key)
        if row is None:
            return None
        count = row.access_count + 1
        rows[cache_key] = replace(row, access_count=count, accessed_at=self._now())
        return rows[cache_key]

    async def entries(self, catalog_id: str) -> list[KeychainRow]:
        """Everything cached of a playbook."""
        found = [r for r in self._keychain().values() if r.catalog_id == catalog_id]
        return sorted(found, key=lambda row: (row.keychain_name, row.cache_key))

    async def drop_entry(self, cache_key: str) -> bool:
        """Delete."""
        return self._keychain().pop(cache_key, None) is not None

    async def purge_entries(self) -> int:
        """Delete what has expired or belongs to ended executions."""
        rows, now = self._keychain(), self._now()
        gone = [
            key
            for key, row in rows.items()
            if (row.expires_at and row.expires_at <= now and not row.auto_renew)
            or self._ended(row.execution_id)
        ]
        for key in gone:
            del rows[key]
        return len(gone)

    async def cells(self, table: Table, after: str, limit: int) -> list[SealedCell]:
        """The next envelopes after a key."""
        if table == "credential":
            found = sorted(self._credentials().items(), key=lambda one: int(one[0]))
            later = [one for one in found if int(one[0]) > int(after or 0)]
            cells = [SealedCell(key, row.data_encrypted) for key, row in later]
        else:
            cells = [
                SealedCell(key, row.data_encrypted)
                for key, row in sorted(self._keychain().items())
                if key > after
            ]
        return list(islice(cells, limit))

    async def swap(self, table: Table, key: str, old: str, new: str) -> bool:
        """Put one envelope in the place of another."""
        if table == "credential":
            credential = self._credentials().get(key)
            if credential is None or credential.data_encrypted != old:
                return False
            self._database.credentials[key] = replace(credential, data_encrypted=new)
            return True
        entry = self._keychain().get(key)
        if entry is None or entry.data_encrypted != old:
            return False
        self._database.keychain[key] = replace(entry, data_encrypted=new)
        return True

    async def add_audit(self, rows: Sequence[AuditRow]) -> None:
        """Append to the trail."""
        self._database.check()
        trail = self._database.audit
        for row in rows:
            trail.append(replace(row, audit_id=str(len(trail) + 1)))

    async def audit(self, wanted: AuditFilter) -> list[AuditRow]:
        """The trail, newest first."""
        self._database.check()
        found = [
            row
            for row in self._database.audit
            if (not wanted.credential or row.credential == wanted.credential)
            and (not wanted.execution_id or row.execution_id == wanted.execution_id)
            and (not wanted.operation or row.operation == wanted.operation)
            and (not wanted.outcome or row.outcome == wanted.outcome)
            and (not wanted.after or row.occurred_at >= wanted.after)
            and (not wanted.before or row.occurred_at < wanted.before)
        ]
        found.sort(key=lambda row: (row.occurred_at, int(row.audit_id)), reverse=True)
        return found[: wanted.limit]

    def _credentials(self) -> dict[str, CredentialRow]:
        self._database.check()
        return self._database.credentials

    def _named(self, name: str) -> CredentialRow | None:
        rows = self._database.credentials.values()
        return next((row for row in rows if row.name == name), None)

    def _keychain(self) -> dict[str, KeychainRow]:
        self._database.check()
        return self._database.keychain

    def _ended(self, execution_id: str) -> bool:
        row = self._database.executions.get(int(execution_id or 0))
        return row is not None and row.status not in OPEN_EXECUTION

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._database.clock.now(), UTC)
