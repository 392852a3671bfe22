"""Asking executions to end: requests in the log that their owner answers (RT-DRV-17).

The server appends a request and listens for the terminal event; it never writes one
itself, so completing and cancelling are settled in one place (design §3).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio
from msgspec import Raw, Struct

from noetl_worker.server.ends import Ends
from noetl_worker.server.history import History
from noetl_worker.server.live import Live
from noetl_worker.server.ports import EdgeSettings, ServerPorts
from noetl_worker.server.shapes import Status
from state_builder.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from state_builder.ids import shard_of
from state_builder.records import (
    JSON,
    Event,
    Record,
    encode_json,
    timestamp,
)

CANCEL: Final = "playbook.cancel_requested"
FINALIZE: Final = "playbook.finalize_requested"
FINAL_STATUSES: Final = ("COMPLETED", "FAILED")
ERROR_TEXT_MAX: Final = 2000


class Cancelled(Struct, kw_only=True):
    """RT-EXN-6."""

    status: str
    execution_id: str
    cancelled_executions: list[str]
    message: str


class Finalized(Struct, kw_only=True):
    """RT-EXN-8; ``settled`` is false while the owner has not answered."""

    execution_id: str
    status: str
    message: str
    settled: bool = True


class CleanedUp(Struct, kw_only=True):
    """RT-EXN-9."""

    cancelled_count: int
    execution_ids: list[str]
    message: str


class Ending:
    """Cancels and finalizes."""

    def __init__(
        self,
        ports: ServerPorts,
        settings: EdgeSettings,
        live: Live,
        history: History,
        ends: Ends,
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._live = live
        self._history = history
        self._ends = ends

    async def cancel(self, execution_id: str, reason: str, cascade: bool) -> Cancelled:
        """Ask for the end and wait for it a moment.

        Raises:
            NotFoundError: nobody knows the execution.
            UnavailableError: the request could not be stored.
        """
        try:
            status = await self._live.status(execution_id, "cancel")
        except NotFoundError:
            self._count("not_found")
            raise
        if status.over:
            self._count("already_completed")
            return Cancelled(
                status="already_completed",
                execution_id=execution_id,
                cancelled_executions=[],
                message=f"execution is already {status.status}",
            )
        wanted = [execution_id]
        if cascade:
            wanted += await self._descendants(execution_id, status)
        meta: dict[str, JSON] = {"reason": reason or None, "cascade": cascade}
        ended = await self._request_all(wanted, CANCEL, reason, meta)
        cancelled = [each for each in wanted if ended.get(each) == "CANCELLED"]
        if execution_id not in ended:
            self._count("cancelling")
            return Cancelled(
                status="cancelling",
                execution_id=execution_id,
                cancelled_executions=cancelled,
                message="the request is stored; its owner has not answered yet",
            )
        outcome = "cancelled" if execution_id in cancelled else "already_completed"
        self._count(outcome)
        return Cancelled(
            status=outcome,
            execution_id=execution_id,
            cancelled_executions=cancelled,
            message=f"execution is {ended[execution_id]}",
        )

    async def finalize(
        self, execution_id: str, wanted: str, error: str, reason: str
    ) -> Finalized:
        """Ask for an end with this status, for an execution that is stuck.

        Raises:
            ConflictError: it already ended otherwise.
            InvalidError, NotFoundError, UnavailableError: as said.
        """
        wanted = (wanted or "FAILED").upper()
        if wanted not in FINAL_STATUSES:
            raise InvalidError("status must be COMPLETED or FAILED")
        status = await self._live.status(execution_id, "cancel")
        if status.over:
            return self._ended_as(execution_id, status.status, wanted)
        text = error or reason
        meta: dict[str, JSON] = {"reason": text or None, "status": wanted}
        ended = await self._request_all(
            [execution_id], FINALIZE, text, meta, status=wanted
        )
        if execution_id in ended:
            return self._ended_as(execution_id, ended[execution_id], wanted)
        return Finalized(
            execution_id=execution_id,
            status=status.status,
            message="the request is stored; its owner has not answered yet",
            settled=False,
        )

    async def clean_up(self, older_than_s: float, dry_run: bool) -> CleanedUp:
        """Cancel what has stood still for longer, and waits for nothing (RT-EXN-9)."""
        before = datetime.fromtimestamp(self._ports.clock.now(), UTC) - timedelta(
            seconds=older_than_s
        )
        found = await self._ports.rows.idle_executions(before)
        if dry_run or not found:
            verb = "would be cancelled" if dry_run else "to cancel"
            return CleanedUp(
                cancelled_count=0,
                execution_ids=found,
                message=f"{len(found)} executions {verb}",
            )
        meta: dict[str, JSON] = {"reason": "cleanup", "cascade": False}
        ended = await self._request_all(found, CANCEL, "cleanup", meta)
        cancelled = [each for each in found if ended.get(each) == "CANCELLED"]
        waiting = len(found) - len(ended)
        message = f"{len(cancelled)} executions cancelled"
        if waiting:
            message += f", {waiting} more were asked to end and have not answered yet"
        return CleanedUp(
            cancelled_count=len(cancelled), execution_ids=found, message=message
        )

    async def _descendants(self, execution_id: str, status: Status) -> list[str]:
        """Executions below, as rows and the owner know them."""
        waiting = [
            str(thing["child"])
            for thing in status.waiting
            if isinstance(thing, dict) and thing.get("child")
        ]
        try:
            rows = await self._ports.rows.descendants(execution_id)
        except UnavailableError:
            # Those it waits for end with it in any case; rows would add the others.
            rows = []
        return list(dict.fromkeys([*waiting, *rows]))

    async def _request_all(
        self,
        execution_ids: Iterable[str],
        event_type: str,
        reason: str,
        meta: dict[str, JSON],
        *,
        status: str = "PENDING",
    ) -> dict[str, str]:
        """Append requests; the final statuses that came while we waited."""
        event = Event(
            type=event_type,
            at=timestamp(self._ports.clock.now()),
            status=status,
            error=reason[:ERROR_TEXT_MAX],
            meta=Raw(encode_json(meta)),
        )
        ended: dict[str, str] = {}
        failures: list[UnavailableError] = []

        async def request(execution_id: str) -> None:
            try:
                ended[execution_id] = await self._request(execution_id, event)
            except UnavailableError as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for execution_id in execution_ids:
                tasks.start_soon(request, execution_id)
        if failures and not ended:
            raise failures[0]
        return {name: status for name, status in ended.items() if status}

    async def _request(self, execution_id: str, event: Event) -> str:
        """Append one request; the final status, empty when none came in time."""
        word = "cancel" if event.type == CANCEL else "finalize"
        appended = await self._ports.log.try_append(
            shard_of(execution_id, self._settings.shard_count),
            [Record(execution_id=execution_id, events=[event])],
            message_id=f"{execution_id}:{word}",
            timeout_s=self._settings.server.append_s,
        )
        self._history.note_append(execution_id, appended.sequence)
        self._ports.observer.count(
            "noetl_event_ingest_published_total", event_type=event.type
        )
        await self._ends.wait(execution_id, self._settings.server.end_wait_s)
        # Told or not: what it was told may be lost, and does not say how it ended.
        status = await self._live.status(execution_id, "cancel")
        return status.status if status.over else ""

    def _ended_as(self, execution_id: str, found: str, wanted: str) -> Finalized:
        if found != wanted:
            raise ConflictError(f"execution {execution_id} is already {found}")
        return Finalized(
            execution_id=execution_id, status=found, message=f"execution is {found}"
        )

    def _count(self, outcome: str) -> None:
        self._ports.observer.count("noetl_cancel_total", outcome=outcome)
