"""The ports on NATS JetStream; the only room of this package that imports ``nats``.

``client`` and ``connection`` are the way in and out, ``wire`` the bytes, ``jetstream``
and ``direct`` the requests; ``log`` (``appender``, ``follower``), ``commands``
(``puller``, ``delivery``), ``signals``, ``members``, ``blobs`` are the ports; ``bus``
puts them behind one connection. The broker's state is never trusted to be complete:
appends repeat, readers check numbering, commands may come twice.
"""

from noetl_worker.bus.nats.bus import NatsBus

__all__ = ["NatsBus"]
