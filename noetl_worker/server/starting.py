"""Starting executions: one event in the log, and the execution exists (RT-EXE-6).

The answer is given after the append is acknowledged (RT-API-10). A playbook that is
known here, without a dedup key, is started without asking anybody but the log.
"""

from __future__ import annotations

import random
import re
from typing import Final

import anyio
from msgspec import Raw, Struct, ValidationError, convert

from noetl_worker.server.admission import Admission
from noetl_worker.server.bodies import ExecuteBody, TraceBody, id_text, version_number
from noetl_worker.server.catalog import Catalog, Prepared
from noetl_worker.server.live import Live
from noetl_worker.server.ports import EdgeSettings, ServerPorts
from noetl_worker.server.shapes import Facts
from state_builder.binding import effective_workload, merged
from state_builder.errors import (
    ConflictError,
    InvalidError,
    NoetlError,
    NotFoundError,
)
from state_builder.ids import shard_of
from state_builder.locator import data_locator
from state_builder.ports import Appended
from state_builder.records import (
    GENESIS,
    JSON,
    NOTHING,
    Event,
    Genesis,
    Record,
    decode_append,
    encode_json,
    timestamp,
)

BATCH_MAX: Final = 1000
IDS_TRIED_MAX: Final = 3
RESOURCE_KINDS: Final = frozenset({"playbook", "agent", "notebook"})
_POOL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_SYSTEM_POOLS: Final = (("system/", "system"), ("subscription/", "subscription"))


class Started(Struct, kw_only=True):
    """RT-EXE-2."""

    execution_id: str
    status: str
    commands_generated: int
    path: str | None
    name: str | None
    catalog_id: str | None
    version: int | None
    resource_kind: str
    timestamp: str


class BatchItem(Struct, kw_only=True, omit_defaults=True):
    """One line of RT-EXE-8."""

    index: int
    status: str
    execution_id: str | None = None
    commands_generated: int = 0
    error: str | None = None


class BatchAnswer(Struct, kw_only=True):
    count: int
    started: int
    duplicates: int
    failed: int
    results: list[BatchItem]


class Starter:
    """Starts executions."""

    def __init__(
        self,
        ports: ServerPorts,
        settings: EdgeSettings,
        catalog: Catalog,
        live: Live,
        admission: Admission,
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._catalog = catalog
        self._live = live
        self._admission = admission

    async def start(
        self, body: ExecuteBody, trace: TraceBody | None = None, entry: str = "single"
    ) -> Started:
        """Start one, or find the one its dedup key stands for.

        ``trace`` is what the headers say; the body's own wins (RT-EXE-9).

        Raises:
            InvalidError, NotFoundError: RT-EXE-3.
            LogFullError, UnavailableError: not started as far as is known.
        """
        try:
            started = await self._start(body, trace)
        except NoetlError:
            self._count(entry, "error")
            raise
        self._count(entry, started.status)
        return started

    async def start_batch(self, bodies: list[JSON]) -> BatchAnswer:
        """Start many at once; one that fails affects no other (RT-EXE-8)."""
        if not 1 <= len(bodies) <= BATCH_MAX:
            raise InvalidError(f"executions: give 1 to {BATCH_MAX}, not {len(bodies)}")
        results = [
            BatchItem(index=index, status="error") for index in range(len(bodies))
        ]
        async with anyio.create_task_group() as tasks:
            for item, body in zip(results, bodies, strict=True):
                tasks.start_soon(self._start_item, item, body)
        self._ports.observer.time("noetl_execute_batch_size", len(bodies))
        counts = {
            word: sum(item.status == word for item in results)
            for word in ("started", "duplicate", "error")
        }
        return BatchAnswer(
            count=len(results),
            started=counts["started"],
            duplicates=counts["duplicate"],
            failed=counts["error"],
            results=results,
        )

    async def _start_item(self, item: BatchItem, body: JSON) -> None:
        try:
            wanted = convert(body, ExecuteBody, strict=False)
        except ValidationError as error:
            item.error = str(error)
            self._count("batch", "error")
            return
        try:
            started = await self.start(wanted, entry="batch")
        except NoetlError as error:
            item.error = str(error)
            return
        item.status = started.status
        item.execution_id = started.execution_id

    async def _start(self, body: ExecuteBody, trace: TraceBody | None) -> Started:
        kind = (body.resource_kind or "playbook").lower()
        if kind not in RESOURCE_KINDS:
            raise InvalidError(f"resource_kind must be one of {_words(RESOURCE_KINDS)}")
        catalog_id = id_text(body.catalog_id, "catalog_id")
        if not catalog_id and not body.path:
            raise InvalidError("give either 'path' or 'catalog_id'")
        self._admission.check_start()
        execution_id, again = "", False
        if body.dedup is not None:
            execution_id, again = await self._claim(body)
            if again and await self._exists(execution_id):
                return self._answer(body, kind, execution_id, None)
        version = version_number(body.version)
        prepared = await self._catalog.prepared(body.path or "", version, catalog_id)
        wish = _Wish(body, trace or TraceBody(), prepared)
        await self._admission.check_pool(_pool(body, prepared))
        for _ in range(IDS_TRIED_MAX):
            execution_id = execution_id or self._ports.ids.mint()
            if await self._append(wish, execution_id, repeated=again):
                return self._answer(body, kind, execution_id, prepared)
            execution_id = "" if body.dedup is None else execution_id
        raise ConflictError(f"execution id {execution_id or 'drawn'} is another's")

    async def _claim(self, body: ExecuteBody) -> tuple[str, bool]:
        """The execution a dedup key stands for, and whether another claimed it."""
        dedup = body.dedup
        assert dedup is not None
        if not dedup.key or dedup.window_secs <= 0:
            raise InvalidError("dedup needs a 'key', and 'window_secs' above 0")
        own = self._ports.ids.mint()
        scope = id_text(body.parent_execution_id, "parent_execution_id") or "0"
        first = await self._ports.tables.claim_start(
            scope, dedup.key, execution_id=own, window_s=dedup.window_secs
        )
        return first, first != own

    async def _exists(self, execution_id: str) -> bool:
        try:
            await self._live.status(execution_id, "check")
        except NotFoundError:
            return False
        return True

    async def _append(self, wish: _Wish, execution_id: str, *, repeated: bool) -> bool:
        """Append the genesis; False when the id turned out to be another's."""
        record = await self._genesis(wish, execution_id)
        shard = shard_of(execution_id, self._settings.shard_count)
        appended = await self._ports.log.try_append(
            shard,
            [record],
            message_id=f"{execution_id}:start",
            timeout_s=self._settings.server.append_s,
        )
        if (
            appended.duplicate
            and not repeated
            and not await self._ours(appended, record)
        ):
            return False
        self._ports.observer.count(
            "noetl_event_ingest_published_total", event_type=GENESIS
        )
        prepared = wish.prepared
        facts = Facts(
            prepared.catalog_id,
            prepared.path,
            prepared.version,
            id_text(wish.body.parent_execution_id, "parent_execution_id") or None,
            appended.sequence,
        )
        self._live.note_start(execution_id, facts)
        return True

    async def _ours(self, appended: Appended, record: Record) -> bool:
        """Whether what is stored under our message id is what we sent."""
        message = await self._ports.log.read(appended.sequence)
        return message is not None and record in decode_append(message.data).records

    async def _genesis(self, wish: _Wish, execution_id: str) -> Record:
        body, prepared = wish.body, wish.prepared
        at = timestamp(self._ports.clock.now())
        data = body.data()
        workload = prepared.defaults
        if workload is None:
            rendered = effective_workload(prepared.playbook, data, execution_id, at, {})
            workload = Raw(encode_json(rendered))
        elif data:
            workload = Raw(encode_json(merged(prepared.playbook.workload, data)))
        payload = Raw(encode_json(data)) if data else NOTHING
        trace = _trace(wish.trace, body.trace)
        pool = _pool(body, prepared)
        parent = id_text(body.parent_execution_id, "parent_execution_id")
        genesis = Genesis(
            catalog_id=prepared.catalog_id,
            path=prepared.path,
            version=prepared.version,
            pool=pool,
            parent_execution_id=parent,
            trace=Raw(encode_json(trace)),
        )
        await self._give(genesis, "workload", workload, execution_id)
        await self._give(genesis, "payload", payload, execution_id)
        meta: dict[str, JSON] = {"emitter": "control_plane", "trace": trace}
        if parent:
            meta["parent_execution_id"] = parent
        if body.parent_command_id:
            # For the record only: who waits for a start over HTTP asks for its status.
            meta["parent_command_id"] = body.parent_command_id
        event = Event(
            type=GENESIS,
            at=at,
            status="STARTED",
            pool=pool,
            context=Raw(encode_json(genesis)),
            meta=Raw(encode_json(meta)),
        )
        return Record(execution_id=execution_id, events=[event])

    async def _give(
        self, genesis: Genesis, name: str, value: Raw, execution_id: str
    ) -> None:
        """A part of the genesis; a large one is stored first (RT-LIM-2).

        Workload and payload are mostly the same bytes and travel in one message, so
        each may have half of what a workload may have.
        """
        if len(value) <= self._settings.workload_bytes_max // 2:
            setattr(genesis, name, value)
            return
        data = bytes(value)
        locator = data_locator(f"{name}s", execution_id, name, data)
        reference = await self._ports.values.keep(locator, data, {})
        setattr(genesis, f"{name}_ref", Raw(encode_json(reference)))

    def _answer(
        self,
        body: ExecuteBody,
        kind: str,
        execution_id: str,
        prepared: Prepared | None,
    ) -> Started:
        path = prepared.path if prepared else body.path
        return Started(
            execution_id=execution_id,
            status="started" if prepared else "duplicate",
            commands_generated=0,
            path=path,
            name=path,
            catalog_id=prepared.catalog_id if prepared else None,
            version=prepared.version if prepared else None,
            resource_kind=kind,
            timestamp=timestamp(self._ports.clock.now()),
        )

    def _count(self, entry: str, outcome: str) -> None:
        self._ports.observer.count(
            "noetl_execute_outcomes_total", entry=entry, outcome=outcome
        )


class _Wish(Struct, frozen=True):
    """A request on its way to become a genesis."""

    body: ExecuteBody
    trace: TraceBody
    prepared: Prepared


def _pool(body: ExecuteBody, prepared: Prepared) -> str:
    """RT-NATS-3, without the step's own. Raises InvalidError."""
    pool = body.execution_pool or prepared.playbook.pool
    if pool:
        if not _POOL.fullmatch(pool):
            raise InvalidError(
                f"execution_pool {pool[:40]!r}: use 1 to 40 of a-z, 0-9, _ and -"
            )
        return pool
    for prefix, name in _SYSTEM_POOLS:
        if prepared.path.startswith(prefix):
            return name
    return "shared"


def _trace(headers: TraceBody, body: TraceBody | None) -> dict[str, JSON]:
    """The trace of the execution: the body's, the headers', or a new one (RT-EXE-9)."""
    given = body if body is not None and body.traceparent else headers
    if not _TRACEPARENT.fullmatch(given.traceparent):
        trace_id, span_id = random.getrandbits(128), random.getrandbits(64)
        return {"traceparent": f"00-{trace_id:032x}-{span_id:016x}-01"}
    found: dict[str, JSON] = {"traceparent": given.traceparent}
    if given.tracestate:
        found["tracestate"] = given.tracestate
    if given.baggage:
        found["baggage"] = given.baggage
    return found


def _words(words: frozenset[str]) -> str:
    return ", ".join(sorted(words))
