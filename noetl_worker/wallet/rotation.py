"""Moving to another key: data keys are wrapped anew, payloads stay (SC-RO)."""

from __future__ import annotations

from collections import Counter
from typing import Final, get_args

import structlog

from noetl_worker.wallet.envelope import binding, parse, rewrap, unseal, wipe
from noetl_worker.wallet.keys import Keyring
from state_builder.errors import DamagedError, UpstreamError
from state_builder.ports import Observer
from state_builder.records import JSON
from state_builder.sealed import SealedCell, SealedRows, Table

log = structlog.get_logger(__name__)

TABLES: Final[tuple[Table, ...]] = get_args(Table)
BATCH_MAX: Final = 1_000


class Rotation:
    """Rewraps, as often as somebody asks: what is done is skipped."""

    def __init__(self, rows: SealedRows, keys: Keyring, observer: Observer) -> None:
        self._rows = rows
        self._keys = keys
        self._observer = observer

    async def run(self, batch_size: int, batches_max: int) -> dict[str, JSON]:
        """By table ``{processed, rewrapped, skipped, failed, last_id}``."""
        size = max(1, min(batch_size, BATCH_MAX))
        return {table: await self._table(table, size, batches_max) for table in TABLES}

    async def status(self) -> list[dict[str, JSON]]:
        """How many rows hang on which key (SC-RO-03)."""
        counts: Counter[tuple[str, str, str, str]] = Counter()
        for table in TABLES:
            after = ""
            while cells := await self._rows.cells(table, after, BATCH_MAX):
                after = cells[-1].key
                counts.update((table, *_key_of(cell)) for cell in cells)
        return [
            {"table": table, "provider": p, "kid": kid, "version": kv, "count": count}
            for (table, p, kid, kv), count in sorted(counts.items())
        ]

    async def unreadable(self) -> str:
        """Why the first row of a table cannot be opened; empty when all can be, or
        there is none."""
        for table in TABLES:
            for cell in await self._rows.cells(table, "", 1):
                try:
                    bound_to = binding(table, cell.key)
                    wipe(await unseal(cell.data_encrypted, bound_to, self._keys))
                except DamagedError as error:
                    return f"{table} {cell.key}: {error}"
        return ""

    async def _table(self, table: Table, size: int, batches_max: int) -> JSON:
        done: Counter[str] = Counter()
        after = ""
        for _ in range(batches_max):
            cells = await self._rows.cells(table, after, size)
            for cell in cells:
                status = await self._cell(table, cell)
                done[status] += 1
                self._observer.count(
                    "noetl_wallet_rotate_total", table=table, status=status
                )
                after = cell.key
            if len(cells) < size:
                break
        processed = sum(done.values())
        moved, skipped = done["rewrapped"], done["skipped"]
        return {
            "processed": processed,
            "rewrapped": moved,
            "skipped": skipped,
            "failed": processed - moved - skipped,
            "last_id": after or None,
        }

    async def _cell(self, table: Table, cell: SealedCell) -> str:
        """One row; a bad one is counted and logged by its key, not fatal (SC-RO-02)."""
        try:
            if await self._keys.is_current(parse(cell.data_encrypted).dek):
                return "skipped"
        except DamagedError as error:
            return _failed("parse_error", table, cell, error)
        try:
            anew = await rewrap(
                cell.data_encrypted, binding(table, cell.key), self._keys
            )
        except DamagedError as error:
            return _failed("failed_unwrap", table, cell, error)
        except UpstreamError as error:
            return _failed("failed_wrap", table, cell, error)
        if await self._rows.swap(table, cell.key, cell.data_encrypted, anew):
            return "rewrapped"
        # Somebody replaced it meanwhile, with the current key.
        return "skipped"


def _failed(status: str, table: str, cell: SealedCell, error: Exception) -> str:
    log.error("wallet.rotation_failed", table=table, row=cell.key, reason=str(error))
    return status


def _key_of(cell: SealedCell) -> tuple[str, str, str]:
    try:
        dek = parse(cell.data_encrypted).dek
    except DamagedError:
        return "unreadable", "", ""
    return dek.p, dek.kid, dek.kv
