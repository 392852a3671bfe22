"""The drive: what does this state still lack (PB §14)?

:func:`decide` is pure and level-triggered. Re-run after any crash, on any replica, at
any point, it yields the missing remainder and nothing else; decided again on a state
that lacks nothing, it returns None. Someone who reads only this room knows the
language: ``decide`` is the order of things, ``completion`` what follows a step,
``entry`` what precedes it, ``ending`` how it all ends, ``calls`` playbooks that call
playbooks, ``commands`` what workers get, ``bulk`` values outside the log.

May import: everything of the core but the index.
"""

from state_builder.drive.bulk import Bulk, FetchNeed, KeepNeed, view
from state_builder.drive.calls import Child, ChildNeed
from state_builder.drive.decide import decide
from state_builder.drive.decision import Decision, DriveLimits, Turn
from state_builder.drive.ending import give_up

__all__ = [
    "Bulk",
    "Child",
    "ChildNeed",
    "Decision",
    "DriveLimits",
    "FetchNeed",
    "KeepNeed",
    "Turn",
    "decide",
    "give_up",
    "view",
]
