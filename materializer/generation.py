"""Which life of the log stream this is (RT-NATS-36).

Sequences start again when a stream is wiped, restored from a backup or has lost its
tail; event ids must not. A life is recorded in the tables, where one caller wins, and
then written to the stream's metadata, where every reader finds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from state_builder.errors import UnavailableError
from state_builder.ports import EventLog, LogInfo
from state_builder.stores import StreamLife, StreamLives

log = structlog.get_logger(__name__)

_ROUNDS_MAX = 10


class LifeDecision(NamedTuple):
    """The life the stream is in.

    Attributes:
        after: sequence after which messages are news to the tables; counts only when
            the life is a new one.
        reason: empty while everything fits; else what does not, for people.
    """

    life: StreamLife
    after: int
    reason: str


def decide_life(known: StreamLife | None, found: LogInfo) -> LifeDecision:
    """Judge what the log's leader says by what the tables remember.

    Unknown streams are taken at their word. One with another creation time holds
    nothing the tables have; one that ends before what they have seen keeps its
    messages, and only what comes after them is news.
    """
    now = StreamLife(found.created_at, found.generation, found.last_sequence)
    if known is None:
        return LifeDecision(now, 0, "")
    following = max(known.generation, found.generation) + 1
    if known.created_at != found.created_at:
        reason = f"made at {found.created_at}, known is one of {known.created_at}"
        return LifeDecision(now._replace(generation=following), 0, reason)
    if known.last_sequence > found.last_sequence:
        reason = f"ends at {found.last_sequence}, seen was {known.last_sequence}"
        life = now._replace(generation=following)
        return LifeDecision(life, found.last_sequence, reason)
    generation = max(known.generation, found.generation)
    return LifeDecision(now._replace(generation=generation), 0, "")


async def settle_life(
    stream: str,
    event_log: EventLog,
    lives: StreamLives,
    set_generation: Callable[[int], Awaitable[None]],
) -> LifeDecision:
    """Make tables and stream agree on the generation; for boot and reconnect.

    Raises:
        UnavailableError: log or tables are away, or others keep changing what is
            known. The generation in the stream's metadata is then to be trusted.
    """
    for _ in range(_ROUNDS_MAX):
        # The tables first: what they have seen was in the stream by then.
        known = await lives.stream_life(stream)
        found = await event_log.info()
        decision = decide_life(known, found)
        begins = known is None or decision.life.generation != known.generation
        if begins and not await lives.begin_life(
            stream, known=known, now=decision.life, after=decision.after
        ):
            continue
        if decision.reason:
            log.error(
                "log.life_begun",
                stream=stream,
                generation=decision.life.generation,
                reason=decision.reason,
            )
        if decision.life.generation != found.generation:
            await set_generation(decision.life.generation)
        return decision
    raise UnavailableError(f"the life of stream {stream} changes all the time")
