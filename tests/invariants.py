"""The invariants of runtime.md §3.5 and §11, as SQL on the tables, for any test.

They hold for every finished execution once the materializer has caught up. The caller
gives a connection and execution ids and gets sentences: what is violated, where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from state_builder.records import TERMINAL_STATUS


class Invariant(NamedTuple):
    """A query that yields ``(execution_id, found)`` for each execution that fails."""

    name: str
    sql: str


_EVENTS = "(SELECT * FROM noetl.event WHERE execution_id = ANY ($1::BIGINT[])) AS e"
_WANTED = "unnest($1::BIGINT[]) AS wanted (id)"

INVARIANTS = (
    Invariant(
        "rows > 0",
        f"""SELECT id, 0 FROM {_WANTED}
            WHERE NOT EXISTS (SELECT FROM noetl.event WHERE execution_id = id)""",
    ),
    Invariant(
        "roots = 1",
        f"""SELECT execution_id, count(*) FILTER (WHERE prev_event_id IS NULL)
            FROM {_EVENTS} GROUP BY 1
            HAVING count(*) FILTER (WHERE prev_event_id IS NULL) <> 1""",
    ),
    Invariant(
        "the root is the genesis",
        f"""SELECT execution_id, event_id FROM {_EVENTS}
            WHERE prev_event_id IS NULL AND event_type <> 'playbook_started'""",
    ),
    Invariant(
        "terminals = 1",
        f"""SELECT execution_id, count(*) FILTER (WHERE event_type = ANY ($2::TEXT[]))
            FROM {_EVENTS} GROUP BY 1
            HAVING count(*) FILTER (WHERE event_type = ANY ($2::TEXT[])) <> 1""",
    ),
    Invariant(
        "dangling = 0",
        f"""SELECT e.execution_id, e.event_id FROM {_EVENTS}
            LEFT JOIN noetl.event AS previous
              ON previous.execution_id = e.execution_id
             AND previous.event_id = e.prev_event_id
            WHERE e.prev_event_id IS NOT NULL AND previous.event_id IS NULL""",
    ),
    Invariant(
        "heads = 1",
        f"""SELECT e.execution_id, count(*) FROM {_EVENTS}
            WHERE NOT EXISTS (
                SELECT FROM noetl.event AS following
                WHERE following.execution_id = e.execution_id
                  AND following.prev_event_id = e.event_id
            )
            GROUP BY 1 HAVING count(*) <> 1""",
    ),
    Invariant(
        "walk = total",
        f"""WITH RECURSIVE walk AS (
                SELECT execution_id, max(event_id) AS event_id FROM {_EVENTS} GROUP BY 1
                UNION
                SELECT e.execution_id, e.prev_event_id FROM noetl.event AS e
                JOIN walk USING (execution_id, event_id)
                WHERE e.prev_event_id IS NOT NULL
            )
            SELECT total.execution_id, walked.count - total.count
            FROM (SELECT execution_id, count(*) FROM {_EVENTS} GROUP BY 1) AS total
            JOIN (SELECT execution_id, count(*) FROM walk GROUP BY 1) AS walked
              USING (execution_id)
            WHERE walked.count <> total.count""",
    ),
    Invariant(
        "rows = distinct",
        f"""SELECT execution_id, count(*) - count(DISTINCT event_id) FROM {_EVENTS}
            GROUP BY 1 HAVING count(*) <> count(DISTINCT event_id)""",
    ),
    Invariant(
        "catalog_id <> 0",
        f"""SELECT execution_id, event_id FROM {_EVENTS}
            WHERE catalog_id IS NULL OR catalog_id <= 0""",
    ),
    Invariant(
        "__orchestrate__ = 0",
        f"SELECT execution_id, event_id FROM {_EVENTS} "
        "WHERE node_name = '__orchestrate__'",
    ),
    Invariant(
        "one issue per command",
        f"""SELECT execution_id, count(*) FROM {_EVENTS}
            WHERE command_id IS NOT NULL AND status <> 'IGNORED'
              AND event_type = 'command.issued'
            GROUP BY execution_id, command_id HAVING count(*) <> 1""",
    ),
    # A parking report frees the worker and is no answer; a call-back is (RT-DRV-19).
    Invariant(
        "one answer per command",
        f"""SELECT execution_id, count(*) FROM {_EVENTS}
            WHERE event_type IN ('command.completed', 'command.failed')
              AND status <> 'IGNORED'
              AND NOT coalesce((meta ->> 'pending_callback')::BOOLEAN, false)
            GROUP BY execution_id, command_id HAVING count(*) > 1""",
    ),
    Invariant(
        "no command left open",
        """SELECT execution_id, count(*) FROM noetl.command
           WHERE execution_id = ANY ($1::BIGINT[])
             AND status IN ('PENDING', 'CLAIMED', 'RUNNING')
           GROUP BY 1""",
    ),
    Invariant(
        "answers only missing where the execution ended first",
        """SELECT command.execution_id, command.event_id FROM noetl.command
           JOIN noetl.execution USING (execution_id)
           WHERE command.execution_id = ANY ($1::BIGINT[])
             AND command.status = 'CANCELLED' AND execution.status = 'COMPLETED'""",
    ),
    Invariant(
        "the execution's row is its chain's end",
        f"""SELECT e.execution_id, count(*) FROM {_EVENTS}
            JOIN noetl.execution USING (execution_id)
            GROUP BY e.execution_id, head_event_id, event_count
            HAVING head_event_id <> max(e.event_id) OR event_count <> count(*)""",
    ),
    Invariant(
        "quarantined = 0",
        """SELECT execution_id, count(*) FROM noetl.event_quarantine
           WHERE execution_id = ANY ($1::BIGINT[]) GROUP BY 1""",
    ),
)


async def violations(
    connection: asyncpg.Connection[Any], execution_ids: Sequence[str | int]
) -> list[str]:
    """What does not hold, a sentence each; empty when all is well."""
    ids = [int(each) for each in execution_ids]
    found: list[str] = []
    for invariant in INVARIANTS:
        arguments: list[object] = [ids]
        if "$2" in invariant.sql:
            arguments.append(list(TERMINAL_STATUS))
        rows = await connection.fetch(invariant.sql, *arguments)
        found += [f"execution {row[0]}: {invariant.name}: {row[1]}" for row in rows]
    return found
