"""The development stack: a private fleet on this machine, with real servers.

Purpose: one command brings up a real NATS, a real PostgreSQL (both from wheels) and
every role as a process of its own; people, acceptance tests and the benchmark use the
same code. May import: ``roles`` and everything below it; never ``cli``.

Invariants: everything lives under one data folder that one stack holds at a time;
nothing listens beyond the loopback address; whatever was started is stopped, also when
this process is killed. It never prints: what people should know goes to ``report``.
"""

from __future__ import annotations

from noetl_worker.dev.child import StackError
from noetl_worker.dev.stack import Role, Stack, StackOptions

__all__ = ["Role", "Stack", "StackError", "StackOptions"]
