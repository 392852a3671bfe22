"""Large values outside the log: what keeps them, and what is said of one.

:class:`ResultStore` holds bytes by key and has one adapter for each tier;
:class:`ValueStore` is what the rest of the house asks: JSON behind a reference.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from msgspec import Raw, Struct, field

from state_builder.locator import Locator
from state_builder.records import NOTHING, Reference


class StoredObject(NamedTuple):
    """What a store says of an object.

    Attributes:
        sha256: hexadecimal, over its bytes.
        about: what its writer noted: ``media_type``, ``form``, ``scope`` …
    """

    key: str
    bytes: int
    sha256: str
    about: Mapping[str, str]


class OpenObject(NamedTuple):
    """An object being read; ``chunks`` raises LostDataError at the end when the bytes
    are not those that were stored."""

    info: StoredObject
    chunks: AsyncIterator[bytes]


class ResultStore(Protocol):
    """Large values by key, each written once; never wholly in memory (TL-RR-50).

    ``tier`` is the store's name as readers see it. Raises UnavailableError while the
    store is away, LogFullError where it has no room.
    """

    tier: str

    async def put(
        self, key: str, chunks: AsyncIterable[bytes], about: Mapping[str, str]
    ) -> StoredObject:
        """Store durably; found under its key once it is whole, and not before."""

    async def open(self, key: str) -> OpenObject | None:
        """Begin to read, or None."""

    async def keys(self, prefix: str) -> list[str]:
        """Keys that start with the prefix, sorted."""

    async def delete(self, key: str) -> None:
        """Remove; nothing happens when it is not there."""


class ValueStore(Protocol):
    """Values behind ``noetl://`` references."""

    async def keep(
        self, locator: Locator, data: bytes, about: Mapping[str, str]
    ) -> Reference:
        """Store JSON; the reference that stands for it, without a summary.

        Raises UnavailableError.
        """

    async def open(self, ref: str) -> OpenObject:
        """Begin to read what a reference names, as a reader of the whole value sees it.

        Raises as :meth:`fetch` does, and InvalidError for what is no reference.
        """

    async def drop(self, ref: str) -> None:
        """Remove what a reference names; nothing happens when it is not there."""

    async def fetch(self, reference: Reference) -> bytes:
        """The JSON behind a reference, proven by its digest.

        Raises:
            ReferenceMissingError: nothing is stored there (any more).
            LimitExceededError: more bytes than one value may have in memory.
            LostDataError: other bytes than were stored.
            UnavailableError: the store is away.
        """


MANIFEST_TYPE: Final = "application/vnd.noetl.manifest+json"
"""Media type of a value that is stored by parts."""


class Part(Struct, omit_defaults=True):
    """One element: its JSON, or the reference and form of what is stored."""

    value: Raw = NOTHING
    reference: Raw = NOTHING
    form: str = "plain"


class Manifest(Struct, kw_only=True):
    """A loop's result by its parts, in iteration order (TL-OS-06).

    Attributes:
        rest: the members beside ``merge_path``.
        total_bytes: of all elements together.
    """

    kind: str = "manifest"
    strategy: str = "append"
    merge_path: str = "results"
    parts: list[Part] = field(default_factory=list)
    total_parts: int = 0
    total_bytes: int = 0
    rest: Raw = Raw(b"{}")


class ResultRow(Struct, frozen=True, kw_only=True):
    """One result that was put over HTTP (RT-RES-1).

    Attributes:
        object_key: the reference its bytes are stored under.
    """

    result_id: str
    execution_id: str
    name: str
    object_key: str
    bytes: int
    sha256: str
    scope: str = "execution"
    source_step: str | None = None
    media_type: str = "application/json"
    idempotency_key: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None


class NamedReference(NamedTuple):
    """A step, and the encoded reference one of its commands gave."""

    step: str
    reference: Raw


class ResultRows(Protocol):
    """The index of stored results; raises UnavailableError while it is away."""

    async def add(self, row: ResultRow) -> ResultRow:
        """Insert, or the row that has its idempotency key already."""

    async def find(self, execution_id: str, result_id: str) -> ResultRow | None:
        """One that has not expired."""

    async def listed(
        self, execution_id: str, *, scope: str = "", step: str = ""
    ) -> list[ResultRow]:
        """Those of an execution that have not expired, oldest first."""

    async def drop(
        self, execution_id: str, *, scope: str = "", step: str = ""
    ) -> list[ResultRow]:
        """Forget them; what was dropped."""

    async def expired(self, limit: int) -> list[ResultRow]:
        """Some that have expired; they stay until they are forgotten."""

    async def forget(self, result_ids: Sequence[str]) -> None:
        """Drop these rows, once their bytes are gone."""

    async def references(self, execution_id: str) -> list[NamedReference]:
        """What the execution's own steps have stored, in log order."""

    async def unneeded(self, execution_ids: list[str], after_s: float) -> set[str]:
        """Which of these ended longer ago than that, as did all above them that have
        a row, or have no row: those above read what those below gave."""
