"""Where containers run: one small interface, a driver for each kind of machine.

``start`` adopts what already runs under the name, so a command that is delivered again
goes on with the container of its first delivery (TL-CTR-01, TL-CTR-08).
"""

from __future__ import annotations

from tools.doors.containers.choice import driver_of
from tools.doors.containers.interface import Driver, Env, Spec, State

__all__ = ["Driver", "Env", "Spec", "State", "driver_of"]
