"""The catalog as the server uses it: register, find, and what is ready to be started.

Versions are immutable, so a parsed playbook is kept by its catalog id; which version of
a path is the latest is believed for a second, and for as long as the database is away
(RT-AFF-5, RT-ARC-4). Starting a playbook that is known touches no database.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeVar

import anyio
from msgspec import Raw, Struct
from msgspec.json import decode as decode_json

from noetl_worker.server.documents import EXECUTABLE, registration
from noetl_worker.server.ports import ServerPorts
from state_builder.errors import (
    InvalidError,
    LimitExceededError,
    NotFoundError,
    UnavailableError,
)
from state_builder.playbook import ParseResult, Playbook, PlaybookError, parse
from state_builder.records import JSON, encode_json
from state_builder.stores import CatalogDocument, CatalogRow
from state_builder.template import check, is_template

K = TypeVar("K")
V = TypeVar("V")

LATEST_BELIEVED_S: Final = 1.0
KEPT_MAX: Final = 1000
PATHS_MAX: Final = 10_000


class Prepared(Struct, frozen=True):
    """A playbook ready to be started.

    Attributes:
        defaults: the workload as JSON when no default is a template; else None.
    """

    catalog_id: str
    path: str
    version: int
    kind: str
    playbook: Playbook
    defaults: Raw | None


class Registered(Struct, frozen=True):
    """A stored version, and what a validator says of it (PB-700)."""

    row: CatalogRow
    checked: ParseResult | None


class _Latest(Struct):
    catalog_id: str
    asked_at: float


class Catalog:
    """Documents by path and version."""

    def __init__(self, ports: ServerPorts, source_bytes_max: int) -> None:
        self._tables = ports.tables
        self._fields_of = ports.known_fields
        self._clock = ports.clock
        self._ids = ports.ids
        self._source_bytes_max = source_bytes_max
        self._prepared: OrderedDict[str, Prepared | InvalidError] = OrderedDict()
        self._latest: OrderedDict[str, _Latest] = OrderedDict()
        self._versions: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._asking: dict[str, anyio.Lock] = {}

    async def register(self, content: str, resource_type: str) -> Registered:
        """Store a document as the next version of its path.

        Raises:
            InvalidError: RT-CAT-2, RT-CAT-4, RT-CAT-7.
            LimitExceededError: larger than a document may be.
        """
        self._check_size(content)
        found = registration(content, resource_type)
        checked = None
        if found.kind in EXECUTABLE:
            checked = self.checked(found.content)
        row = await self._tables.register(
            CatalogDocument(
                catalog_id=self._ids.mint(),
                path=found.path,
                kind=found.kind,
                content=found.content,
                layout=found.layout,
                payload=found.payload,
                meta=found.meta,
            )
        )
        self._latest.pop(found.path, None)
        return Registered(row, checked)

    def checked(self, content: str) -> ParseResult:
        """Errors and warnings of a playbook's text. Raises LimitExceededError."""
        self._check_size(content)
        return parse(content, check_text=check, fields_of=self._fields_of)

    def _check_size(self, content: str) -> None:
        size = len(content.encode())
        if size > self._source_bytes_max:
            raise LimitExceededError(
                "NOETL_PLAYBOOK_MAX_BYTES",
                f"the document has {size:,} bytes, at most {self._source_bytes_max:,} "
                "are taken (NOETL_PLAYBOOK_MAX_BYTES)",
            )

    async def row(
        self, path: str, version: int | None, catalog_id: str = ""
    ) -> CatalogRow:
        """One entry. Raises NotFoundError, or InvalidError when nothing is named."""
        if catalog_id:
            row = await self._tables.catalog_entry(catalog_id)
            if row is None:
                raise NotFoundError(f"catalog entry {catalog_id} does not exist")
            return row
        if not path:
            raise InvalidError("give either 'catalog_id' or 'path'")
        row = await self._tables.catalog_version(path, version)
        if row is None:
            shown = "" if version is None else f" version {version}"
            raise NotFoundError(f"playbook '{path}'{shown} is not in the catalog")
        return row

    async def prepared(
        self, path: str, version: int | None, catalog_id: str = ""
    ) -> Prepared:
        """What to start.

        Raises:
            NotFoundError: no such entry.
            PlaybookError: it has errors; all of them are told.
            InvalidError: nothing named, or a kind nobody can execute.
        """
        catalog_id = catalog_id or self._known_id(path, version)
        found = self._prepared.get(catalog_id) if catalog_id else None
        if found is None:
            found = await self._fetch(path, version, catalog_id)
        else:
            self._prepared.move_to_end(catalog_id)
        if isinstance(found, InvalidError):
            raise found.with_traceback(None)
        return found

    def _known_id(self, path: str, version: int | None) -> str:
        if version is not None:
            return self._versions.get((path, version), "")
        latest = self._latest.get(path)
        if latest is None:
            return ""
        fresh = self._clock.monotonic() - latest.asked_at <= LATEST_BELIEVED_S
        return latest.catalog_id if fresh else ""

    async def _fetch(
        self, path: str, version: int | None, catalog_id: str
    ) -> Prepared | InvalidError:
        """Ask the tables, once for all who want the same."""
        key = catalog_id or f"{path}@{version or 'latest'}"
        lock = self._asking.setdefault(key, anyio.Lock())
        async with lock:
            try:
                known = catalog_id or self._known_id(path, version)
                if known in self._prepared:
                    return self._prepared[known]
                try:
                    row = await self.row(path, version, catalog_id)
                except UnavailableError:
                    latest = self._latest.get(path) if version is None else None
                    kept = self._prepared.get(latest.catalog_id) if latest else None
                    if kept is None:
                        raise
                    return kept
                return self._keep(row, latest=not catalog_id and version is None)
            finally:
                if not lock.statistics().tasks_waiting:
                    self._asking.pop(key, None)

    def _keep(self, row: CatalogRow, *, latest: bool) -> Prepared | InvalidError:
        found = self._prepared.get(row.catalog_id)
        if found is None:
            found = prepare(row)
            _put(self._prepared, row.catalog_id, found, KEPT_MAX)
        if latest:
            asked = _Latest(row.catalog_id, self._clock.monotonic())
            _put(self._latest, row.path, asked, PATHS_MAX)
        _put(self._versions, (row.path, row.version), row.catalog_id, PATHS_MAX)
        return found


def _put(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def prepare(row: CatalogRow) -> Prepared | InvalidError:
    """Parse an entry; why it cannot be started is kept like a playbook is."""
    if row.kind not in EXECUTABLE:
        return InvalidError(f"'{row.path}' is a {row.kind} and cannot be executed")
    checked = parse(row.content, check_text=None)
    if checked.playbook is None:
        return PlaybookError(checked.errors)
    workload = checked.playbook.workload
    static = None if _has_template(workload) else Raw(encode_json(workload))
    return Prepared(
        row.catalog_id, row.path, row.version, row.kind, checked.playbook, static
    )


def _has_template(value: JSON) -> bool:
    if isinstance(value, str):
        return is_template(value)
    if isinstance(value, dict):
        return any(_has_template(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_template(item) for item in value)
    return False


def matches(row: CatalogRow, capabilities: set[str], agents_only: bool) -> bool:
    """Whether an entry has what a listing asks for."""
    meta = decode_json(row.meta) if row.meta else {}
    if not isinstance(meta, dict):
        return False
    if agents_only and row.kind != "agent" and not meta.get("agent"):
        return False
    offered = meta.get("capabilities")
    listed = {str(name) for name in offered} if isinstance(offered, list) else set()
    return capabilities.issubset(listed)
