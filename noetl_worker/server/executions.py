"""Lists, details and pages of events: rows, and what the log has beyond them."""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct, ValidationError
from msgspec.json import Decoder
from msgspec.json import decode as decode_json

from noetl_worker.server.bodies import ExecuteBody, RerunBody, object_or_empty
from noetl_worker.server.history import History, Known
from noetl_worker.server.hub import Logged
from noetl_worker.server.live import Live
from noetl_worker.server.ports import ServerPorts
from noetl_worker.server.shapes import (
    NULL,
    EventAnswer,
    ExecutionAnswer,
    Status,
    duration_words,
    event_of_log,
    event_of_row,
    execution_of_row,
    lasted,
    moment,
    parsed,
    percent,
)
from state_builder.binding import merged
from state_builder.errors import InvalidError, UnavailableError
from state_builder.records import GENESIS, Genesis
from state_builder.stores import EventFilter, ExecutionFilter, ExecutionView

PAGE_MIN: Final = 10
PAGE_MAX: Final = 500
LIST_MAX: Final = 500
EXACT_MAX: Final = 1 << 53

_genesis = Decoder(Genesis)


class Page(Struct, frozen=True, kw_only=True):
    """Which events of an execution; ``page`` from 1."""

    page: int = 1
    page_size: int = 100
    since: int = 0
    event_type: str = ""


class Pagination(Struct, kw_only=True):
    page: int
    page_size: int
    total_events: int
    total_pages: int
    has_next: bool
    has_prev: bool


class EventsAnswer(Struct, kw_only=True):
    """A page of events, newest first."""

    events: list[EventAnswer]
    pagination: Pagination


class DetailAnswer(ExecutionAnswer, kw_only=True):
    """RT-EXN-2."""

    workload: Raw
    events: list[EventAnswer]
    events_included: bool
    events_endpoint: str
    pagination: Pagination | None


class Executions:
    """Reads of executions for people."""

    def __init__(self, ports: ServerPorts, live: Live, history: History) -> None:
        self._ports = ports
        self._live = live
        self._history = history

    async def listed(self, wanted: ExecutionFilter) -> list[ExecutionAnswer]:
        """Rows, newest first; they may lag (RT-EXN-5)."""
        now = self._ports.clock.now()
        views = await self._ports.rows.executions(wanted)
        return [execution_of_row(view, now) for view in views]

    async def detail(
        self, execution_id: str, page: Page, include_events: bool
    ) -> DetailAnswer:
        """One execution, as live as its status. Raises NotFoundError."""
        status = await self._live.status(execution_id)
        known = await self._known(execution_id, status)
        answer = self._row(status, known)
        if include_events:
            events = await self._page(known, status, page)
            answer.events, answer.pagination = events.events, events.pagination
        answer.events_included = include_events
        return answer

    async def events(self, execution_id: str, page: Page) -> EventsAnswer:
        """A page of events. Raises NotFoundError."""
        status = await self._live.status(execution_id, "events")
        return await self._page(await self._known(execution_id, status), status, page)

    async def rerun(self, execution_id: str, body: RerunBody) -> ExecuteBody:
        """The request that runs the same entry again, with the original workload."""
        status = await self._live.status(execution_id)
        known = await self._known(execution_id, status)
        original = object_or_empty(decode_json(_workload(known)), "workload")
        given = body.workload if body.workload is not None else body.payload
        wanted = object_or_empty(given, "workload")
        return ExecuteBody(
            catalog_id=status.catalog_id,
            workload=merged(original, wanted),
            resource_kind=body.resource_kind,
        )

    async def _known(self, execution_id: str, status: Status) -> Known:
        """The row, with the log after it only where the row is behind."""
        last = int(status.last_event_id or 0)
        try:
            row = await self._ports.rows.execution(execution_id)
        except UnavailableError:
            # Of what was started here the log alone can tell.
            row = None
        if row is not None and int(row.head_event_id) >= last:
            return Known(row, [])
        return await self._history.known(execution_id)

    def _row(self, status: Status, known: Known) -> DetailAnswer:
        now = self._ports.clock.now()
        row = known.row
        start, end = parsed(status.start_time), parsed(status.end_time)
        seconds = lasted(start, end, now)
        return DetailAnswer(
            execution_id=status.execution_id,
            catalog_id=status.catalog_id or "",
            path=status.path or "",
            version=status.version,
            status=status.status,
            start_time=moment(start),
            started_at=moment(start),
            end_time=moment(end),
            completed_at=moment(end),
            duration_seconds=seconds,
            duration_human=duration_words(seconds),
            progress=percent(status.over, status.done, status.total_steps),
            result=_result(row, known.tail),
            error=status.error or (row.error if row else None),
            parent_execution_id=status.parent_execution_id,
            event_count=max(status.event_count, row.event_count if row else 0),
            workload=_workload(known),
            events=[],
            events_included=False,
            events_endpoint=f"/api/executions/{status.execution_id}/events",
            pagination=None,
        )

    async def _page(self, known: Known, status: Status, page: Page) -> EventsAnswer:
        size = min(max(page.page_size, PAGE_MIN), PAGE_MAX)
        offset = (max(page.page, 1) - 1) * size
        facts = await self._live.facts(status.execution_id)
        previous = int(known.row.head_event_id) if known.row else 0
        newest: list[EventAnswer] = []
        for logged in known.tail:
            answer = event_of_log(status.execution_id, logged, facts, previous)
            previous = logged.event_id
            if _wanted(logged, page):
                newest.insert(0, answer)
        found = newest[offset : offset + size]
        total = len(newest)
        if known.row is not None:
            rows = await self._ports.rows.events(
                status.execution_id,
                EventFilter(
                    since=page.since,
                    # What was materialized meanwhile is in the tail already.
                    until=int(known.row.head_event_id),
                    event_type=page.event_type,
                    limit=size - len(found),
                    offset=max(0, offset - len(newest)),
                ),
            )
            found += [event_of_row(view) for view in rows.events]
            total += rows.total
        pages = max(1, -(-total // size))
        return EventsAnswer(
            events=found,
            pagination=Pagination(
                page=max(page.page, 1),
                page_size=size,
                total_events=total,
                total_pages=pages,
                has_next=max(page.page, 1) < pages,
                has_prev=page.page > 1,
            ),
        )


def _wanted(logged: Logged, page: Page) -> bool:
    if page.event_type and logged.event.type != page.event_type:
        return False
    if logged.event_id > page.since:
        return True
    # Browsers hold ids as doubles: a rounded anchor must not hide its neighbours.
    rounded = page.since > EXACT_MAX and float(logged.event_id) == float(page.since)
    return rounded and logged.event_id != page.since


def _workload(known: Known) -> Raw:
    if known.row is not None:
        return known.row.workload or NULL
    for logged in known.tail:
        if logged.event.type == GENESIS:
            try:
                genesis = _genesis.decode(logged.event.context)
                return genesis.workload or genesis.workload_ref or NULL
            except ValidationError:
                return NULL
    return NULL


def _result(row: ExecutionView | None, tail: list[Logged]) -> Raw:
    """The execution's result: of its row, or of the terminal that is not a row yet."""
    for logged in reversed(tail):
        if logged.event.result and not logged.event.step:
            return logged.event.result
    return (row.result if row else None) or NULL


def list_filter(query: dict[str, str]) -> ExecutionFilter:
    """The filter of a query string: limit and offset, or page and page_size."""
    size = _number(query, "page_size", _number(query, "limit", 50))
    size = min(max(size, 1), LIST_MAX)
    offset = _number(query, "offset", 0)
    if "page" in query:
        offset = (max(_number(query, "page", 1), 1) - 1) * size
    return ExecutionFilter(
        catalog_id=query.get("catalog_id", ""),
        path=query.get("path", ""),
        status=query.get("status", "").upper(),
        limit=size,
        offset=max(offset, 0),
    )


def page_of(query: dict[str, str]) -> Page:
    """The page of events a query string names."""
    return Page(
        page=_number(query, "page", 1),
        page_size=_number(query, "page_size", _number(query, "limit", 100)),
        since=_rounded(query.get("since_event_id", "")),
        event_type=query.get("event_type", ""),
    )


def _rounded(text: str) -> int:
    """An event id a browser may have rounded or written as ``1e+17``."""
    if not text:
        return 0
    try:
        return max(0, int(text))
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        raise InvalidError(
            f"since_event_id must be a number, not {text[:40]!r}"
        ) from None
    return int(value) if 0 <= value < 2**63 else 0


def _number(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise InvalidError(
            f"{name} must be a whole number, not {text[:40]!r}"
        ) from None
