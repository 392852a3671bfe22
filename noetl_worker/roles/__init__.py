"""Composition root: one function per role builds adapters and runs its daemons.

Each role is handed only what it may touch: a system worker has no database, a tool
worker neither database nor index (RT-ARC-2). Adapters open here and close in reverse.
"""

from noetl_worker.roles.run import ROLES, run_role

__all__ = ["ROLES", "run_role"]
