"""What a text reads, without evaluating it: names, and whether it looks at errors."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from jinja2 import nodes

from state_builder.errors import NoetlError
from state_builder.template.texts import expression_of, tree_of

_ERROR_ROOTS: Final = frozenset({"event", "error", "exit_code"})
_ERROR_WORDS: Final = frozenset({"error", "status", "status_code", "http", "exit_code"})
_RESULT_ROOTS: Final = frozenset({"output", "outcome", "result", "response"})


class Names(NamedTuple):
    """What a text reads.

    Attributes:
        roots: bare names.
        paths: static chains from a root, as far as they are static.
    """

    roots: frozenset[str]
    paths: frozenset[tuple[str, ...]]


_NOTHING: Final = Names(frozenset(), frozenset())


def is_template(text: str) -> bool:
    """Is there anything to render (PB-072)?"""
    return "{{" in text or "{%" in text


@lru_cache(4096)
def names_of(text: str) -> Names | None:
    """The names a text reads (PB-346); None when that cannot be told."""
    if not is_template(text):
        return _NOTHING
    try:
        tree = tree_of(text)
    except NoetlError:
        return None
    paths = frozenset(_paths(tree))
    return Names(frozenset(path[0] for path in paths), paths)


def _paths(node: nodes.Node) -> list[tuple[str, ...]]:
    """Every chain that starts at a name that is read."""
    chain = _chain(node)
    if chain is not None:
        return [chain]
    found: list[tuple[str, ...]] = []
    for child in node.iter_child_nodes():
        found += _paths(child)
    return found


def _chain(node: nodes.Node) -> tuple[str, ...] | None:
    if isinstance(node, nodes.Name):
        return (node.name,) if node.ctx == "load" else None
    if isinstance(node, nodes.Getattr):
        inner = _chain(node.node)
        return None if inner is None else (*inner, node.attr)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        inner = _chain(node.node)
        return None if inner is None else (*inner, str(node.arg.value))
    return None


def error_aware(text: str | bool, step: str) -> bool:
    """May an arc with this condition fire after a failure of the step (PB-562)?"""
    if isinstance(text, bool):
        return False
    try:
        tree = tree_of(text) if is_template(text) else expression_of(text)
    except NoetlError:
        return False
    return any(_looks_at_errors(path, step) for path in _paths(tree))


def _looks_at_errors(path: tuple[str, ...], step: str) -> bool:
    root, *members = path
    if root in _ERROR_ROOTS:
        return True
    if root == "steps" and members[:1] == [step]:
        members = members[1:]
    elif root not in _RESULT_ROOTS and root != step:
        return False
    while members[:1] == ["data"]:
        members = members[1:]
    return bool(members) and members[0] in _ERROR_WORDS


def check(text: str) -> str | None:
    """What is wrong with the syntax of a text, or None (PB-424)."""
    try:
        if is_template(text):
            tree_of(text)
    except NoetlError as error:
        return str(error)
    return None
