"""``http``: one request, its body parsed, failures by status (TL §3.3)."""

from __future__ import annotations

from tools.kinds.http.kind import Http

__all__ = ["Http"]
