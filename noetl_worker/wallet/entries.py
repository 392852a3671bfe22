"""Keychain entries: cached, renewed in time, fetched once however many ask (SC-CA).

A fetch runs in a task of its own: whoever waits may go away without ending it for the
others, and whoever comes while it runs shares what it gives, its error too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from dataclasses import replace as copied
from datetime import UTC, datetime
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup
from msgspec.structs import replace

from noetl_worker.wallet.credentials import opened
from noetl_worker.wallet.envelope import binding, seal
from noetl_worker.wallet.keys import Keyring
from state_builder.credentials import Credential
from state_builder.errors import DamagedError, NoetlError, UnavailableError
from state_builder.ports import Clock, Observer
from state_builder.records import JSON, encode_json
from state_builder.sealed import KeychainRow, SealedRows

log = structlog.get_logger(__name__)

REFRESHES_MAX: Final = 32
"""Background refreshes at once (SC-CA-04)."""

TTL_FLOOR_S: Final = 5.0

Fetch = Callable[[], Awaitable[Credential]]
Renew = Callable[[dict[str, JSON]], Awaitable[Credential]]


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """How long values are kept.

    Attributes:
        renew_s: tokens are renewed this long before their end (SC-KC-13).
        window_s: other values are refreshed in the background then (SC-CA-03).
        margin_s: nothing is kept closer to its end than this (SC-CA-01).
    """

    renew_s: float = 300.0
    window_s: float = 60.0
    margin_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One entry for one scope, and how to get it anew.

    Attributes:
        row: what is known of its row but for the value.
        renew: gets it by the call its row was stored with (SC-KC-13).
        fresh: what is kept is not wanted (SC-KC-14).
        ttl_s: how long a value without an end is kept.
        keep_s: most a value with an end is kept.
    """

    row: KeychainRow
    fetch: Fetch = field(repr=False)
    renew: Renew = field(repr=False)
    ttl_s: float
    keep_s: float | None = None
    auto_renew: bool = False
    fresh: bool = False


class _Flight:
    """A fetch under way."""

    def __init__(self) -> None:
        self.landed = anyio.Event()
        self.credential: Credential | None = None
        self.error: NoetlError | None = None


class Entries:
    """The cache."""

    def __init__(
        self,
        rows: SealedRows,
        keys: Keyring,
        clock: Clock,
        observer: Observer,
        settings: CacheSettings,
    ) -> None:
        self._rows = rows
        self._keys = keys
        self._clock = clock
        self._observer = observer
        self._settings = settings
        self._flights: dict[str, _Flight] = {}
        self._refreshing = 0
        self._tasks: TaskGroup | None = None

    def fetch_in(self, tasks: TaskGroup | None) -> None:
        """Fetches live in this group from now on."""
        self._tasks = tasks

    async def get(self, wanted: Wanted) -> tuple[Credential, str]:
        """The value, and where it came from: ``cache`` or ``source``."""
        row = await self._rows.entry(wanted.row.cache_key)
        wanted = self._renewed_by(row, wanted)
        if wanted.fresh:
            return await self._fetched(wanted, row), "source"
        known = await self._open(row) if row is not None else None
        if row is None or known is None:
            return await self._fetched(wanted, None), "source"
        left = self._left(row)
        if left <= 0:
            return await self._fetched(wanted, None), "source"
        if wanted.auto_renew and left <= self._settings.renew_s:
            try:
                return await self._fetched(wanted, row), "source"
            except NoetlError as error:
                # What is still good beats what cannot be had (SC-KC-13).
                log.warning(
                    "keychain.renewal_failed",
                    entry=wanted.row.keychain_name,
                    reason=str(error),
                )
        elif left <= self._settings.window_s:
            self._refresh(wanted, row)
        return known, "cache"

    def _renewed_by(self, row: KeychainRow | None, wanted: Wanted) -> Wanted:
        """A row that says itself how it is renewed is renewed so, and says it on."""
        if row is None or row.renew_config is None:
            return wanted
        envelope, bound_to = row.renew_config, binding("keychain", row.cache_key)

        async def fetch() -> Credential:
            name = wanted.row.keychain_name
            given = await opened(envelope, bound_to, self._keys, name)
            return await wanted.renew(given)

        kept = replace(wanted.row, renew_config=envelope)
        renewed = wanted.auto_renew or row.auto_renew
        return copied(wanted, row=kept, fetch=fetch, auto_renew=renewed)

    async def known(self, cache_key: str) -> KeychainRow | None:
        """What is stored under a key and may still give a value."""
        row = await self._rows.entry(cache_key)
        if row is None or (self._left(row) <= 0 and row.renew_config is None):
            return None
        return row

    async def open(self, row: KeychainRow) -> Credential | None:
        """The value in a row; None when it has expired. Raises DamagedError."""
        if self._left(row) <= 0:
            return None
        return await self._unsealed(row)

    async def store(self, row: KeychainRow, credential: Credential) -> KeychainRow:
        """Keep a value given by hand."""
        sealed = await self._sealed(row, credential)
        await self._rows.save_entry(sealed)
        return sealed

    def _left(self, row: KeychainRow) -> float:
        if row.expires_at is None:
            return float("inf")
        return row.expires_at.timestamp() - self._clock.now()

    async def _open(self, row: KeychainRow) -> Credential | None:
        """The value; a damaged one is fetched anew, which repairs the row."""
        try:
            return await self._unsealed(row)
        except DamagedError as error:
            log.warning("keychain.damaged", entry=row.keychain_name, reason=str(error))
            return None

    async def _unsealed(self, row: KeychainRow) -> Credential:
        bound_to = binding("keychain", row.cache_key)
        fields = await opened(
            row.data_encrypted, bound_to, self._keys, row.keychain_name
        )
        expires_at = None if row.expires_at is None else row.expires_at.timestamp()
        return Credential(
            row.keychain_name,
            row.credential_type,
            fields,
            version=f"{row.cache_key}@{row.created_at.timestamp():.6f}",
            expires_at=expires_at,
        )

    async def _fetched(self, wanted: Wanted, known: KeychainRow | None) -> Credential:
        """One fetch, however many ask; its result or its error is everybody's."""
        key = wanted.row.cache_key
        flight = self._flights.get(key)
        if flight is not None:
            self._observer.count(
                "noetl_secret_refresh_total", outcome="stampede_collapsed"
            )
        else:
            flight = self._start(wanted, known)
        await flight.landed.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.credential is not None
        return flight.credential

    def _start(self, wanted: Wanted, known: KeychainRow | None) -> _Flight:
        if self._tasks is None:
            raise UnavailableError("the wallet is not running")
        flight = self._flights[wanted.row.cache_key] = _Flight()
        self._tasks.start_soon(self._fly, flight, wanted, known)
        return flight

    async def _fly(
        self, flight: _Flight, wanted: Wanted, known: KeychainRow | None
    ) -> None:
        try:
            flight.credential = await wanted.fetch()
            await self._keep(wanted, flight.credential, known)
        except NoetlError as error:
            flight.error = error
        except BaseException:
            flight.error = UnavailableError(
                f"keychain '{wanted.row.keychain_name}': the fetch was interrupted"
            )
            raise
        finally:
            del self._flights[wanted.row.cache_key]
            flight.landed.set()

    def _refresh(self, wanted: Wanted, known: KeychainRow) -> None:
        """Fetch behind the back of whoever asks (SC-CA-03)."""
        key = wanted.row.cache_key
        if key in self._flights:
            self._observer.count(
                "noetl_secret_refresh_total", outcome="stampede_collapsed"
            )
            return
        if self._refreshing >= REFRESHES_MAX or self._tasks is None:
            self._observer.count("noetl_limit_hits_total", limit="secret_refreshes")
            return
        self._observer.count("noetl_secret_refresh_total", outcome="triggered")
        flight = self._flights[key] = _Flight()
        self._refreshing += 1
        self._tasks.start_soon(self._refreshed, flight, wanted, known)

    async def _refreshed(
        self, flight: _Flight, wanted: Wanted, known: KeychainRow
    ) -> None:
        began = self._clock.monotonic()
        try:
            await self._fly(flight, wanted, known)
        finally:
            self._refreshing -= 1
            outcome = "succeeded" if flight.error is None else "failed"
            self._observer.count("noetl_secret_refresh_total", outcome=outcome)
            self._observer.time(
                "noetl_secret_refresh_duration_seconds",
                self._clock.monotonic() - began,
            )

    async def _keep(
        self, wanted: Wanted, credential: Credential, known: KeychainRow | None
    ) -> None:
        """Cache a value for as long as SC-CA-01 allows."""
        now = self._clock.now()
        end = credential.expires_at
        if end is None:
            ttl = wanted.ttl_s
        else:
            ttl = end - now - self._settings.margin_s
            if ttl <= 0:
                reason = "expired" if end <= now else "inside_margin"
                self._observer.count("noetl_secret_cache_skip_total", reason=reason)
                return
            if wanted.keep_s is not None:
                ttl = min(ttl, wanted.keep_s)
        expires_at = datetime.fromtimestamp(now + max(ttl, TTL_FLOOR_S), UTC)
        row = replace(
            wanted.row,
            created_at=datetime.fromtimestamp(now, UTC),
            expires_at=expires_at,
            credential_type=credential.type,
            auto_renew=wanted.auto_renew,
        )
        sealed = await self._sealed(row, credential)
        replacing = None if known is None else known.data_encrypted
        await self._rows.save_entry(sealed, replacing=replacing)

    async def sealed(self, key: str, value: JSON) -> str:
        """A value as the row of that cache key may hold it."""
        return await seal(encode_json(value), binding("keychain", key), self._keys)

    async def _sealed(self, row: KeychainRow, credential: Credential) -> KeychainRow:
        text = await self.sealed(row.cache_key, credential.reveal())
        return replace(row, data_encrypted=text)
