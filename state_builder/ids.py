"""Ids of every kind: how they are laid out, and the hash that spreads executions.

Nothing here reads a clock or draws a number: time, machine and sequence are arguments,
so the same inputs give the same id for every reader and after every restart.
"""

from __future__ import annotations

from typing import NewType
from urllib.parse import quote

from xxhash import xxh64_intdigest

ExecutionId = NewType("ExecutionId", str)
"""Decimal text of a snowflake; text because JSON, hashes and command ids need text."""

CommandId = NewType("CommandId", str)
"""``<execution_id>.<step>.<visit>[.<iteration>].<attempt>`` (RT-NATS-52)."""

EventId = NewType("EventId", int)
"""Position in the log: (generation × 2^43 + sequence) × 1024 + index (RT-NATS-7)."""

Shard = NewType("Shard", int)

EPOCH_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z, the zero of snowflake time (RT-EVT-10)."""

_INDEX_BITS = 10
_SEQUENCE_BITS = 43
EVENTS_PER_APPEND_MAX = 1 << _INDEX_BITS


def shard_of(execution_id: str, shard_count: int) -> Shard:
    """Which shard an execution lives on (RT-NATS-10)."""
    return Shard(_hash(execution_id) % shard_count)


def digest_of(text: str | bytes) -> str:
    """A short name for content: 16 hexadecimal digits of xxh64, no security meant."""
    return f"{_hash(text):016x}"


def event_id(generation: int, sequence: int, index: int) -> EventId:
    """The id of the event at ``index`` of the append stored at ``sequence``."""
    return EventId((((generation << _SEQUENCE_BITS) + sequence) << _INDEX_BITS) + index)


def event_position(event: int) -> tuple[int, int, int]:
    """Generation, sequence and index an event id is made of."""
    position = event >> _INDEX_BITS
    return (
        position >> _SEQUENCE_BITS,
        position & ((1 << _SEQUENCE_BITS) - 1),
        event & (EVENTS_PER_APPEND_MAX - 1),
    )


def snowflake(unix_ms: int, machine: int, sequence: int) -> int:
    """41 bits of milliseconds, 10 of machine, 12 of sequence (RT-EVT-10)."""
    return ((unix_ms - EPOCH_MS) << 22) | ((machine & 0x3FF) << 12) | (sequence & 0xFFF)


def snowflake_unix_ms(value: int) -> int:
    """When a snowflake was minted, in Unix milliseconds."""
    return (value >> 22) + EPOCH_MS


def child_execution_id(
    command: CommandId, unix_ms: int, shard: Shard, shard_count: int
) -> ExecutionId:
    """The id of the child a command starts: on its parent's shard, from state alone.

    Whoever decides the same command again mints the same child, and parent and child
    can be written in one message because they share a shard.
    """
    entropy = _hash(command)
    base = (unix_ms - EPOCH_MS) << 22
    attempt = 0
    while True:
        candidate = ExecutionId(str(base | ((entropy + attempt) & 0x3FFFFF)))
        if shard_of(candidate, shard_count) == shard:
            return candidate
        attempt += 1


def command_id(
    execution_id: str, step: str, visit: int, attempt: int, iteration: str = ""
) -> CommandId:
    """The id of a command, computed from state (RT-NATS-52).

    ``iteration`` is the loop index as text, or ``f<frame>r<row>`` / ``f<frame>`` of a
    cursor loop, or empty.
    """
    name = step if step.isidentifier() else quote(step, safe="").replace(".", "%2E")
    middle = f".{iteration}" if iteration else ""
    return CommandId(f"{execution_id}.{name}.{visit}{middle}.{attempt}")


def _hash(text: str | bytes) -> int:
    # Unpaired surrogates can come in with JSON; they must hash, not raise.
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return xxh64_intdigest(data, 0)
