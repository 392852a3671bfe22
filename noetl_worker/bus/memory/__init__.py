"""The ports in memory: one shared broker, one bus per pretended process.

Time is the injected clock's alone and nothing is random, so a whole fleet runs in one
process and the same run gives the same log. Kept to the promises of the real bus by the
same contract suite.
"""

from noetl_worker.bus.memory.broker import MemoryBroker
from noetl_worker.bus.memory.bus import MemoryBus

__all__ = ["MemoryBroker", "MemoryBus"]
