"""``python``: user code in warm child processes (TL §3.1)."""

from __future__ import annotations

from tools.kinds.python.kind import Python

__all__ = ["Python"]
