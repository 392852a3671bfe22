"""The secrets of one command: fetched when a text asks, masked in all that leaves.

Each name is looked up once per command (SC-AL-07). The holder is never part of a scope
that is shown, a result or a log line (TL-AUT-06).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import structlog

from state_builder.credentials import Asker, Credential, Keychain, Wallet, Want
from state_builder.errors import (
    NoetlError,
    NotFoundError,
    TemplateError,
    UnavailableError,
    UpstreamError,
)
from state_builder.ports import Command
from state_builder.records import JSON
from state_builder.redact import forms_of, known, secret_texts
from tools.auth import unavailable

log = structlog.get_logger()

LOOKUPS_MAX: Final = 64
"""Names one text may need."""

T = TypeVar("T")


class WalletAwayError(UnavailableError):
    """The platform did not answer for as long as a command may wait; whoever gets the
    command next may find it back (RT-WRK-11)."""


class Holder:
    """What a command was given.

    Attributes:
        began: something of the command has run, so that to begin again may do it twice.
        keychain: entries as texts read them.
        masks: texts that must not leave the worker, the longest first.
    """

    def __init__(self, wallet: Wallet, command: Command, *, strict: bool) -> None:
        self._wallet = wallet
        self._asker = Asker(
            command.execution_id,
            command.command_id,
            command.worker_id,
            command.sequence,
        )
        self._strict = strict
        self._found: dict[tuple[str, Want], Credential] = {}
        self._tokens: dict[str, JSON] = {}
        self._token_wanted: str | None = None
        self._hidden: set[str] = set()
        self.keychain = Keychain(strict=strict)
        self.masks: tuple[str, ...] = ()
        self.began = False

    async def lookup(self, alias: str, want: Want) -> Credential:
        """The credential behind a name. Raises ToolCallError and WalletAwayError."""
        found = self._found.get((alias, want))
        if found is None:
            try:
                found = await self._wallet.credential(alias, self._asker, want)
            except NoetlError as error:
                third_party = isinstance(error, UpstreamError)
                away = isinstance(error, UnavailableError) and not third_party
                if away and not self.began:
                    raise WalletAwayError(str(error)) from error
                raise unavailable(error) from error
            self._found[alias, want] = found
            self.hide(secret_texts(found.type, found.reveal()))
        return found

    def token(self, alias: str) -> JSON:
        """``token('alias')`` in a text; what is not there yet is fetched, and the text
        rendered again."""
        if alias not in self._tokens:
            self._token_wanted = alias
            raise TemplateError(f"token('{alias}') is not known")
        return self._tokens[alias]

    def hide(self, texts: Iterable[str]) -> None:
        """Mask these, in every form they may take."""
        more = forms_of(texts) - self._hidden
        if more:
            self._hidden |= more
            self.masks = known(self._hidden)

    def refused(self) -> None:
        """A remote side took none of it: whoever asks next gets them anew."""
        for alias, _ in self._found:
            self._wallet.forget(alias)

    def renew(self) -> bool:
        """Whoever asks next gets it anew from its source (SC-KC-14); False when the
        command was given nothing that could be renewed."""
        given = bool(self._found)
        self.refused()
        self._found.clear()
        self._tokens.clear()
        self.keychain.clear()
        self._asker = self._asker._replace(fresh=given)
        return given

    async def settle(self, work: Callable[[], T]) -> T:
        """What ``work`` gives once every secret its texts read is there.

        Raises what it raises, and ToolCallError for a secret that cannot be had.
        """
        for _ in range(LOOKUPS_MAX):
            try:
                return work()
            except TemplateError:
                if not await self._fetch_wanted():
                    raise
        return work()

    async def _fetch_wanted(self) -> bool:
        """Fetch what the last text asked for; False when it was nothing of ours."""
        entry, self.keychain.wanted = self.keychain.wanted, None
        token, self._token_wanted = self._token_wanted, None
        if token is not None:
            found = await self.lookup(token, "token")
            self._tokens[token] = found.reveal().get("access_token")
        elif entry is not None:
            self.keychain.put(entry, await self._entry(entry))
        return token is not None or entry is not None

    async def _entry(self, name: str) -> dict[str, JSON] | None:
        try:
            return (await self.lookup(name, "entry")).reveal()
        except NoetlError as error:
            if self._strict or not isinstance(error.__cause__, NotFoundError):
                raise
            log.warning("keychain.entry_missing", entry=name, reason=str(error))
            return None
