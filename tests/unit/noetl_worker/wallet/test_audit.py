"""The trail: required or best effort, bounded, without values (SC-AU)."""

from __future__ import annotations

import resource
from typing import Any

import anyio
import pytest
from wallet_world import World, keyring, wallet_world

from materializer.memory import MemorySecrets
from noetl_worker.metrics import METRICS
from noetl_worker.wallet.audit import QUEUE_MAX, Trail
from state_builder.errors import InvalidError, UnavailableError
from state_builder.sealed import AuditRow

MARKER = "marker-of-a-secret"


class Deaf(MemorySecrets):
    """Rows whose trail cannot be written while ``away``."""

    away = False

    async def add_audit(self, rows: Any) -> None:
        if self.away:
            raise UnavailableError("database: gone")
        await super().add_audit(rows)


def deafen(world: World) -> Deaf:
    deaf = Deaf(world.database)
    world.keeper._trail._rows = deaf
    return deaf


async def test_where_the_trail_is_required_nothing_is_given_without_it() -> None:
    """SC-AU-04, SC-TE-07: 503, the value withheld, counted; then it is given."""
    async with wallet_world(NOETL_SECRET_AUDIT_REQUIRED="yes") as world:
        await world.save("db", "secret", secret=MARKER)
        deaf = deafen(world)
        deaf.away = True
        with pytest.raises(
            UnavailableError, match="NOETL_SECRET_AUDIT_REQUIRED"
        ) as caught:
            await world.reveal("db", "credential")
        assert MARKER not in str(caught.value)
        labels = {
            "operation": "get_credential",
            "outcome": "ok",
            "status": "failed_strict",
        }
        assert world.metric("noetl_secret_audit_writes_total", **labels) == 1
        deaf.away = False
        assert (await world.reveal("db", "credential")).reveal() == {"secret": MARKER}
        assert [row.operation for row in world.database.audit] == [
            "create",
            "get_credential",
        ]


async def test_where_it_is_not_a_value_does_not_wait_for_it() -> None:
    """SC-AU-04, SC-TE-07: the row is written when the table is back."""
    async with wallet_world() as world:
        await world.save("db", "secret", secret=MARKER)
        deaf = deafen(world)
        deaf.away = True
        assert (await world.reveal("db", "credential")).reveal() == {"secret": MARKER}
        assert world.database.audit == []
        deaf.away = False
        await anyio.wait_all_tasks_blocked()
        world.clock.advance(1)
        await anyio.wait_all_tasks_blocked()
        assert [row.operation for row in world.database.audit] == [
            "create",
            "get_credential",
        ]


async def test_what_waits_is_bounded_and_what_is_dropped_is_counted() -> None:
    """SC-AU-04."""
    async with wallet_world() as world:
        trail = Trail(deafen(world), keyring(), world.clock, world.observer)
        for _ in range(QUEUE_MAX + 3):
            await trail.note("get_credential", "db", "ok")
        labels = {
            "operation": "get_credential",
            "outcome": "ok",
            "status": "dropped_async",
        }
        assert world.metric("noetl_secret_audit_writes_total", **labels) == 3
        assert world.metric("noetl_limit_hits_total", limit="secret_audit_queue") == 3


async def test_what_waits_is_written_when_the_server_stops() -> None:
    """SC-AU-04: flushed at shutdown."""
    async with wallet_world() as world:
        await world.save("db", "secret", secret=MARKER)
        assert world.database.audit == []
    assert [row.operation for row in world.database.audit] == ["create"]


async def test_every_operation_and_outcome_has_its_name() -> None:
    """SC-AU-02, SC-AU-03: success and failure of reads and changes."""
    async with wallet_world() as world:
        await world.save("db", "secret", secret=MARKER)
        await world.save("db", "secret", secret=MARKER)
        await world.playbook("  - {name: e, kind: static, map: {k: v}}")
        await world.reveal("e")
        await world.reveal("db", "credential")
        for name in ("none", "db"):
            with pytest.raises(Exception, match=name):
                await world.reveal(name, "token")
        with pytest.raises(InvalidError):
            await world.save("b d", "secret", secret=MARKER)
        await world.keeper.drop("db")
        await world.keeper.rotate(10, 1)
        found = [(row.operation, row.outcome) for row in await world.trail()]
        assert found == [
            ("create", "ok"),
            ("update", "ok"),
            ("resolve_keychain", "ok"),
            ("get_credential", "ok"),
            ("get_credential", "credential_not_found"),
            ("get_credential", "provider_fetch_error"),
            ("create", "provider_fetch_error"),
            ("delete", "ok"),
            ("rotate", "ok"),
        ]
        assert MARKER not in repr(world.database.audit)


async def test_notes_are_cut_and_scrubbed() -> None:
    """SC-AU-06, SC-AU-01."""
    async with wallet_world() as world:
        trail = world.keeper._trail
        await trail.note(
            "create", "x" * 500, "ok", notes="Bearer abcdefgh " + "y " * 900
        )
        [row] = await world.trail()
        assert len(row.notes) <= 500
        assert len(row.credential) <= 128
        assert "abcdefgh" not in row.notes
        assert isinstance(row, AuditRow)
        assert row.kek_version == "v1"


def test_known_series_are_there_from_the_start() -> None:
    """SC-ME-01, SC-ME-02, SC-RO-04: no alias, execution or worker among the labels."""
    ours = [
        m
        for m in METRICS
        if m.name.startswith(("noetl_secret", "noetl_wallet", "noetl_credentials"))
    ]
    names = {label.partition("=")[0] for metric in ours for label in metric.labels}
    assert names == {
        "status", "provider", "region", "policy", "decision", "reason", "outcome",
        "operation", "table",
    }  # fmt: skip
    assert len(ours) >= 11


async def test_a_server_that_holds_keys_leaves_no_core() -> None:
    """SC-EN-08: ``RLIMIT_CORE`` is 0 while a wallet is open."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        async with wallet_world():
            assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (0, before[1]))
