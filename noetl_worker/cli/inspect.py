"""``status``, ``events``, ``list`` and ``cancel``: looking at executions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar, cast

import anyio
from cyclopts import Parameter, validators

from noetl_worker.cli.exits import ExitCode, UsageError
from noetl_worker.cli.options import AsJson, ServerUrl, connect
from noetl_worker.cli.screen import (
    STYLES,
    duration,
    line,
    note,
    pretty,
    put_json,
    show,
    table,
)
from noetl_worker.client import NoetlClient
from state_builder.records import JSON

EVENTS_PAGE = 500

T = TypeVar("T")
Row = dict[str, JSON]
Limit = Annotated[
    int, Parameter("--limit", validator=validators.Number(gte=1, lte=100_000))
]


def status(
    execution_id: str, /, *, json: AsJson = False, server: ServerUrl = ""
) -> int:
    """Show how an execution stands.

    Parameters
    ----------
    execution_id
        Which one.
    """
    eid = _id(execution_id)
    found = _ask(server, lambda client: client.status(eid))
    if json:
        put_json(found)
        return ExitCode.OK
    from rich.text import Text

    rows = table(("", ""))
    rows.show_header = False
    state = str(found.get("status"))
    rows.add_row("execution", eid)
    rows.add_row("path", str(found.get("path") or "-"))
    rows.add_row("status", Text(state, STYLES.get(state, "")))
    for name, key in (
        ("step", "current_step"),
        ("started", "start_time"),
        ("ended", "end_time"),
        ("error", "error"),
    ):
        if found.get(key):
            rows.add_row(name, str(found[key]))
    rows.add_row("duration", _spent(found))
    for name, key in (("completed", "completed_steps"), ("failed", "failed_steps")):
        steps = found.get(key)
        if isinstance(steps, list) and steps:
            rows.add_row(name, ", ".join(map(str, steps)))
    show(rows)
    return ExitCode.OK


def events(
    execution_id: str,
    /,
    *,
    limit: Limit = 200,
    type_: Annotated[str, Parameter("--type", help="Only events of this type.")] = "",
    json: AsJson = False,
    server: ServerUrl = "",
) -> int:
    """Show what happened in an execution, oldest first.

    Parameters
    ----------
    execution_id
        Which one.
    limit
        The newest so many.
    """
    eid = _id(execution_id)
    found = _ask(server, lambda client: newest(client, eid, limit, type_))
    found.reverse()
    if json:
        put_json(cast(JSON, found))
        return ExitCode.OK
    rows = table(("time", "event", "step", "status", "what"))
    for event in found:
        rows.add_row(
            str(event.get("created_at") or "")[11:23],
            str(event.get("event_type")),
            str(event.get("node_name") or ""),
            str(event.get("status") or ""),
            _what(event),
        )
    show(rows)
    return ExitCode.OK


def list_(
    *,
    playbooks: Annotated[
        bool, Parameter(negative="", help="List the catalog instead of executions.")
    ] = False,
    status: Annotated[str, Parameter(help="Only executions of this status.")] = "",
    path: Annotated[
        str, Parameter(help="Only this path; one that ends in / is a prefix.")
    ] = "",
    limit: Annotated[
        int, Parameter("--limit", validator=validators.Number(gte=1, lte=500))
    ] = 20,
    json: AsJson = False,
    server: ServerUrl = "",
) -> int:
    """List executions, newest first, or the playbooks of the catalog.

    Parameters
    ----------
    limit
        At most so many.
    """
    columns: tuple[str, ...]
    if playbooks:
        found = _ask(server, lambda client: client.catalog("Playbook", path))[:limit]
        columns = ("path", "version", "kind", "created_at")
    else:
        query: dict[str, str | int] = {"limit": limit}
        query |= {"status": status} if status else {}
        query |= {"path": path} if path else {}
        found = _ask(server, lambda client: client.executions(**query))
        columns = ("execution_id", "path", "status", "start_time", "duration")
    if json:
        put_json(cast(JSON, found))
        return ExitCode.OK
    if not found:
        note("nothing found")
        return ExitCode.OK
    for row in found:
        row["duration"] = _spent(row)
    rows = table(name.removesuffix("_id") for name in columns)
    for row in found:
        cells = [str(row.get(name) or "") for name in columns]
        rows.add_row(*cells)
    show(rows)
    return ExitCode.OK


def cancel(
    execution_id: str,
    /,
    *,
    reason: Annotated[str, Parameter(help="Kept with the execution.")] = "",
    cascade: Annotated[
        bool, Parameter(help="Cancel executions it started, too.")
    ] = True,
    json: AsJson = False,
    server: ServerUrl = "",
) -> int:
    """End an execution; what runs at this moment is told to stop.

    Parameters
    ----------
    execution_id
        Which one.
    """
    eid = _id(execution_id)
    answer = _ask(server, lambda client: client.cancel(eid, reason, cascade))
    if json:
        put_json(answer)
        return ExitCode.OK
    line(str(answer.get("message") or answer.get("status")))
    return ExitCode.OK


def why(execution_id: str, /, *, json: AsJson = False, server: ServerUrl = "") -> int:
    """Explain why an execution is not finished.

    Names every command, child, call-back, timer and join it waits for, and the last
    decision with the event that led to it.

    Parameters
    ----------
    execution_id
        Which one.
    """
    eid = _id(execution_id)
    found = _ask(server, lambda client: client.why(eid))
    if json:
        put_json(found)
        return ExitCode.OK
    line(f"execution {eid} of {found.get('path')}: {found.get('status')}")
    waiting = cast(list[Row], found.get("waiting") or [])
    for wait in waiting:
        line(f"  {wait.get('kind')}: {wait.get('text')}")
    if not waiting:
        line(f"  {found.get('summary')}")
    decision = cast(Row, found.get("last_decision") or {})
    if decision:
        line(f"last decision: {decision.get('text')}{_because(decision)}")
    line(
        f"as of event {found.get('as_of_event_id')}, told by the {found.get('source')}"
    )
    return ExitCode.OK


def _because(decision: Row) -> str:
    cause = cast(Row, decision.get("cause") or {})
    if not cause:
        return f" (event {decision.get('event_id')})"
    step = f" of step '{cause['step']}'" if cause.get("step") else ""
    what = cause.get("event_type") or "an event"
    return f"\n  because of {what}{step} (event {cause.get('event_id')})"


async def newest(
    client: NoetlClient, eid: str, limit: int, type_: str = ""
) -> list[Row]:
    """The newest ``limit`` events, newest first, page by page."""
    found: list[Row] = []
    size = max(10, min(limit, EVENTS_PAGE))
    query: dict[str, str | int] = {"page_size": size}
    if type_:
        query["event_type"] = type_
    page = 1
    while len(found) < limit:
        answer = await client.events(eid, page=page, **query)
        found += cast(list[Row], answer.get("events") or [])
        pagination = cast(Row, answer.get("pagination") or {})
        if not pagination.get("has_next"):
            break
        page += 1
    return found[:limit]


def _what(event: Row) -> str:
    """The most telling part of an event, on one line."""
    text = str(event.get("error") or "")
    result = event.get("result")
    if not text and isinstance(result, dict):
        context = result.get("context")
        data = context.get("data") if isinstance(context, dict) else context
        text = "" if data is None else " ".join(pretty(data, 400).split())
    return text if len(text) <= 100 else f"{text[:99]}…"


def _spent(row: Row) -> str:
    seconds = row.get("duration_seconds")
    return duration(seconds if isinstance(seconds, int | float) else None)


def _id(text: str) -> str:
    if not text.isdecimal():
        raise UsageError(f"execution id {text!r}: write its digits")
    return text


def _ask(server: str, question: Callable[[NoetlClient], Awaitable[T]]) -> T:
    async def main() -> T:
        async with connect(server) as client:
            return await question(client)

    return anyio.run(main)
