"""The store of sealed rows keeps its promises, in memory and on PostgreSQL alike."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace
from pg_service import PgServer, pg_server  # noqa: F401 - a fixture

from materializer.memory import MemoryDatabase, MemorySecrets
from materializer.postgres import (
    Database,
    DatabaseSettings,
    PostgresSecrets,
    PostgresTables,
)
from noetl_worker.lifecycle import SystemClock
from state_builder.errors import UnavailableError
from state_builder.sealed import (
    AuditFilter,
    AuditRow,
    CredentialRow,
    KeychainRow,
    SealedRows,
)

_ids = itertools.count(10)
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(params=["memory", "postgres"])
async def rows(
    request: pytest.FixtureRequest,
    pg_server: PgServer,  # noqa: F811
) -> AsyncIterator[SealedRows]:
    if request.param == "memory":
        yield MemorySecrets(MemoryDatabase(SystemClock()))
        return
    async with Database(DatabaseSettings(dsn=pg_server.create_database())) as database:
        await PostgresTables(database).apply_schema()
        yield PostgresSecrets(database)


def credential(name: str = "db", **more: Any) -> CredentialRow:
    fields: dict[str, Any] = {
        "id": str(next(_ids)),
        "name": name,
        "type": "postgres",
        "data_encrypted": "envelope",
        "created_at": NOW,
        "updated_at": NOW,
        "meta": Raw(b'{"team": "core"}'),
        "tags": ("a", "b"),
        "description": "The shop's database",
    }
    return CredentialRow(**{**fields, **more})


def entry(key: str = "e:1:global", **more: Any) -> KeychainRow:
    fields: dict[str, Any] = {
        "cache_key": key,
        "keychain_name": key.partition(":")[0],
        "catalog_id": "1",
        "scope_type": "global",
        "data_encrypted": "envelope",
        "created_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
    }
    return KeychainRow(**{**fields, **more})


async def test_a_credential_is_found_by_id_and_by_name(rows: SealedRows) -> None:
    """SC-CR-01, SC-CR-02: numeric text is tried as an id, then as a name."""
    row = credential("db")
    stored = await rows.save_credential(row)
    assert stored is not None
    numeric = await rows.save_credential(credential("777"))
    for name in (row.id, "db"):
        found = await rows.credential(name)
        assert found is not None
        assert (found.id, found.name, found.type) == (row.id, "db", "postgres")
        assert (found.tags, found.description) == (("a", "b"), row.description)
        assert bytes(found.meta or b"").replace(b" ", b"") == b'{"team":"core"}'
    assert await rows.credential("777") == numeric
    assert await rows.credential("nobody") is None


async def test_replacing_keeps_the_id_and_moves_the_version(rows: SealedRows) -> None:
    """SC-CR-05: a replaced record is another version."""
    first = await rows.save_credential(credential("db"))
    assert first is not None
    second = await rows.save_credential(
        replace(first, data_encrypted="anew", type="basic")
    )
    assert second is not None
    assert (second.id, second.created_at) == (first.id, first.created_at)
    assert (second.data_encrypted, second.type) == ("anew", "basic")
    assert second.updated_at > first.updated_at


async def test_a_name_that_belongs_to_another_id_is_not_taken(rows: SealedRows) -> None:
    """SC-EN-02: an envelope is bound to its id, so the caller has to seal again."""
    first = await rows.save_credential(credential("db"))
    assert await rows.save_credential(credential("db", data_encrypted="x")) is None
    assert await rows.credential("db") == first


async def test_lists_are_by_name_and_can_be_narrowed(rows: SealedRows) -> None:
    """SC-CR-02."""
    for name, kind in (("b", "postgres"), ("a", "bearer"), ("c", "bearer")):
        await rows.save_credential(credential(name, type=kind))
    assert [row.name for row in await rows.credentials()] == ["a", "b", "c"]
    assert [row.name for row in await rows.credentials(kind="bearer")] == ["a", "c"]
    assert [r.name for r in await rows.credentials(kind="bearer", text="A")] == [
        "a",
        "c",
    ]
    assert [row.name for row in await rows.credentials(text="SHOP")] == ["a", "b", "c"]
    assert await rows.credentials(text="%") == []


async def test_what_is_deleted_is_gone(rows: SealedRows) -> None:
    row = credential()
    await rows.save_credential(row)
    assert await rows.drop_credential(row.id)
    assert not await rows.drop_credential(row.id)
    assert await rows.credential("db") is None


async def test_a_cached_value_counts_who_reads_it(rows: SealedRows) -> None:
    """SC-KC-09."""
    row = entry(
        execution_id="7001", scope_type="local", auto_renew=True, renew_config="x"
    )
    assert await rows.save_entry(row)
    for count in (1, 2):
        found = await rows.entry(row.cache_key)
        assert found is not None
        assert (found.access_count, found.accessed_at is not None) == (count, True)
    assert (found.execution_id, found.auto_renew) == ("7001", True)
    assert (found.expires_at, found.renew_config) == (row.expires_at, "x")
    assert await rows.entry("e:2:global") is None


async def test_a_refresh_never_brings_back_what_was_deleted(rows: SealedRows) -> None:
    """SC-CA-04."""
    await rows.save_entry(entry())
    anew = entry(data_encrypted="anew")
    assert await rows.save_entry(anew, replacing="envelope")
    assert not await rows.save_entry(entry(data_encrypted="late"), replacing="envelope")
    found = await rows.entry("e:1:global")
    assert found is not None
    assert found.data_encrypted == "anew"
    assert await rows.drop_entry("e:1:global")
    assert not await rows.drop_entry("e:1:global")
    assert not await rows.save_entry(anew, replacing="anew")
    assert await rows.entry("e:1:global") is None


async def test_expired_rows_go_unless_they_are_renewed(rows: SealedRows) -> None:
    """SC-KC-11."""
    past = NOW - timedelta(hours=1)
    await rows.save_entry(entry("old:1:global", expires_at=past))
    await rows.save_entry(entry("kept:1:global", expires_at=past, auto_renew=True))
    await rows.save_entry(entry("fresh:1:global"))
    assert await rows.purge_entries() == 1
    names = [row.keychain_name for row in await rows.entries("1")]
    assert names == ["fresh", "kept"]
    assert await rows.entries("2") == []


async def test_envelopes_are_paged_by_their_real_key(rows: SealedRows) -> None:
    """SC-RO-02: the keychain has no id column; ids count as numbers."""
    for number in ("9", "10", "11"):
        await rows.save_credential(credential(f"c{number}", id=number))
        await rows.save_entry(entry(f"e{number}:1:global"))
    first = await rows.cells("credential", "", 2)
    assert [cell.key for cell in first] == ["9", "10"]
    rest = await rows.cells("credential", first[-1].key, 2)
    assert [cell.key for cell in rest] == ["11"]
    keys = [cell.key for cell in await rows.cells("keychain", "", 9)]
    assert sorted(keys) == sorted(["e10:1:global", "e11:1:global", "e9:1:global"])
    assert await rows.cells("keychain", keys[-1], 9) == []


@pytest.mark.parametrize("table", ["credential", "keychain"])
async def test_an_envelope_is_swapped_only_while_it_is_there(
    rows: SealedRows, table: Any
) -> None:
    """SC-RO-02: a concurrent write is not lost."""
    await rows.save_credential(credential(id="5"))
    await rows.save_entry(entry("5"))
    assert await rows.swap(table, "5", "envelope", "anew")
    assert not await rows.swap(table, "5", "envelope", "late")
    assert not await rows.swap(table, "6", "envelope", "late")
    assert [cell.data_encrypted for cell in await rows.cells(table, "", 9)] == ["anew"]


def noted(minutes: int, credential: str = "db", **more: Any) -> AuditRow:
    at = NOW + timedelta(minutes=minutes)
    row = AuditRow(
        occurred_at=at, credential=credential, operation="get_sealed", outcome="ok"
    )
    return replace(row, **more)


async def test_the_trail_is_read_newest_first_and_can_be_narrowed(
    rows: SealedRows,
) -> None:
    """SC-AU-01, SC-AU-05."""
    full = noted(
        3,
        worker_id="w1",
        execution_id="7001",
        parent_execution_id="7000",
        server_region="eu",
        broker_region="us",
        kek_version="v1",
        notes="cache",
        outcome="denied",
    )
    await rows.add_audit([noted(1), noted(2, "other"), full])
    found = await rows.audit(AuditFilter())
    assert [row.occurred_at.minute for row in found] == [
        (NOW + timedelta(minutes=n)).minute for n in (3, 2, 1)
    ]
    assert replace(found[0], audit_id="") == full

    async def times(**wanted: Any) -> list[int]:
        read = await rows.audit(AuditFilter(**wanted))
        return [round((row.occurred_at - NOW).total_seconds() / 60) for row in read]

    assert await times(credential="db") == [3, 1]
    assert await times(execution_id="7001") == [3]
    assert await times(outcome="ok") == [2, 1]
    assert await times(operation="rotate") == []
    assert await times(after=NOW + timedelta(minutes=2)) == [3, 2]
    assert await times(before=NOW + timedelta(minutes=2)) == [1]
    assert await times(limit=1) == [3]


async def test_without_a_database_everything_says_so() -> None:
    database = MemoryDatabase(SystemClock())
    rows = MemorySecrets(database)
    database.away = "gone"
    for call in (
        rows.credential("a"),
        rows.save_credential(credential()),
        rows.entry("a"),
        rows.add_audit([noted(1)]),
        rows.cells("keychain", "", 1),
    ):
        with pytest.raises(UnavailableError, match="gone"):
            await call
