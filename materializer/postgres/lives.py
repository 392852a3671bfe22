"""StreamLives: which life of the log stream the rows belong to (RT-NATS-36)."""

from __future__ import annotations

from materializer.postgres.database import Database
from state_builder.stores import StreamLife


class PostgresLives:
    """One row per stream; positions move with it, in one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stream_life(self, stream: str) -> StreamLife | None:
        """What is known of the stream."""
        async with self._database.session() as connection:
            query = self._database.sql["life_read"]
            row = await connection.fetchrow(query, stream)
        return StreamLife(*row) if row is not None else None

    async def begin_life(
        self, stream: str, *, known: StreamLife | None, now: StreamLife, after: int
    ) -> bool:
        """Record a life; False when another caller changed what is known."""
        sql = self._database.sql
        async with self._database.session() as connection, connection.transaction():
            if known is None:
                return bool(await connection.fetchval(sql["life_first"], stream, *now))
            changed = await connection.fetchval(
                sql["life_next"], stream, known.created_at, known.generation, *now
            )
            if changed and now.generation > known.generation:
                await connection.execute(sql["life_positions"], now.generation, after)
            return bool(changed)
