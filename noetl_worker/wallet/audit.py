"""The audit trail: who saw which secret, and whether; never a value (SC-AU).

Strict: the row is committed before the value is released, or the value is withheld.
Best effort: a bounded queue that never makes anybody wait, and counts what it drops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import anyio
import structlog

from noetl_worker.wallet.keys import Keyring
from state_builder.credentials import Asker
from state_builder.errors import (
    DamagedError,
    NoetlError,
    NotFoundError,
    RefusedError,
    TemplateError,
    UnavailableError,
)
from state_builder.ports import Clock, Observer
from state_builder.redact import mask_error
from state_builder.sealed import AuditRow, SealedRows

log = structlog.get_logger(__name__)

QUEUE_MAX: Final = 10_000
BATCH_MAX: Final = 500
NOTES_MAX: Final = 500
FLUSH_S: Final = 0.5
FINAL_FLUSH_S: Final = 5.0

_OUTCOMES: Final[Mapping[type[NoetlError], str]] = {
    NotFoundError: "credential_not_found",
    RefusedError: "denied",
    DamagedError: "decrypt_error",
    TemplateError: "template_error",
}


def outcome_of(error: NoetlError) -> str:
    """How the trail calls what went wrong (SC-AU-02)."""
    for kind, outcome in _OUTCOMES.items():
        if isinstance(error, kind):
            return outcome
    return "provider_fetch_error"


class Trail:
    """Writes audit rows."""

    def __init__(
        self,
        rows: SealedRows,
        keys: Keyring,
        clock: Clock,
        observer: Observer,
        *,
        region: str = "",
        required: bool = False,
    ) -> None:
        self._rows = rows
        self._keys = keys
        self._clock = clock
        self._observer = observer
        self._region = region
        self._required = required
        self._queue: deque[AuditRow] = deque()

    async def note(
        self,
        operation: str,
        credential: str,
        outcome: str,
        asker: Asker | None = None,
        notes: str = "",
    ) -> None:
        """Add a row. Raises UnavailableError where the trail is required and away."""
        asker = asker or Asker()
        row = AuditRow(
            occurred_at=datetime.fromtimestamp(self._clock.now(), UTC),
            credential=credential[:128],
            operation=operation,
            outcome=outcome,
            worker_id=asker.worker_id[:128],
            execution_id=asker.execution_id,
            parent_execution_id=asker.parent_execution_id,
            server_region=self._region,
            kek_version=await self._keys.current_version(),
            notes=mask_error(notes)[:NOTES_MAX],
        )
        if self._required:
            await self._commit(row)
        elif len(self._queue) >= QUEUE_MAX:
            self._count(row, "dropped_async")
            self._observer.count("noetl_limit_hits_total", limit="secret_audit_queue")
        else:
            self._queue.append(row)

    async def run(self) -> None:
        """Write what is queued, again and again, until cancelled; then once more."""
        try:
            while True:
                await self._clock.sleep(FLUSH_S)
                await self.flush()
        finally:
            with anyio.move_on_after(FINAL_FLUSH_S, shield=True):
                await self.flush()

    async def flush(self) -> None:
        """Write what is queued; what cannot be written stays."""
        while self._queue:
            batch = [self._queue[n] for n in range(min(BATCH_MAX, len(self._queue)))]
            try:
                await self._rows.add_audit(batch)
            except UnavailableError as error:
                log.warning("secret_audit.delayed", reason=str(error))
                return
            for row in batch:
                self._queue.popleft()
                self._count(row, "written")

    async def _commit(self, row: AuditRow) -> None:
        try:
            await self._rows.add_audit([row])
        except UnavailableError as error:
            self._count(row, "failed_strict")
            raise UnavailableError(
                "the audit trail cannot be written, and no secret is given without "
                f"it (NOETL_SECRET_AUDIT_REQUIRED): {error}"
            ) from error
        self._count(row, "written")

    def _count(self, row: AuditRow, status: str) -> None:
        self._observer.count(
            "noetl_secret_audit_writes_total",
            operation=row.operation,
            outcome=row.outcome,
            status=status,
        )
