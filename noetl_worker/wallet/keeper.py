"""The wallet put together: what the server does with secrets (port ``Vault``).

Every read and every change leaves an audit row, those that fail too; where the trail is
required, the row is committed before the value is handed out.
"""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import structlog

from noetl_worker.settings import Wallet
from noetl_worker.wallet.audit import Trail, outcome_of
from noetl_worker.wallet.circumstances import Executions
from noetl_worker.wallet.credentials import Records, info_of
from noetl_worker.wallet.delivery import Use, seal
from noetl_worker.wallet.entries import CacheSettings, Entries
from noetl_worker.wallet.envelope import wipe
from noetl_worker.wallet.keychain import cache_key, scope_of
from noetl_worker.wallet.keys import Keyring
from noetl_worker.wallet.minting import Mint
from noetl_worker.wallet.providers import Providers, ProviderSettings, Web
from noetl_worker.wallet.residency import ResidencyError
from noetl_worker.wallet.resolution import Found, Resolver, Sources
from noetl_worker.wallet.rotation import Rotation
from state_builder.credentials import (
    Asker,
    Credential,
    CredentialInfo,
    NewCredential,
    NewEntry,
    Place,
    Want,
)
from state_builder.errors import (
    InvalidError,
    NoetlError,
    NotFoundError,
    UnavailableError,
    UpstreamError,
)
from state_builder.ports import Clock, Observer, Signals
from state_builder.records import JSON, encode_json
from state_builder.sealed import AuditFilter, AuditRow, KeychainRow, SealedRows
from state_builder.stores import Tables

log = structlog.get_logger(__name__)

LOOKUP_S: Final = 20.0
"""One lookup with all it needs (SC-FL-02)."""

PURGE_S: Final = 60.0
AUDIT_ROWS_MAX: Final = 10_000
SEALED_VERSION: Final = 2

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class KeeperPorts:
    """What the wallet may touch."""

    rows: SealedRows
    tables: Tables
    signals: Signals
    clock: Clock
    observer: Observer
    mint_id: Callable[[], str]


class Keeper:
    """The server's wallet; an async context manager: fetches live inside of it."""

    def __init__(
        self,
        ports: KeeperPorts,
        settings: Wallet,
        keys: Keyring,
        providers: ProviderSettings,
        shard_count: int,
    ) -> None:
        clock, observer = ports.clock, ports.observer
        self._ports = ports
        self._records = Records(ports.rows, keys, clock, ports.mint_id)
        self._trail = Trail(
            ports.rows,
            keys,
            clock,
            observer,
            region=settings.region,
            required=settings.audit_required,
        )
        cache = CacheSettings(
            renew_s=settings.refresh_s,
            window_s=settings.refresh_window_s,
            margin_s=settings.safety_margin_s,
        )
        self._entries = Entries(ports.rows, keys, clock, observer, cache)
        self._executions = Executions(ports.signals, ports.tables, shard_count)
        self._rotation = Rotation(ports.rows, keys, observer)
        self._web = Web()
        self._resolver = Resolver(
            Sources(
                records=self._records,
                entries=self._entries,
                executions=self._executions,
                providers=Providers(providers, self._web, clock, observer),
                mint=Mint(self._web, clock),
                clock=clock,
                observer=observer,
                seeded=providers.env_values,
                region=settings.region,
            )
        )
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        # What is in memory now must not end up on a disk (SC-EN-08).
        resource.setrlimit(resource.RLIMIT_CORE, (0, _core_limit()))
        await self._tasks.__aenter__()
        self._entries.fetch_in(self._tasks)
        self._tasks.start_soon(self._trail.run)
        self._tasks.start_soon(self._check_keys)
        self._tasks.start_soon(self._purge)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._entries.fetch_in(None)
        self._tasks.cancel_scope.cancel()
        result = await self._tasks.__aexit__(kind, error, trace)
        with anyio.CancelScope(shield=True):
            await self._web.close()
        return result

    async def save(self, new: NewCredential) -> CredentialInfo:
        """Create, or replace what has that name."""
        try:
            info, created = await self._records.save(new)
        except NoetlError as error:
            await self._failed("create", new.name, error)
            raise
        await self._trail.note("create" if created else "update", new.name, "ok")
        return info

    async def find(self, name: str) -> CredentialInfo:
        """By id or name, without data."""
        return info_of(await self._records.find(name))

    async def listed(self, type: str = "", text: str = "") -> Sequence[CredentialInfo]:
        """By name; of a type, or with ``text`` in name or description."""
        rows = await self._ports.rows.credentials(kind=type, text=text)
        return [info_of(row) for row in rows]

    async def drop(self, name: str) -> str:
        """Delete by id or name; the id."""
        async with self._noted("delete", name):
            return await self._records.drop(name)

    async def reveal(self, name: str, asker: Asker, want: Want) -> Credential:
        """The values, for whoever may see them."""
        return (await self._revealed(name, asker, want, "")).credential

    async def sealed(self, name: str, asker: Asker, want: Want) -> dict[str, JSON]:
        """The values, readable by the asking worker alone."""
        status = "credential_error"
        try:
            key = await self._worker_key(name, asker)
            found = await self._revealed(name, asker, want, "get_sealed")
            status = "seal_error"
            message = _sealed(found.credential, key, name, asker)
            status = "ok"
            return message
        except _NoKeyError:
            status = "no_pubkey"
            raise
        except _NoWorkerError:
            status = "worker_not_found"
            raise
        except ResidencyError:
            status = "residency_violation"
            raise
        finally:
            self._ports.observer.count("noetl_credentials_sealed_total", status=status)

    async def entry(self, place: Place) -> tuple[KeychainRow, Credential | None]:
        """A cached keychain value; None when it has expired."""
        async with self._noted("resolve_keychain", place.name):
            row = await self._ports.rows.entry(cache_key(place))
            if row is None:
                raise NotFoundError(f"keychain '{place.name[:128]}' is not cached")
            return row, await self._entries.open(row)

    async def save_entry(self, place: Place, new: NewEntry) -> KeychainRow:
        """Cache a keychain value."""
        if not isinstance(new.data, dict):
            raise InvalidError("data must be an object")
        renew = None
        if new.renew_config is not None:
            renew = await self._entries.sealed(cache_key(place), new.renew_config)
        scope = scope_of(place.scope)
        row = KeychainRow(
            cache_key=cache_key(place),
            keychain_name=place.name,
            catalog_id=place.catalog_id,
            scope_type=scope,
            data_encrypted="",
            created_at=self._now(),
            credential_type=new.credential_type,
            cache_type=new.cache_type,
            execution_id="" if scope == "global" else place.execution_id,
            expires_at=None
            if new.expires_at is None
            else datetime.fromtimestamp(new.expires_at, UTC),
            auto_renew=new.auto_renew,
            renew_config=renew,
        )
        async with self._noted("update", place.name):
            value = Credential(place.name, new.credential_type, new.data)
            return await self._entries.store(row, value)

    async def drop_entry(self, place: Place) -> bool:
        """Forget it; False when it was not there."""
        async with self._noted("delete", place.name):
            return await self._ports.rows.drop_entry(cache_key(place))

    async def entries(self, catalog_id: str) -> Sequence[KeychainRow]:
        """What is cached of a playbook."""
        return await self._ports.rows.entries(catalog_id)

    async def rotate(self, batch_size: int, batches_max: int) -> dict[str, JSON]:
        """Wrap data keys of old key versions anew."""
        async with self._noted("rotate", "*"):
            return await self._rotation.run(batch_size, batches_max)

    async def key_status(self) -> list[dict[str, JSON]]:
        """Rows by table, provider, key and version."""
        return await self._rotation.status()

    async def audit(self, wanted: AuditFilter) -> Sequence[AuditRow]:
        """The trail, newest first, with what is still on its way to the table."""
        await self._trail.flush()
        limit = max(1, min(wanted.limit, AUDIT_ROWS_MAX))
        return await self._ports.rows.audit(wanted._replace(limit=limit))

    async def _revealed(
        self, name: str, asker: Asker, want: Want, operation: str
    ) -> Found:
        """The value, after its audit row."""
        try:
            found = await _in_time(name, self._resolver.find(name, asker, want))
        except NoetlError as error:
            await self._failed(operation or "get_credential", name, error, asker)
            raise
        await self._trail.note(
            operation or found.operation, name, "ok", asker, found.notes
        )
        return found

    async def _worker_key(self, name: str, asker: Asker) -> str:
        try:
            try:
                key = await self._executions.public_key(asker)
            except NotFoundError as error:
                raise _NoWorkerError(str(error)) from error
            if not key:
                raise _NoKeyError(
                    f"worker '{asker.worker_id}' registered no public key"
                )
        except NoetlError as error:
            await self._failed("get_sealed", name, error, asker)
            raise
        return key

    async def _failed(
        self, operation: str, name: str, error: NoetlError, asker: Asker | None = None
    ) -> None:
        outcome = outcome_of(error)
        if isinstance(error, ResidencyError):
            outcome = "residency_violation"
        elif isinstance(error, _NoKeyError):
            outcome = "no_pubkey"
        await self._trail.note(operation, name, outcome, asker, str(error))

    @asynccontextmanager
    async def _noted(self, operation: str, name: str) -> AsyncIterator[None]:
        """Note how what is inside ends."""
        try:
            yield
        except NoetlError as error:
            await self._failed(operation, name, error)
            raise
        await self._trail.note(operation, name, "ok")

    async def _check_keys(self) -> None:
        """Say loudly when what is stored was sealed with another key than was given."""
        try:
            reason = await self._rotation.unreadable()
        except UnavailableError:
            return  # whoever asks for a value will hear it
        if reason:
            log.error("wallet.key_mismatch", reason=reason)

    async def _purge(self) -> None:
        """Delete expired values and those of ended executions (SC-KC-11)."""
        while True:
            await self._ports.clock.sleep(PURGE_S)
            try:
                await self._ports.rows.purge_entries()
            except UnavailableError as error:
                log.warning("keychain.purge_delayed", reason=str(error))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._ports.clock.now(), UTC)


class _NoKeyError(InvalidError):
    """A worker that cannot be sealed to."""

    code = "no_pubkey"


class _NoWorkerError(NotFoundError):
    """A worker nobody knows."""

    code = "worker_not_found"


def _core_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_CORE)[1]


async def _in_time(name: str, lookup: Awaitable[T]) -> T:
    with anyio.move_on_after(LOOKUP_S):
        return await lookup
    raise UpstreamError(f"'{name[:128]}' could not be had within {LOOKUP_S:g} seconds")


def _sealed(
    credential: Credential, key: str, name: str, asker: Asker
) -> dict[str, JSON]:
    """What a worker opens: alias, type, fields, version and end."""
    plaintext = bytearray(
        encode_json(
            {
                "type": credential.type,
                "data": credential.reveal(),
                "version": credential.version,
                "expires_at": credential.expires_at,
            }
        )
    )
    use = Use(asker.worker_id, name, asker.execution_id)
    try:
        return seal(bytes(plaintext), key, use, SEALED_VERSION)
    finally:
        wipe(plaintext)
