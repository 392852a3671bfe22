"""The way out to PostgreSQL: addresses, pools, statements, COPY, errors by SQLSTATE.

The only importer of asyncpg among the tools. A connection is used by one command at a
time and is as good as new for the next one; what a driver raises leaves this room as a
:class:`tools.errors.ToolCallError`.
"""

from tools.doors.pg.address import address_of
from tools.doors.pg.failures import failure_of
from tools.doors.pg.pools import ADDRESS_CONNECTIONS_MAX, Pools
from tools.doors.pg.session import Done, Session, Shape, stands_alone
from tools.doors.pg.types import literal, quoted

__all__ = [
    "ADDRESS_CONNECTIONS_MAX",
    "Done",
    "Pools",
    "Session",
    "Shape",
    "address_of",
    "failure_of",
    "literal",
    "quoted",
    "stands_alone",
]
