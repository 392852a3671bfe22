"""Playbook model and parser.

May import: records, errors and what is under them. Invariants: a :class:`Playbook` in
memory has no error findings; parsing is pure and gives all findings at once, in
document order. It never renders a template.
"""

from __future__ import annotations

from state_builder.playbook.model import Finding, Playbook
from state_builder.playbook.parser import ParseResult, PlaybookError, load, parse

__all__ = [
    "Finding",
    "ParseResult",
    "Playbook",
    "PlaybookError",
    "load",
    "parse",
]
