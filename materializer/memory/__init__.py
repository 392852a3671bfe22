"""The tables in memory: the twin of :mod:`materializer.postgres`, for tests and for
the fleet in one process.

:class:`MemoryDatabase` holds everything; the other names are views on it, as with the
real one. It keeps the same promises, atomicity included, and refuses the same rows.
Set ``away`` to a reason and every view answers UnavailableError.

May import: core ports, rows and stores, and ``materializer.errors``.
"""

from materializer.memory.database import MemoryDatabase, MemoryLives, MemoryRows
from materializer.memory.reader import MemoryReader
from materializer.memory.secrets import MemorySecrets
from materializer.memory.tables import MemoryTables

__all__ = [
    "MemoryDatabase",
    "MemoryLives",
    "MemoryReader",
    "MemoryRows",
    "MemorySecrets",
    "MemoryTables",
]
