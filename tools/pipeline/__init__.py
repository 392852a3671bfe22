"""Runs one command: a single tool or a task sequence with its policy rules.

Purpose: everything between the bytes of a command and the outcome that is reported:
names, rendering, time, retries, jumps, variables, scrubbing. Implements the port
``ToolRunner``. May import ``registry``, the template room, retry and redact.

Invariants: a text is rendered once, when its tool runs; what a tool, a remote side or
a template did wrong is an outcome, never an exception; nothing outlives its command.
It never talks to the outside itself and never decides what the execution does next.
"""

from __future__ import annotations

from tools.pipeline.runner import Runner

__all__ = ["Runner"]
