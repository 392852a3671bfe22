"""Playbook model and parser.

May import: records, errors and what is under them. Invariants: a :class:`Playbook` in
memory has no error findings; parsing is pure and gives all findings at once, in
document order. It never renders a template.
"""

from __future__ import annotations

from state_builder.playbook.findings import FieldsOf
from state_builder.playbook.flow import FlowArc, FlowNode, mermaid, tree
from state_builder.playbook.model import Finding, Playbook
from state_builder.playbook.parser import ParseResult, PlaybookError, load, parse
from state_builder.playbook.schema import document_schema

__all__ = [
    "FieldsOf",
    "Finding",
    "FlowArc",
    "FlowNode",
    "ParseResult",
    "Playbook",
    "PlaybookError",
    "document_schema",
    "load",
    "mermaid",
    "parse",
    "tree",
]
