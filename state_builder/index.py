"""The index of one shard: every open execution, folded, and how far the log was read.

Live and replayed state are the same function of the log (RT-IDX-3): whatever is
appended changes nothing here until it is read back. No cursor is stored anywhere; the
position is a property of the index, and a snapshot is the index written down.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict

from msgspec import DecodeError, Raw, Struct, ValidationError, field
from msgspec.json import Decoder, Encoder

from state_builder.errors import RecordError
from state_builder.ids import digest_of, event_id, event_position
from state_builder.ports import LogMessage
from state_builder.records import GENESIS, RESERVED_TYPES, Record, decode_append
from state_builder.state import (
    STATE_VERSION,
    OpenCommand,
    State,
    fold,
    own_payloads,
)

ENDED_KEPT_MAX = 512
"""Ended executions kept whole, for status questions right after the end."""

TOMBSTONES_MAX = 8192
"""Ended executions remembered by id alone (RT-IDX-9)."""

_FROM_OUTSIDE = frozenset(
    {GENESIS, "playbook.cancel_requested", "playbook.finalize_requested"}
)
DECISION_TYPES = RESERVED_TYPES - _FROM_OUTSIDE
"""A record that begins with one of these is a decision, any other is a fact."""


MEMORY_PER_BYTE = 4
"""Bytes of memory that a state takes for each byte of its encoding, about."""


class Entry:
    """One execution in memory; packed while it has long been idle (RT-IDX-10).

    Attributes:
        packed: its state, compressed, until somebody asks for it.
        size: bytes of memory it takes, as of the last snapshot.
        unread: messages of its last pass that were not read back yet; while there are
            any, it is not decided again (design §4).
        due: something was read that no decision has seen. A pass leaves nothing to
            decide but what is said to follow it, so its own read-back is no news.
        retired: it left the index; whoever still holds it lets go.
        armed: the due time its owner is to wake up for; 0 = none.
    """

    __slots__ = ("_state", "armed", "due", "packed", "retired", "size", "unread")

    def __init__(self, state: State) -> None:
        self._state: State | None = state
        self.packed = b""
        self.size = 0
        self.unread = 0
        self.due = True
        self.retired = False
        self.armed = 0.0

    @property
    def state(self) -> State:
        """The state; whoever asks for it unpacks it."""
        if self._state is None:
            self._state = _state_decoder.decode(zlib.decompress(self.packed))
            if self._state.genesis is not None:
                own_payloads(self._state.genesis)
            self.packed = b""
        return self._state

    def encoded(self) -> bytes:
        """The state as JSON, packed or not."""
        if self.packed:
            return zlib.decompress(self.packed)
        return _state_encoder.encode(self._state)

    def pack(self) -> None:
        """Give memory back; nothing but time is lost by it."""
        self.packed = zlib.compress(self.encoded(), 1)
        self.size = len(self.packed)
        self._state = None

    @property
    def idle(self) -> bool:
        """Does nobody need to look at it until its next event or timer?

        Its commands are taken for good, and no loop waits for room to go on.
        """
        if self.packed or self.due or self.unread:
            return False
        state = self.state
        active = (state.steps[name].active for name in state.live)
        looping = any(run is not None and run.loop is not None for run in active)
        return not looping and all(map(_is_taken, state.commands.values()))


def _is_taken(command: OpenCommand) -> bool:
    """Does its message in the log matter to nobody any more?"""
    return bool(command.child) or (command.parked and not command.worker)


class Tree(Struct, kw_only=True, omit_defaults=True):
    """Executions that playbooks called under one first execution.

    Attributes:
        started: all there ever were.
        open: those that have not ended.
    """

    started: int = 0
    open: int = 0


class Snapshot(Struct, kw_only=True):
    """A shard's open executions up to a sequence; each a :class:`State`, encoded."""

    version: int
    shard: int
    covered: int
    generation: int
    executions: list[Raw]
    tombstones: dict[str, str] = field(default_factory=dict)
    trees: dict[str, Tree] = field(default_factory=dict)


_state_encoder = Encoder()
_state_decoder = Decoder(State)
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
        entry = Entry(State(execution_id=record.execution_id))
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
            if entry.packed:
                continue
            for command in entry.state.commands.values():
                generation, sequence, _ = event_position(command.event)
                if not _is_taken(command) and generation == self.generation:
                    first = min(first, sequence)
        return first

    def snapshot(self, covered: int) -> bytes:
        """The index as bytes: a checksum line, then the states.

        ``covered`` is :attr:`position`, or the log's end when nothing is pending.
        """
        assert covered >= self.position
        executions: list[Raw] = []
        for entry in self.open.values():
            encoded = entry.encoded()
            if not entry.packed:
                entry.size = len(encoded) * MEMORY_PER_BYTE
            executions.append(Raw(encoded))
        body = _snapshot_encoder.encode(
            Snapshot(
                version=STATE_VERSION,
                shard=self.shard,
                covered=covered,
                generation=self.generation,
                executions=executions,
                tombstones=dict(self.tombstones),
                trees=self.trees,
            )
        )
        return digest_of(body).encode() + b"\n" + body

    @property
    def memory(self) -> int:
        """Bytes the open executions take, as of the last snapshot."""
        return sum(entry.size for entry in self.open.values())

    def pack(self, excess: int) -> list[str]:
        """Pack idle executions, longest idle first, until so many bytes are free."""
        packed: list[str] = []
        idle = [entry for entry in self.open.values() if entry.idle]
        for entry in sorted(idle, key=lambda entry: entry.state.head.event_id):
            if excess <= 0:
                break
            packed.append(entry.state.execution_id)
            excess -= entry.size
            entry.pack()
            excess += entry.size
        return packed

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
            states = [_state_decoder.decode(one) for one in snapshot.executions]
        except (DecodeError, ValidationError) as error:
            raise RecordError(f"snapshot: {error}") from error
        found = (snapshot.version, snapshot.shard, snapshot.generation)
        wanted = (STATE_VERSION, shard, generation)
        if found != wanted:
            raise RecordError(
                f"snapshot of (version, shard, generation) {found}, wanted {wanted}"
            )
        index = cls(shard, generation, snapshot.covered)
        for state in states:
            if state.genesis is not None:
                own_payloads(state.genesis)
            index.open[state.execution_id] = Entry(state)
        index.tombstones.update(snapshot.tombstones)
        index.trees.update(snapshot.trees)
        return index
