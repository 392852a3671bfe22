"""What storing rows can fail with, beside a database that is away."""

from __future__ import annotations

from state_builder.errors import ConflictError, InvalidError


class RowError(InvalidError):
    """A row of a batch that the tables refuse; the message is the database's."""

    code = "row"


class StalePositionError(ConflictError):
    """The position moved under a writer: somebody else writes this shard group."""

    code = "stale_position"


class LifeError(ConflictError):
    """The log is not the one the position belongs to: its life must be settled first.

    Raised when the stream was wiped or lost its tail and no process has yet taken the
    next generation (RT-NATS-36).
    """

    code = "stream_life"
