"""Settings: the only room that reads the environment.

``variables`` says what a variable is and reads one, ``rooms`` declares them all beside
the fields they fill, ``loading`` reads the lot and checks how they relate. Every fault
is reported at once; nothing is read at import, and nobody but the composition root
calls :func:`load`. Secrets are :class:`Secret` and print as stars.
"""

from noetl_worker.settings.loading import ROLES, Settings, environment, load
from noetl_worker.settings.roles import (
    Materializer,
    Owner,
    Server,
    Wallet,
    Worker,
)
from noetl_worker.settings.rooms import Bus, Limits, Logs, Postgres, Process
from noetl_worker.settings.tools import Tools
from noetl_worker.settings.variables import Secret, Variable

__all__ = [
    "ROLES",
    "Bus",
    "Limits",
    "Logs",
    "Materializer",
    "Owner",
    "Postgres",
    "Process",
    "Secret",
    "Server",
    "Settings",
    "Tools",
    "Variable",
    "Wallet",
    "Worker",
    "environment",
    "load",
]
