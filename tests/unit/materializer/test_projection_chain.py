"""Projection under any interleaving, repetition, batching and loss of memory.

The rows are compared with those of one batch read once: how the log was cut into
batches, what was read twice and when heads were forgotten must not show (RT-MAT-3).
"""

from __future__ import annotations

from collections import defaultdict

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_log import answer, end, fact, failure, genesis, issue, stored, whole

from materializer.memory import MemoryDatabase, MemoryRows
from materializer.projection import Projector, decode_messages
from state_builder.ports import LogMessage
from state_builder.records import TERMINAL_STATUS, Record
from state_builder.rows import EventRow, Position

EXECUTIONS = ("7423000000000000001", "7423000000000000002", "41")


class StoppedClock:
    """Time that stands still."""

    def now(self) -> float:
        return 1_800_000_000.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep_forever()


def chaos(execution_id: str) -> list[Record]:
    """Records of one execution with everything that may come late or twice."""
    return [
        *whole(execution_id, steps=2)[:-1],
        answer(execution_id, "step_0", "worker-2"),
        genesis(execution_id),
        issue(execution_id, "parked"),
        fact(execution_id, "parked", "command.completed", pending=True),
        fact(execution_id, "parked", "call.done"),
        issue(execution_id, "open"),
        failure(execution_id, "step_1"),
        end(execution_id, "playbook.failed"),
        fact(execution_id, "open", "call.done"),
        end(execution_id),
        fact(execution_id, "open", "command.completed"),
    ]


@st.composite
def logs(draw: st.DrawFn) -> list[LogMessage]:
    """Some executions' records in their own order, interleaved; some repeated."""
    queues = {each: chaos(each) for each in EXECUTIONS}
    order = draw(st.permutations([each for each, q in queues.items() for _ in q]))
    records = [queues[each].pop(0) for each in order]
    again = draw(st.lists(st.sampled_from(records), max_size=6))
    for record in again:
        records.insert(draw(st.integers(0, len(records))), record)
    return [
        each._replace(stored_at=each.stored_at + each.sequence)
        for each in stored(*records)
    ]


@st.composite
def readings(draw: st.DrawFn, length: int) -> list[tuple[int, int, bool]]:
    """How the log is read: ranges, each beginning at or before the last one's end."""
    reached, found = 0, []
    while reached < length:
        begin = draw(st.integers(max(0, reached - 5), reached))
        end_at = draw(st.integers(reached + 1, length))
        found.append((begin, end_at, draw(st.booleans())))
        reached = end_at
    return found


async def read(
    messages: list[LogMessage], plan: list[tuple[int, int, bool]]
) -> MemoryDatabase:
    """Project and store the log as planned."""
    database = MemoryDatabase(StoppedClock())
    projector = Projector(0, executions_max=2)
    async with MemoryRows(database).lead("all") as writer:
        position = await writer.position(0)
        for begin, end_at, forget in plan:
            if forget:
                projector.forget()
            entries = decode_messages(messages[begin:end_at]).entries
            projector.learn(await writer.heads(projector.unknown(entries)))
            reached = Position(0, end_at)
            projected = projector.project(entries, after=position, position=reached)
            await writer.write(projected.batch)
            position = reached
    return database


def events(database: MemoryDatabase, execution_id: str) -> list[EventRow]:
    return [row for _, row in sorted(database.events[int(execution_id)].items())]


def check_chain(rows: list[EventRow]) -> None:
    """The invariants of runtime.md §3.5."""
    ids = [row.event_id for row in rows]
    assert len(set(ids)) == len(ids)
    assert [row.event_id for row in rows if row.prev_event_id is None] == ids[:1]
    assert rows[0].event_type == "playbook_started"
    assert sum(row.event_type in TERMINAL_STATUS for row in rows) <= 1
    followers: dict[int, int] = defaultdict(int)
    for row in rows[1:]:
        assert row.prev_event_id in set(ids)
        followers[row.prev_event_id or 0] += 1
    assert set(followers.values()) <= {1}
    walked, at = 0, ids[-1]
    previous = {row.event_id: row.prev_event_id for row in rows}
    while at:
        walked, at = walked + 1, previous[at] or 0
    assert walked == len(rows)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_rows_do_not_depend_on_how_the_log_was_read(data: st.DataObject) -> None:
    """RT-EVT §3.5, RT-MAT-3, RT-MAT-4: chain invariants; batches leave no trace."""
    messages = data.draw(logs())
    once = anyio.run(read, messages, [(0, len(messages), False)])
    plan = data.draw(readings(len(messages)))
    database = anyio.run(read, messages, plan)
    for execution_id in EXECUTIONS:
        if int(execution_id) not in once.executions:
            continue
        rows = events(database, execution_id)
        check_chain(rows)
        assert rows == events(once, execution_id)
        head = database.executions[int(execution_id)]
        assert (head.head_event_id, head.event_count) == (rows[-1].event_id, len(rows))
    assert database.executions == once.executions
    assert database.commands == once.commands
    assert database.quarantined == once.quarantined
    rows_stored = sum(len(rows) for rows in database.events.values())
    total = sum(len(decode_messages([each]).entries) for each in messages)
    assert rows_stored + len(database.quarantined) == total


@pytest.mark.parametrize("executions_max", [1, 2, 100])
def test_memory_is_bounded_and_evicted_heads_are_asked_for_again(
    executions_max: int,
) -> None:
    """Heads of the last two batches stay; older ones are learnt again when needed."""
    projector = Projector(0, executions_max=executions_max)
    for number in range(6):
        first = number + 1
        messages = stored(genesis(str(100 + number)), first=first)
        entries = decode_messages(messages).entries
        assert projector.unknown(entries) == [100 + number]
        after, reached = Position(0, first - 1), Position(0, first)
        projector.project(entries, after=after, position=reached)
    late = [genesis(str(100 + number)) for number in range(6)]
    unknown = projector.unknown(decode_messages(stored(*late)).entries)
    kept = min(max(executions_max, 2), 6)
    assert sorted(unknown) == [100 + number for number in range(6 - kept)]


def test_open_commands_count_against_memory() -> None:
    """An execution with many open commands is let go before one with none."""
    projector = Projector(0, commands_max=3)
    wide = [genesis("1"), *(issue("1", f"step_{number}") for number in range(5))]
    log = stored(*wide, genesis("2"), genesis("3"), genesis("4"))
    for begin, end_at in ((0, 6), (6, 7), (7, 8), (8, 9)):
        entries = decode_messages(log[begin:end_at]).entries
        after, reached = Position(0, begin), Position(0, end_at)
        projector.project(entries, after=after, position=reached)
    unknown = projector.unknown(decode_messages(log).entries)
    assert unknown == [1]
