"""The index of a shard: folded, snapshot, bounded; and the links of a chain."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec import Raw

sys.path.insert(0, str(Path(__file__).parents[2]))

from written_log import end, fact, genesis, issue, message, stored, whole

from state_builder.chain import ChainHead, link
from state_builder.errors import RecordError
from state_builder.ids import digest_of
from state_builder.index import ENDED_KEPT_MAX, TOMBSTONES_MAX, ShardIndex
from state_builder.records import (
    GENESIS,
    Event,
    Genesis,
    Record,
    encode_append,
    encode_json,
)
from state_builder.wait import command_wait


def test_links_of_a_chain_have_one_root_and_one_terminal() -> None:
    """RT-EVT-20: what does not count says why, and has no place where it has none."""
    head = ChainHead()
    assert link(head, 1, "step.enter").verdict == "orphan"
    assert link(head, 2, "playbook_started") == (
        root := link(ChainHead(), 9, "playbook_started")
    )
    assert root.previous == 0
    assert link(head, 3, "step.enter").previous == 2
    assert link(head, 4, "playbook_started").verdict == "second_genesis"
    assert link(head, 5, "playbook.completed").verdict == ""
    assert link(head, 6, "step.enter").verdict == "after_terminal"
    assert link(head, 7, "playbook.failed").verdict == "second_terminal"
    assert (head.event_id, head.count, head.terminal) == (6, 5, "COMPLETED")


def test_an_execution_is_open_until_its_terminal_and_then_a_tombstone() -> None:
    """RT-IDX-9: late facts about it are folded into nothing."""
    index = ShardIndex(0, 0)
    log = stored(*whole("1"))
    for one in log[:-1]:
        assert [entry.state.execution_id for entry in index.apply(one)] == ["1"]
    assert index.find("1") is index.open["1"].state
    assert [entry.retired for entry in index.apply(log[-1])] == [True]
    assert index.open == {}
    found = index.find("1")
    assert found is not None
    assert found.terminal == "COMPLETED"
    late = message(len(log) + 1, encode_append([fact("1", "load", "call.done")]))
    assert index.apply(late) == []
    assert index.find("2") is None


def parked(execution_id: str) -> list[Record]:
    """An execution that waits for a call-back, however long."""
    pending = {"status": "pending", "pending": True, "worker_id": "", "task": "j"}
    return [
        genesis(execution_id),
        issue(execution_id, "load"),
        fact(execution_id, "load", "command.started"),
        fact(execution_id, "load", "command.completed", **pending),
    ]


def test_what_waits_longest_is_packed_first_and_comes_back_unchanged() -> None:
    """RT-IDX-10: whatever is done to a packed execution, none can tell the difference."""
    index, twin = ShardIndex(0, 0), ShardIndex(0, 0)
    log = stored(*parked("1"), *parked("2"), genesis("3"), issue("3", "load"))
    for one in log:
        index.apply(one)
        twin.apply(one)
    for entry in index.open.values():
        entry.due = False
    before = index.snapshot(len(log))
    used = index.memory
    assert index.pack(1) == ["1"]
    assert index.pack(used) == ["2"], "a worker's command keeps its execution at hand"
    assert index.memory < used
    assert index.snapshot(len(log)) == before
    assert index.needed(len(log)) == twin.needed(len(log))
    assert [name for name, entry in index.open.items() if entry.packed] == ["1", "2"]
    end_of_it = message(
        len(log) + 1,
        encode_append([fact("1", "load", "call.done", status="COMPLETED")]),
    )
    index.apply(end_of_it)
    twin.apply(end_of_it)
    assert not index.open["1"].packed
    assert index.find("1") == twin.find("1")
    assert index.find("2") == twin.find("2")


def test_only_idle_executions_are_packed() -> None:
    """RT-IDX-10: not what is yet to be decided, nor what has a pass on its way."""
    index = ShardIndex(0, 0)
    for one in stored(*parked("1")):
        index.apply(one)
    entry = index.open["1"]
    assert index.pack(1 << 30) == []
    entry.due, entry.unread = False, 1
    assert index.pack(1 << 30) == []
    entry.unread = 0
    assert index.pack(1 << 30) == ["1"]


@pytest.mark.parametrize(("watcher", "needed"), [("worker-1", 2), ("", 10)])
def test_a_job_somebody_watches_keeps_its_command_in_the_log(
    watcher: str, needed: int
) -> None:
    """RT-DRV-19, TL-CTR-07: whoever watches on gets it from there; for a call-back
    nobody does."""
    parked = {"status": "pending", "pending": True, "worker_id": watcher, "task": "j"}
    log = [genesis("1"), issue("1", "load")]
    log += [fact("1", "load", "command.started")]
    log += [fact("1", "load", "command.completed", **parked)]
    index = ShardIndex(0, 0)
    for one in stored(*log):
        index.apply(one)
    [command] = index.open["1"].state.commands.values()
    assert (command.parked, command.job, command.worker) == (True, "j", watcher)
    assert index.needed(9) == needed
    if watcher:
        assert command_wait("c", command, 0.0).text.endswith("worker worker-1 watches")


def test_a_fact_of_an_execution_that_never_began_is_passed_over() -> None:
    index = ShardIndex(0, 0)
    assert index.apply(stored(fact("9", "a", "call.done"))[0]) == []
    assert index.open == {}


def test_a_message_that_is_no_append_is_counted_and_passed_over() -> None:
    """RT-NATS-46."""
    index = ShardIndex(0, 0)
    assert index.apply(message(1, b"{")) == []
    assert (index.damaged, index.position) == (1, 1)


def test_a_pass_is_read_back_before_the_next_is_made() -> None:
    """Design §4: only what others said is news to the owner."""
    index = ShardIndex(0, 0)
    first, second, third = stored(
        genesis("1"), issue("1", "a"), fact("1", "a", "command.started")
    )
    (entry,) = index.apply(first)
    assert entry.due
    entry.unread, entry.due = 1, False
    index.apply(second)
    assert (entry.unread, entry.due) == (0, False)
    index.apply(third)
    assert entry.due


def test_what_ended_is_kept_within_bounds() -> None:
    index = ShardIndex(0, 0)
    for number in range(TOMBSTONES_MAX + 2):
        eid = str(number)
        index.apply(message(number + 1, encode_append([genesis(eid), end(eid)])))
    assert len(index.ended) == ENDED_KEPT_MAX
    assert len(index.tombstones) == TOMBSTONES_MAX
    assert index.find("0") is None


def test_a_snapshot_restores_what_was_open() -> None:
    """RT-IDX-4."""
    index = ShardIndex(3, 1)
    for one in stored(*whole("1")[:3], *whole("2")):
        index.apply(one)
    again = ShardIndex.restore(3, 1, index.snapshot(index.position))
    assert again.snapshot(again.position) == index.snapshot(index.position)
    assert list(again.tombstones) == ["2"]
    orphan = ShardIndex(3, 1)
    orphan.apply(
        message(
            1,
            encode_append(
                [
                    Record(
                        execution_id="5",
                        events=[
                            Event(
                                type="playbook_started",
                                context=genesis("5").events[0].context,
                            )
                        ],
                    )
                ]
            ),
        )
    )
    orphan.open["5"].state.genesis = None
    assert ShardIndex.restore(3, 1, orphan.snapshot(1)).open["5"].state.genesis is None


@pytest.mark.parametrize(
    ("shard", "generation", "spoil", "problem"),
    [
        (0, 0, lambda data: data[:-1], "checksum does not match"),
        (0, 0, lambda data: _signed(b"{"), "snapshot: "),
        (
            0,
            0,
            lambda data: _signed(
                data.split(b"\n", 1)[1].replace(b'"version":', b'"version":1')
            ),
            "snapshot of",
        ),
        (1, 0, lambda data: data, "wanted (2, 1, 0)"),
        (0, 7, lambda data: data, "wanted (2, 0, 7)"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(
    shard: int, generation: int, spoil: object, problem: str
) -> None:
    """RT-IDX-4: damaged, of another version, shard or life of the stream."""
    index = ShardIndex(0, 0)
    index.apply(stored(genesis("1"))[0])
    assert callable(spoil)
    with pytest.raises(RecordError) as caught:
        ShardIndex.restore(shard, generation, spoil(index.snapshot(1)))
    assert problem in str(caught.value)


def _signed(body: bytes) -> bytes:
    return digest_of(body).encode() + b"\n" + body


def _born(execution_id: str, root: str) -> Record:
    context = Genesis(catalog_id="1", path="p", version=1, root=root)
    event = Event(type=GENESIS, context=Raw(encode_json(context)))
    return Record(execution_id=execution_id, events=[event])


def test_a_tree_is_counted_as_long_as_any_of_it_is_open() -> None:
    """RT-LIM-1, RT-IDX-4: ended ones too, over snapshots, and then forgotten."""
    index = ShardIndex(0, 0)
    log = stored(_born("1", ""), _born("2", "1"), end("2"), _born("3", "1"), end("1"))
    for one in log[:4]:
        index.apply(one)
    root, child = index.open["1"].state, index.open["3"].state
    assert index.tree_size(root) == index.tree_size(child) == 3
    index.apply(log[4])
    again = ShardIndex.restore(0, 0, index.snapshot(index.position))
    assert again.tree_size(child) == 3
    again.apply(message(6, encode_append([end("3")])))
    assert again.trees == {}
    assert again.tree_size(child) == 1


def test_the_root_of_a_tree_may_end_last() -> None:
    index = ShardIndex(0, 0)
    for one in stored(_born("1", ""), _born("2", "1"), end("2"), end("1")):
        index.apply(one)
    assert index.trees == {}
