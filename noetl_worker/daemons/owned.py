"""What a process keeps of a shard while it owns it."""

from __future__ import annotations

from dataclasses import dataclass, field

from state_builder.drive import Bulk
from state_builder.errors import RecordError
from state_builder.ids import Shard
from state_builder.index import ShardIndex
from state_builder.records import JSON, decode_lease


@dataclass(kw_only=True)
class OwnedShard:
    """One shard while this process owns it.

    Attributes:
        epoch: sequence of our lease record; fences every append.
        ready: our own lease record was read: nothing older is missing.
        lost: another lease was seen or an append was refused.
        renewing: a newer lease of our own is on its way; nothing is decided until then.
        in_flight: appends not yet acknowledged.
        covered: everything of this shard up to this sequence was read; grows with what
            is read of the other shards too.
        written: what the last snapshot covers.
    """

    shard: Shard
    holder: str
    epoch: int
    index: ShardIndex
    ready: bool = False
    lost: bool = False
    renewing: bool = False
    in_flight: int = 0
    since_snapshot: int = 0
    covered: int = 0
    written: int = 0
    memos: dict[str, dict[str, JSON]] = field(default_factory=dict)
    bulks: dict[str, Bulk] = field(default_factory=dict)

    def is_ours(self, lease: bytes) -> bool:
        """Is a lease our own? One nobody can read is another's."""
        try:
            return decode_lease(lease).holder == self.holder
        except RecordError:
            return False
