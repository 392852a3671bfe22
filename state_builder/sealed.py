"""Rows of secrets, sealed, and the port of their store.

``data_encrypted`` and ``renew_config`` are envelopes (SC-EN-01); nothing in these rows
can be read without the key-encryption key. Ids are decimal text, times carry a zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, TypeAlias

from msgspec import Raw, Struct

Table: TypeAlias = Literal["credential", "keychain"]
"""Tables that hold envelopes."""


class CredentialRow(Struct, frozen=True, kw_only=True):
    """A stored credential (SC-CR-01)."""

    id: str
    name: str
    type: str
    data_encrypted: str
    created_at: datetime
    updated_at: datetime
    schema: Raw | None = None
    meta: Raw | None = None
    tags: tuple[str, ...] = ()
    description: str | None = None


class KeychainRow(Struct, frozen=True, kw_only=True):
    """A cached keychain value (SC-KC-09)."""

    cache_key: str
    keychain_name: str
    catalog_id: str
    scope_type: str
    data_encrypted: str
    created_at: datetime
    credential_type: str = "secret"
    cache_type: str = "secret"
    execution_id: str = ""
    parent_execution_id: str = ""
    expires_at: datetime | None = None
    accessed_at: datetime | None = None
    access_count: int = 0
    auto_renew: bool = False
    renew_config: str | None = None


class AuditRow(Struct, frozen=True, kw_only=True):
    """Who saw which secret, and whether (SC-AU-01); never a value."""

    occurred_at: datetime
    credential: str
    operation: str
    outcome: str
    audit_id: str = ""
    worker_id: str = ""
    execution_id: str = ""
    parent_execution_id: str = ""
    server_region: str = ""
    broker_region: str = ""
    kek_version: str = ""
    notes: str = ""


class AuditFilter(NamedTuple):
    """Which audit rows are wanted (SC-AU-05)."""

    credential: str = ""
    execution_id: str = ""
    operation: str = ""
    outcome: str = ""
    after: datetime | None = None
    before: datetime | None = None
    limit: int = 100


class SealedCell(NamedTuple):
    """An envelope, and what its row is called: ``key`` is the place in the table."""

    key: str
    data_encrypted: str


class SealedRows(Protocol):
    """The store. Every method raises UnavailableError while the database is away."""

    async def save_credential(self, row: CredentialRow) -> CredentialRow | None:
        """Insert, or replace the row of that name; ``created_at`` is kept.

        None, and nothing stored, when the name belongs to another id.
        """

    async def credential(self, name: str) -> CredentialRow | None:
        """By id where the name is a number and there is one, else by name."""

    async def credentials(
        self, *, kind: str = "", text: str = ""
    ) -> list[CredentialRow]:
        """By name; ``text`` stands somewhere in name or description."""

    async def drop_credential(self, credential_id: str) -> bool:
        """Delete; False when it was not there."""

    async def save_entry(
        self, row: KeychainRow, *, replacing: str | None = None
    ) -> bool:
        """Insert or replace by cache key.

        With ``replacing`` only while the row still holds that envelope: a refresh
        never brings back what was deleted or replaced meanwhile (SC-CA-04).
        """

    async def entry(self, cache_key: str) -> KeychainRow | None:
        """A cached value, expired or not; counts the access."""

    async def entries(self, catalog_id: str) -> list[KeychainRow]:
        """Everything cached of a playbook, by name."""

    async def drop_entry(self, cache_key: str) -> bool:
        """Delete; False when it was not there."""

    async def purge_entries(self) -> int:
        """Delete expired rows that are not renewed, and those of ended executions."""

    async def cells(self, table: Table, after: str, limit: int) -> list[SealedCell]:
        """The next envelopes after a key, in the order of keys."""

    async def swap(self, table: Table, key: str, old: str, new: str) -> bool:
        """Put one envelope in the place of another, if that is still there."""

    async def add_audit(self, rows: Sequence[AuditRow]) -> None:
        """Append to the trail; they are committed when this returns."""

    async def audit(self, wanted: AuditFilter) -> list[AuditRow]:
        """The trail, newest first."""
