"""Credentials: what a tool is given, who asks for it, and the ports they come through.

A value exists in a :class:`Credential` alone, in the memory of whoever needs it: that
class has no fields to encode, refuses to be pickled and prints its name (SC-LG-03).
What is stored is sealed, see :mod:`state_builder.sealed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple, NoReturn, Protocol, TypeAlias

from msgspec import Raw, Struct

from state_builder.errors import TemplateError
from state_builder.records import JSON
from state_builder.sealed import AuditFilter, AuditRow, KeychainRow

Want: TypeAlias = Literal["credential", "entry", "token"]
"""What a name stands for: a credential (SC-AL-02), first of all an entry of the
playbook's keychain (``{{ keychain.x }}``), or a bearer token got with a credential."""


class Credential:
    """Secret values under their names; nothing that writes values out can see them.

    Attributes:
        type: canonical type, ``postgres``, ``bearer`` …
        version: changes with every replacement (SC-CR-05).
        expires_at: Unix seconds, None where the source gives no end.
    """

    __slots__ = ("_fields", "alias", "expires_at", "type", "version")

    def __init__(
        self,
        alias: str,
        type: str,
        fields: dict[str, JSON],
        *,
        version: str = "",
        expires_at: float | None = None,
    ) -> None:
        self.alias = alias
        self.type = type
        self.version = version
        self.expires_at = expires_at
        self._fields = fields

    def reveal(self) -> dict[str, JSON]:
        """The values themselves; for whoever hands them to a driver."""
        return self._fields

    def __repr__(self) -> str:
        return f"<secret:{self.alias}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential is never serialised")


class Asker(NamedTuple):
    """On whose behalf a credential is asked for.

    Attributes:
        sequence: the command's place in the log, 0 where unknown: its owner answers
            for it only when it has read that far.
        fresh: what is kept was refused: tokens are to be got anew (SC-KC-14).
    """

    execution_id: str = ""
    command_id: str = ""
    worker_id: str = ""
    sequence: int = 0
    parent_execution_id: str = ""
    fresh: bool = False


class Wallet(Protocol):
    """Where a command's credentials come from.

    Raises, of both kinds of reading (SC-AL-05):
        NotFoundError: nobody knows the name.
        RefusedError: not for this asker.
        InvalidError: what is stored, or the source's answer, cannot be used.
        DamagedError: stored, but cannot be decrypted.
        UnavailableError: the source is away, or overloaded; ask again.
    Every text names the alias and the reason, never a value (SC-AL-06).
    """

    async def credential(
        self, alias: str, asker: Asker, want: Want = "credential"
    ) -> Credential:
        """The credential behind a name; the same object for the same asker."""

    def forget(self, alias: str) -> None:
        """A remote side refused it: fetch it anew the next time (SC-FL-03)."""


class Keychain(Mapping[str, object]):
    """Entries by name as texts read them (SC-KC-06).

    A name that is not there yet is noted in ``wanted`` and refused: whoever renders
    fetches it and renders again.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self._entries: dict[str, _Entry] = {}
        self._strict = strict
        self.wanted: str | None = None

    def put(self, name: str, fields: dict[str, JSON] | None) -> None:
        """Give an entry its fields; None where it cannot be had and need not be."""
        self._entries[name] = _Entry(
            name, {} if fields is None else fields, strict=self._strict
        )

    def clear(self) -> None:
        """Forget what was fetched."""
        self._entries.clear()

    def __getitem__(self, name: str) -> object:
        found = self._entries.get(name)
        if found is None:
            self.wanted = name
            raise TemplateError(f"keychain entry '{name}' is not known")
        return found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class _Entry(Mapping[str, object]):
    def __init__(self, name: str, fields: dict[str, JSON], *, strict: bool) -> None:
        self._name = name
        self._fields = fields
        self._strict = strict

    def __getitem__(self, field: str) -> object:
        if field in self._fields:
            return self._fields[field]
        if not self._strict:
            return ""
        raise TemplateError(f"keychain entry '{self._name}' has no field '{field}'")

    def __contains__(self, field: object) -> bool:
        return isinstance(field, str)

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class CredentialInfo(Struct, frozen=True, kw_only=True):
    """A stored credential without its data, as clients list it (SC-CR-01)."""

    id: str
    name: str
    type: str
    meta: Raw
    tags: tuple[str, ...]
    description: str | None
    schema: Raw
    created_at: datetime
    updated_at: datetime


class NewCredential(Struct, frozen=True, kw_only=True):
    """What is stored under a name."""

    name: str
    type: str
    data: JSON
    meta: JSON = None
    tags: tuple[str, ...] = ()
    description: str | None = None
    schema: JSON = None

    def __repr__(self) -> str:
        return f"<secret:{self.name}>"


class Place(NamedTuple):
    """Which cached keychain entry is meant (SC-KC-10)."""

    catalog_id: str
    name: str
    execution_id: str = ""
    scope: str = "global"


class NewEntry(Struct, frozen=True, kw_only=True):
    """A keychain value somebody stores by hand (SC-KC-12)."""

    data: JSON
    expires_at: float | None = None
    auto_renew: bool = False
    renew_config: JSON = None
    credential_type: str = "secret"
    cache_type: str = "secret"

    def __repr__(self) -> str:
        return "<secret>"


class Vault(Protocol):
    """All the server does with secrets; raises as :class:`Wallet` does.

    Every read of values, and every change, leaves an audit row (SC-AU-03).
    """

    async def save(self, new: NewCredential) -> CredentialInfo:
        """Create, or replace what has that name."""

    async def find(self, name: str) -> CredentialInfo:
        """By id or name, without data."""

    async def listed(
        self,
        type: str = "",
        text: str = "",
    ) -> Sequence[CredentialInfo]:
        """By name; of a type, or with ``text`` in name or description."""

    async def drop(self, name: str) -> str:
        """Delete by id or name; the id."""

    async def reveal(self, name: str, asker: Asker, want: Want) -> Credential:
        """The values, for whoever may see them."""

    async def sealed(self, name: str, asker: Asker, want: Want) -> dict[str, JSON]:
        """The values, readable by the asking worker alone (SC-SE-01 to 07)."""

    async def entry(self, place: Place) -> tuple[KeychainRow, Credential | None]:
        """A cached keychain value; None when it has expired. Raises NotFoundError."""

    async def save_entry(self, place: Place, new: NewEntry) -> KeychainRow:
        """Cache a keychain value."""

    async def drop_entry(self, place: Place) -> bool:
        """Forget it; False when it was not there."""

    async def entries(self, catalog_id: str) -> Sequence[KeychainRow]:
        """What is cached of a playbook."""

    async def rotate(self, batch_size: int, batches_max: int) -> dict[str, JSON]:
        """Wrap data keys of old key versions anew (SC-RO-01)."""

    async def key_status(self) -> list[dict[str, JSON]]:
        """Rows by table, provider, key and version (SC-RO-03)."""

    async def audit(self, wanted: AuditFilter) -> Sequence[AuditRow]:
        """The trail, newest first."""
