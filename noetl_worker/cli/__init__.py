"""The ``noetl`` command: roles, the dev stack, and a client for people and scripts.

May import everything of ``noetl_worker``; nothing imports it. Only this room prints.
Every command has one exit code per kind of end (``exits``), prints one clear error on
standard error, and with ``--json`` nothing but one JSON value on standard output.
Commands are imported when they are called, so ``noetl --help`` stays quick.
"""

from __future__ import annotations

from noetl_worker.cli.main import main

__all__ = ["main"]
