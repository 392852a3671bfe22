"""``wasm``: plug-ins in a sandbox without any door of its own (TL §8)."""

from __future__ import annotations

from tools.kinds.wasm.kind import Wasm

__all__ = ["Wasm"]
