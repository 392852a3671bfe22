"""``transfer``: rows from one place to a table of another, all or nothing (TL §3.8).

Between two PostgreSQL servers the bytes of COPY flow through untouched; everything else
goes in chunks. Whatever the way, memory is bounded, the target writes in one
transaction, and a failure leaves it as it was.
"""

from tools.kinds.transfer.kind import Transfer

__all__ = ["Transfer"]
