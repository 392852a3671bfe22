"""What the server edge may read from and keep in the tables.

:class:`RowReader` reads what the materializer wrote; :class:`Tables` is what the
server writes itself: catalog, start claims, runtime rows; :class:`StreamLives` is
for whoever makes the stream. Ids are decimal text, as
clients see them; times carry a zone; documents are raw JSON, ``None`` where absent.
Every method raises UnavailableError while the database is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import nextafter
from typing import Final, NamedTuple, Protocol

from msgspec import Raw, Struct

from state_builder.ports import CatalogEntry

_DOUBLE_EXACT_MAX: Final = 2**53


class ExecutionFilter(Struct, frozen=True, kw_only=True):
    """Which executions to list, newest first; empty fields do not restrict.

    Attributes:
        status: upper or lower case, of RT-EXN-3.
    """

    catalog_id: str = ""
    path: str = ""
    status: str = ""
    limit: int = 50
    offset: int = 0


class ExecutionView(Struct, frozen=True, kw_only=True):
    """One execution as far as it is materialized.

    Attributes:
        workload: as recorded at the genesis; None in lists.
        steps_known, steps_done: passes of steps entered or skipped so far, and those
            of them that are over: for ``progress`` (RT-EXN-10).
        head_event_id: last event in the chain; the log after it is not in here.
    """

    execution_id: str
    catalog_id: str
    path: str
    version: int
    status: str
    start_time: datetime
    end_time: datetime | None = None
    parent_execution_id: str | None = None
    parent_command_id: str | None = None
    pool: str | None = None
    result: Raw | None = None
    error: str | None = None
    workload: Raw | None = None
    event_count: int = 0
    steps_known: int = 0
    steps_done: int = 0
    last_event_type: str = ""
    last_node_name: str | None = None
    head_event_id: str = "0"


class EventFilter(Struct, frozen=True, kw_only=True):
    """Which events of an execution.

    Attributes:
        since: only events after this id; matched as an IEEE double may have rounded
            it (RT-EXN-11).
        until: only events up to and including this id; 0 for all.
        until_time: only events created at or before.
        ascending: oldest first; newest first otherwise.
    """

    since: int = 0
    until: int = 0
    until_time: datetime | None = None
    event_type: str = ""
    limit: int = 100
    offset: int = 0
    ascending: bool = False

    @property
    def above(self) -> int:
        """Ids greater than this match ``since``.

        Up to 2^53 an id survives as a double and the bound is exact; beyond, every id
        that might have been rounded to ``since`` is let through once more.
        """
        if self.since <= _DOUBLE_EXACT_MAX:
            return self.since
        return int(nextafter(float(self.since), 0.0))


class EventView(Struct, frozen=True, kw_only=True):
    """One event; ``duration`` in seconds."""

    execution_id: str
    event_id: str
    event_type: str
    catalog_id: str
    created_at: datetime
    status: str | None = None
    node_id: str | None = None
    node_name: str | None = None
    node_type: str | None = None
    command_id: str | None = None
    parent_execution_id: str | None = None
    parent_event_id: str | None = None
    prev_event_id: str | None = None
    worker_id: str | None = None
    duration: float | None = None
    context: Raw | None = None
    result: Raw | None = None
    meta: Raw | None = None
    error: str | None = None


class EventPage(Struct, frozen=True, kw_only=True):
    """Some events and how many match in all, whatever limit and offset."""

    events: list[EventView]
    total: int


class StepView(Struct, frozen=True, kw_only=True):
    """A step's last state: ``running``, ``completed``, ``failed`` or ``skipped``.

    Attributes:
        entered: id of the event that entered (or skipped) it last.
    """

    step: str
    status: str
    entered: str


class ExecutionCounts(Struct, frozen=True, kw_only=True):
    """Executions by status."""

    total: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0


class Waiting(NamedTuple):
    """Open executions that wait for the same kind of thing.

    Attributes:
        reason: ``unclaimed`` (a command no worker has), ``running``, ``parked`` (a
            call-back), ``other`` (a timer, a child, the owner).
        oldest: id of the one that began first.
    """

    reason: str
    executions: int
    oldest: str


class RowReader(Protocol):
    """History, lists and audits."""

    async def executions(self, wanted: ExecutionFilter) -> list[ExecutionView]:
        """Newest first, without workloads."""

    async def execution(self, execution_id: str) -> ExecutionView | None:
        """One, with its workload."""

    async def events(self, execution_id: str, wanted: EventFilter) -> EventPage:
        """A page of an execution's events; empty when there are none."""

    async def event(self, event_id: str) -> EventView | None:
        """One event by its position alone."""

    async def steps(self, execution_id: str) -> list[StepView]:
        """Every step entered or skipped so far, in that order."""

    async def descendants(self, execution_id: str) -> list[str]:
        """Executions below it that are not over, nearest first (cascading cancel)."""

    async def idle_executions(self, before: datetime) -> list[str]:
        """Not over, last event before; none that waits for a call-back, a timer or a
        command that runs (RT-EXN-9)."""

    async def waiting_executions(self, before: datetime) -> list[Waiting]:
        """Not over and begun before, by what they wait for (RT-HSK-3)."""

    async def open_executions(self, catalog_id: str) -> int:
        """How many executions of a catalog entry are not over."""

    async def counts(self) -> ExecutionCounts:
        """For the dashboard."""

    async def materialized(self) -> int:
        """Lowest log sequence every shard group has reached; 0 before the first."""


class CatalogDocument(Struct, frozen=True, kw_only=True):
    """What is registered; versions are given by the store.

    Attributes:
        layout, payload, meta: JSON objects or arrays (RT-CAT-1), None where absent.
    """

    catalog_id: str
    path: str
    kind: str
    content: str
    layout: Raw | None = None
    payload: Raw | None = None
    meta: Raw | None = None


class CatalogRow(Struct, frozen=True, kw_only=True):
    """One immutable version of a document, with what clients list."""

    catalog_id: str
    path: str
    kind: str
    version: int
    content: str
    created_at: datetime
    layout: Raw | None = None
    payload: Raw | None = None
    meta: Raw | None = None
    archived: bool = False

    def entry(self) -> CatalogEntry:
        """As the drive's Catalog port wants it."""
        return CatalogEntry(
            self.catalog_id, self.path, self.version, self.kind, self.content
        )


class RuntimeRow(Struct, frozen=True, kw_only=True):
    """A process that registered itself (RT-WPL-*).

    Attributes:
        worker_public_key: base64 of the key credentials are sealed to (SC-SE-01).
    """

    runtime_id: str
    name: str
    kind: str
    status: str
    heartbeat: datetime
    created_at: datetime
    updated_at: datetime
    uri: str | None = None
    labels: Raw | None = None
    capabilities: Raw | None = None
    capacity: int | None = None
    runtime: Raw | None = None
    worker_public_key: str | None = None


class Tables(Protocol):
    """What the server keeps."""

    async def ping(self) -> None:
        """Answer, or raise UnavailableError."""

    async def schema_version(self) -> int:
        """Version of the tables; 0 when there are none yet."""

    async def apply_schema(self) -> int:
        """Create or migrate the tables; safe at any time, also at once with others.

        Returns the version reached.
        """

    async def missing(self) -> list[str]:
        """Tables and columns this build needs and does not find (RT-DB-1)."""

    async def register(self, document: CatalogDocument) -> CatalogRow:
        """Store as the next version of its path (RT-CAT-3)."""

    async def catalog(
        self, *, kind: str = "", path: str = "", archived: bool = False
    ) -> list[CatalogRow]:
        """Newest first; ``path`` is a prefix when it ends with ``/`` (RT-CAT-5)."""

    async def catalog_entry(self, catalog_id: str) -> CatalogRow | None:
        """That version, archived or not."""

    async def catalog_version(
        self, path: str, version: int | None
    ) -> CatalogRow | None:
        """That version; the highest that is not archived when None (RT-CAT-6)."""

    async def archive(self, catalog_id: str) -> bool:
        """Hide an entry; False when there is none."""

    async def claim_start(
        self, scope: str, key: str, *, execution_id: str, window_s: float
    ) -> str:
        """Whose start this is: ``execution_id``, or the one claimed first within its
        window (RT-EXE-5). One caller wins; the claim lasts ``window_s``."""

    async def register_runtime(self, row: RuntimeRow) -> RuntimeRow:
        """Insert, or update by (kind, name) keeping id and creation time."""

    async def beat_runtime(
        self, kind: str, name: str, *, status: str, runtime: Raw | None
    ) -> RuntimeRow | None:
        """Note a heartbeat; None when it never registered. Empty keeps the status."""

    async def drop_runtime(self, kind: str, name: str) -> bool:
        """Forget; False when it was not there."""

    async def runtimes(
        self, *, kind: str = "", status: str = "", name: str = ""
    ) -> list[RuntimeRow]:
        """Registered processes by name."""

    async def sweep_runtimes(self, older_than_s: float) -> int:
        """Mark those without a heartbeat as offline; how many (RT-WPL-4)."""

    async def query(
        self, sql: str, parameters: Sequence[str | int | float | bool | None]
    ) -> list[dict[str, object]]:
        """Rows of an operator's own statement (``/api/postgres/execute``).

        Raises InvalidError with the database's own words when it refuses.
        """


class StreamLife(NamedTuple):
    """Which life of the log stream the tables know of (RT-NATS-36)."""

    created_at: str
    generation: int
    last_sequence: int


class StreamLives(Protocol):
    """The tables' memory of the stream's lives (RT-NATS-36)."""

    async def stream_life(self, stream: str) -> StreamLife | None:
        """What is known, the last sequence including materialized ones."""

    async def begin_life(
        self, stream: str, *, known: StreamLife | None, now: StreamLife, after: int
    ) -> bool:
        """Record another life, if ``known`` is still what is known; one caller wins.

        With a new generation every position becomes (``now.generation``, ``after``).
        """
