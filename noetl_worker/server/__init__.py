"""Server edge: HTTP in, requests and facts into the log, reads and live streams out.

``routes`` say paths and codes, the rooms beside them what a request means. Appends
requests and facts, reads rows, asks owners, streams from the log; it never evaluates a
playbook, never writes an event table, and keeps nothing another replica would miss:
caches only. May import: listener and below, core ports, records, parser, templates,
redaction, and the materializer's projection of single events.
"""

from noetl_worker.server.app import create_app, create_edge, daemons
from noetl_worker.server.edge import Edge
from noetl_worker.server.feed import create_feed
from noetl_worker.server.plugins import PLUGIN_BUCKET
from noetl_worker.server.ports import EdgeSettings, ServerPorts

__all__ = [
    "PLUGIN_BUCKET",
    "Edge",
    "EdgeSettings",
    "ServerPorts",
    "create_app",
    "create_edge",
    "create_feed",
    "daemons",
]
