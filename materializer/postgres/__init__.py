"""The tables on PostgreSQL: the only room that speaks to asyncpg and reads our SQL.

:class:`Database` owns the connections; what the rooms are given are views on it:
:class:`PostgresRows` for the materializer alone, :class:`PostgresReader`,
:class:`PostgresTables` and :class:`PostgresSecrets` for the server,
:class:`PostgresLives` for whoever makes the stream. Driver errors leave as ours, once,
chained. Opening needs no live database: whoever asks while it is away hears
UnavailableError.

May import: core ports, rows and stores, and ``materializer.errors``.
"""

from materializer.postgres.database import Database, DatabaseSettings
from materializer.postgres.lives import PostgresLives
from materializer.postgres.reader import PostgresReader
from materializer.postgres.secrets import PostgresSecrets
from materializer.postgres.tables import PostgresTables
from materializer.postgres.writer import PostgresRows

__all__ = [
    "Database",
    "DatabaseSettings",
    "PostgresLives",
    "PostgresReader",
    "PostgresRows",
    "PostgresSecrets",
    "PostgresTables",
]
