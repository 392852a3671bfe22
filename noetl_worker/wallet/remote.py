"""A tool worker's wallet: asks the server, always sealed to this worker (SC-SE-04).

Values are kept in memory for half a minute at most. What is away is asked again: a
third party three times, the server itself for as long as commands may wait (SC-AL-05,
RT-WRK-11).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NamedTuple, cast
from urllib.parse import quote

import anyio
import structlog
from msgspec import DecodeError, Struct, ValidationError
from msgspec.json import Decoder

from noetl_worker.wallet.delivery import Use, WorkerKey
from noetl_worker.wallet.envelope import wipe
from state_builder.credentials import Asker, Credential, Want
from state_builder.errors import (
    DamagedError,
    InvalidError,
    NoetlError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UpstreamError,
)
from state_builder.ports import Clock
from state_builder.records import JSON
from state_builder.redact import forms_of, secret_texts
from state_builder.routes import ServerRoutes

log = structlog.get_logger(__name__)

KEPT_S: Final = 30.0
KEPT_MAX: Final = 1_000
MASKED_MAX: Final = 10_000
"""Texts hidden from this process's log lines, the last used."""

_WAITS_S: Final = (0.5, 1.0)
_UPSTREAM: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_TERMINAL: Final[dict[int, type[NoetlError]]] = {
    HTTPStatus.UNAUTHORIZED: RefusedError,
    HTTPStatus.FORBIDDEN: RefusedError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.INTERNAL_SERVER_ERROR: DamagedError,
}


@dataclass(frozen=True, kw_only=True)
class RemoteSettings:
    """How a worker asks.

    Attributes:
        attempts_max: tries against a third party that is away.
        deadline_s: how long a command waits for a server that is away.
    """

    worker_id: str
    attempts_max: int = 3
    deadline_s: float = 300.0


class _Answer(Struct):
    """What is inside of the seal."""

    type: str
    data: dict[str, object]
    version: str = ""
    expires_at: float | None = None


class _Kept(NamedTuple):
    credential: Credential
    until: float


_decode = Decoder(_Answer).decode


class RemoteWallet:
    """The ``Wallet`` port over HTTP."""

    def __init__(
        self,
        server: ServerRoutes,
        key: WorkerKey,
        register: Callable[[], Awaitable[None]],
        clock: Clock,
        settings: RemoteSettings,
    ) -> None:
        self._server = server
        self._key = key
        self._register = register
        self._clock = clock
        self._settings = settings
        self._kept: OrderedDict[tuple[str, str, str], _Kept] = OrderedDict()
        self._asking: dict[tuple[str, str, str], anyio.Lock] = {}
        self._masked: OrderedDict[str, None] = OrderedDict()

    @property
    def masked(self) -> tuple[str, ...]:
        """Secret texts this process has seen lately, the longest first."""
        return tuple(sorted(self._masked, key=len, reverse=True))

    async def credential(
        self, alias: str, asker: Asker, want: Want = "credential"
    ) -> Credential:
        """The credential behind a name."""
        place = (alias, want, asker.execution_id)
        kept = self._known(place)
        if kept is not None:
            return kept
        lock = self._asking.setdefault(place, anyio.Lock())
        try:
            async with lock:
                kept = self._known(place)
                if kept is None:
                    kept = await self._fetched(alias, asker, want)
                    self._keep(place, kept)
                return kept
        finally:
            if not lock.statistics().tasks_waiting:
                self._asking.pop(place, None)

    def forget(self, alias: str) -> None:
        """Fetch it anew the next time."""
        for place in [place for place in self._kept if place[0] == alias]:
            del self._kept[place]

    def _known(self, place: tuple[str, str, str]) -> Credential | None:
        kept = self._kept.get(place)
        if kept is None or kept.until <= self._clock.now():
            return None
        return kept.credential

    def _keep(self, place: tuple[str, str, str], credential: Credential) -> None:
        until = self._clock.now() + KEPT_S
        if credential.expires_at is not None:
            until = min(until, credential.expires_at)
        self._kept[place] = _Kept(credential, until)
        self._kept.move_to_end(place)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        for text in forms_of(secret_texts(credential.type, credential.reveal())):
            self._masked[text] = None
            self._masked.move_to_end(text)
        while len(self._masked) > MASKED_MAX:
            self._masked.popitem(last=False)

    async def _fetched(self, alias: str, asker: Asker, want: Want) -> Credential:
        """Ask until there is an answer that will not change (SC-AL-05)."""
        deadline = self._clock.monotonic() + self._settings.deadline_s
        upstream = waits = 0
        while True:
            try:
                return await self._once(alias, asker, want)
            except UpstreamError:
                upstream += 1
                if upstream >= self._settings.attempts_max:
                    raise
                wait = _WAITS_S[min(upstream, len(_WAITS_S)) - 1]
            except UnavailableError as error:
                wait = min(0.25 * 2 ** min(waits, 5), 8.0)
                waits += 1
                if self._clock.monotonic() + wait > deadline:
                    raise
                log.warning("credential.delayed", alias=alias, reason=str(error))
            await self._clock.sleep(wait)

    async def _once(self, alias: str, asker: Asker, want: Want) -> Credential:
        status, body = await self._ask(alias, asker, want)
        if _word(body, "code") in ("worker_not_found", "no_pubkey"):
            # The server lost us, or swept us while it was away: say so again.
            await self._register()
            status, body = await self._ask(alias, asker, want)
        if status != HTTPStatus.OK:
            raise _refusal(alias, status, body)
        use = Use(self._settings.worker_id, alias, asker.execution_id)
        try:
            plaintext = self._key.unseal(body, use)
        except (DamagedError, InvalidError) as error:
            raise DamagedError(f"credential '{alias}': {error}") from error
        try:
            answer = _decode(plaintext)
        except (DecodeError, ValidationError) as error:
            raise DamagedError(f"credential '{alias}': unreadable answer") from error
        finally:
            wipe(plaintext)
        return Credential(
            alias,
            answer.type,
            cast("dict[str, JSON]", answer.data),
            version=answer.version,
            expires_at=answer.expires_at,
        )

    async def _ask(self, alias: str, asker: Asker, want: Want) -> tuple[int, JSON]:
        query: dict[str, str | int] = {
            "worker_id": self._settings.worker_id,
            "execution_id": asker.execution_id,
            "command_id": asker.command_id,
            "sequence": asker.sequence,
            "want": want,
        }
        if asker.fresh:
            query["fresh"] = "true"
        path = f"/api/credentials/{quote(alias, safe='')}/sealed"
        return await self._server.exchange("GET", path, None, query)


def _refusal(alias: str, status: int, body: JSON) -> NoetlError:
    """The server's refusal, in words that name the alias and the status (SC-AL-06)."""
    words = _word(body, "message") or _word(body, "error") or "no reason given"
    named = words if f"'{alias}'" in words else f"credential '{alias}': {words}"
    text = f"{named} (status {status})"
    if status in _UPSTREAM:
        return UpstreamError(text)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return UnavailableError(text)
    return _TERMINAL.get(status, InvalidError)(text)


def _word(body: JSON, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else ""
