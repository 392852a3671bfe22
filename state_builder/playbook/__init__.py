"""Playbook model and parser.

May import: records, errors and what is under them. Invariants: a :class:`Playbook` in
memory has no error findings; parsing is pure and gives all findings at once, in
document order. It never renders a template.
"""
