"""The index of one shard: every open execution, folded, and how far the log was read.

Live and replayed state are the same function of the log (RT-IDX-3): whatever is
appended changes nothing here until it is read back. No cursor is stored anywhere; the
position is a property of the index, and a snapshot is the index written down.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import DecodeError, Struct, ValidationError, field
from msgspec.json import Decoder, Encoder

from state_builder.errors import RecordError
from state_builder.ids import digest_of, event_id, event_position
from state_builder.ports import LogMessage
from state_builder.records import GENESIS, RESERVED_TYPES, Record, decode_append
from state_builder.state import STATE_VERSION, State, fold, own_payloads

ENDED_KEPT_MAX = 512
"""Ended executions kept whole, for status questions right after the end."""

TOMBSTONES_MAX = 8192
"""Ended executions remembered by id alone (RT-IDX-9)."""

_FROM_OUTSIDE = frozenset(
    {GENESIS, "playbook.cancel_requested", "playbook.finalize_requested"}
)
DECISION_TYPES = RESERVED_TYPES - _FROM_OUTSIDE
"""A record that begins with one of these is a decision, any other is a fact."""


class Entry(Struct, kw_only=True):
    """One execution in memory.

    Attributes:
        unread: messages of its last pass that were not read back yet; while there are
            any, it is not decided again (design §4).
        due: something was read that no decision has seen. A pass leaves nothing to
            decide but what is said to follow it, so its own read-back is no news.
        retired: it left the index; whoever still holds it lets go.
        armed: the due time its owner is to wake up for; 0 = none.
    """

    state: State
    unread: int = 0
    due: bool = True
    retired: bool = False
    armed: float = 0.0


class Tree(Struct, kw_only=True, omit_defaults=True):
    """Executions that playbooks called under one first execution.

    Attributes:
        started: all there ever were.
        open: those that have not ended.
    """

    started: int = 0
    open: int = 0


class Snapshot(Struct, kw_only=True):
    """A shard's open executions up to a sequence."""

    version: int
    shard: int
    covered: int
    generation: int
    executions: list[State]
    tombstones: dict[str, str] = field(default_factory=dict)
    trees: dict[str, Tree] = field(default_factory=dict)


_snapshot_encoder = Encoder()
_snapshot_decoder = Decoder(Snapshot)


class ShardIndex:
    """Open executions of one shard.

    Attributes:
        position: the last sequence read; nothing before it is missing.
        damaged: messages that were no valid append, passed over (RT-NATS-46).
        events: events folded since boot.
        trees: by the execution they began with, while any of it is open.
    """

    def __init__(self, shard: int, generation: int, position: int = 0) -> None:
        self.shard = shard
        self.generation = generation
        self.position = position
        self.events = 0
        self.damaged = 0
        self.open: dict[str, Entry] = {}
        self.ended: OrderedDict[str, State] = OrderedDict()
        self.tombstones: OrderedDict[str, str] = OrderedDict()
        self.trees: dict[str, Tree] = {}

    def apply(self, message: LogMessage) -> list[Entry]:
        """Fold one message; which executions it touched.

        Executions that end leave :attr:`open`, retired.
        """
        assert message.sequence > self.position, "the log is read forward"
        self.position = message.sequence
        try:
            append = decode_append(message.data)
        except RecordError:
            self.damaged += 1
            return []
        touched: list[Entry] = []
        index = 0
        for record in append.records:
            entry = self._entry_of(record)
            if entry is not None:
                self._fold(entry, record, message.sequence, index)
                touched.append(entry)
                if entry.state.terminal:
                    self._retire(entry)
            index += len(record.events)
        self.events += index
        return touched

    def _entry_of(self, record: Record) -> Entry | None:
        entry = self.open.get(record.execution_id)
        if entry is not None:
            return entry
        known = record.execution_id in self.tombstones
        if known or record.events[0].type != GENESIS:
            # A late fact, or one of an execution that never began: O(1), no effect.
            return None
        entry = Entry(state=State(execution_id=record.execution_id))
        self.open[record.execution_id] = entry
        return entry

    def _fold(self, entry: Entry, record: Record, sequence: int, index: int) -> None:
        state = entry.state
        born = not state.head.count
        first = event_id(self.generation, sequence, index)
        for number, event in enumerate(record.events, first):
            fold(state, event, number)
        if born:
            self._join_tree(state)
        if entry.unread and record.events[0].type in DECISION_TYPES:
            entry.unread -= 1
        else:
            entry.due = True

    def _retire(self, entry: Entry) -> None:
        state = entry.state
        entry.retired = True
        del self.open[state.execution_id]
        self.ended[state.execution_id] = state
        self.tombstones[state.execution_id] = state.terminal
        if len(self.ended) > ENDED_KEPT_MAX:
            self.ended.popitem(last=False)
        if len(self.tombstones) > TOMBSTONES_MAX:
            self.tombstones.popitem(last=False)
        self._leave_tree(state)

    def _join_tree(self, state: State) -> None:
        if state.genesis is not None and state.genesis.root:
            tree = self.trees.setdefault(state.genesis.root, Tree())
            tree.started += 1
            tree.open += 1

    def _leave_tree(self, state: State) -> None:
        root = state.genesis.root if state.genesis is not None else ""
        tree = self.trees.get(root or state.execution_id)
        if tree is not None:
            tree.open -= bool(root)
            if not tree.open and (root or state.execution_id) not in self.open:
                del self.trees[root or state.execution_id]

    def tree_size(self, state: State) -> int:
        """Executions of the tree this one belongs to, ended ones included."""
        genesis = state.genesis
        root = (genesis.root if genesis is not None else "") or state.execution_id
        tree = self.trees.get(root)
        return 1 if tree is None else 1 + tree.started

    def find(self, execution_id: str) -> State | None:
        """The state of an execution that is open or ended lately."""
        entry = self.open.get(execution_id)
        return self.ended.get(execution_id) if entry is None else entry.state

    def needed(self, covered: int) -> int:
        """The first message still needed by whoever has a snapshot up to ``covered``.

        A command a worker has yet to run must stay in the log, for that is where the
        worker gets it from; one that waits for a child, or is parked with nobody to
        watch its job, has been taken.
        """
        first = covered + 1
        for entry in self.open.values():
            for command in entry.state.commands.values():
                generation, sequence, _ = event_position(command.event)
                taken = command.child or (command.parked and not command.worker)
                if not taken and generation == self.generation:
                    first = min(first, sequence)
        return first

    def snapshot(self, covered: int) -> bytes:
        """The index as bytes: a checksum line, then the states.

        ``covered`` is :attr:`position`, or the log's end when nothing is pending.
        """
        assert covered >= self.position
        body = _snapshot_encoder.encode(
            Snapshot(
                version=STATE_VERSION,
                shard=self.shard,
                covered=covered,
                generation=self.generation,
                executions=[entry.state for entry in self.open.values()],
                tombstones=dict(self.tombstones),
                trees=self.trees,
            )
        )
        return digest_of(body).encode() + b"\n" + body

    @classmethod
    def restore(cls, shard: int, generation: int, data: bytes) -> ShardIndex:
        """The index a snapshot holds.

        Raises:
            RecordError: damaged, of another build's version, of another shard, or of
                another life of the stream; try the older one (RT-IDX-4).
        """
        checksum, _, body = data.partition(b"\n")
        if checksum != digest_of(body).encode():
            raise RecordError("snapshot: checksum does not match")
        try:
            snapshot = _snapshot_decoder.decode(body)
        except (DecodeError, ValidationError) as error:
            raise RecordError(f"snapshot: {error}") from error
        found = (snapshot.version, snapshot.shard, snapshot.generation)
        wanted = (STATE_VERSION, shard, generation)
        if found != wanted:
            raise RecordError(
                f"snapshot of (version, shard, generation) {found}, wanted {wanted}"
            )
        index = cls(shard, generation, snapshot.covered)
        for state in snapshot.executions:
            if state.genesis is not None:
                own_payloads(state.genesis)
            index.open[state.execution_id] = Entry(state=state)
        index.tombstones.update(snapshot.tombstones)
        index.trees.update(snapshot.trees)
        return index
