"""What a text reads, told from its tree alone (PB-346, PB-562).

Both answers may be wider than the truth, never narrower: a name that is local in one
place of a text still counts where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from jinja2 import nodes

from state_builder.errors import LimitExceededError, TemplateError
from state_builder.template.calls import FUNCTIONS, METHODS
from state_builder.template.dialect import parse, parse_expression
from state_builder.template.texts import (
    SHORT_TEXTS_KEPT,
    guarded,
    is_template,
    static_chain,
)

_MEMBER_ROOTS: Final = frozenset({"ctx", "steps"})
"""Roots whose members are names themselves: read whole, they mean everything."""

_FAILURE_ROOTS: Final = frozenset({"event", "error", "exit_code"})
_FAILURE_MEMBERS: Final = frozenset(
    {"error", "status", "status_code", "http", "exit_code"}
)
_OUTCOMES: Final = frozenset({"output", "outcome", "result", "response"})

Chain = tuple[str | int, ...]


class Names(NamedTuple):
    """What a text reads from its scope.

    Attributes:
        roots: bare names.
        paths: each name with the literal members that follow it.
    """

    roots: frozenset[str]
    paths: frozenset[tuple[str, ...]]


def names_of(text: str) -> Names | None:
    """What a text reads, or None when that cannot be told: an unparsable text, a bare
    ``ctx``, a computed member of ``steps``."""
    if not is_template(text):
        return Names(frozenset(), frozenset())
    return _names_of(text)


@lru_cache(SHORT_TEXTS_KEPT)
def _names_of(text: str) -> Names | None:
    chains = _chains_of(text)
    if chains is None:
        return None
    paths: set[tuple[str, ...]] = set()
    for chain in chains:
        path = _path(chain)
        if len(path) == 1 and path[0] in _MEMBER_ROOTS:
            return None
        paths.add(path)
    return Names(frozenset(path[0] for path in paths), frozenset(paths))


def _path(chain: Chain) -> tuple[str, ...]:
    """The members up to the first index."""
    found: list[str] = []
    for part in chain:
        if not isinstance(part, str):
            break
        found.append(part)
    return tuple(found)


def error_aware(text: str | bool, step: str) -> bool:
    """Does an arc's condition look at how the step ended (PB-562)?

    A text that cannot be parsed does not.
    """
    if isinstance(text, bool):
        return False
    return any(_looks_at_failure(chain, step) for chain in _chains_of(text) or ())


def _looks_at_failure(chain: Chain, step: str) -> bool:
    if chain[0] in _FAILURE_ROOTS:
        return True
    if chain[0] == "steps":
        chain = chain[1:]
        if not chain or chain[0] != step:
            return False
    elif chain[0] not in _OUTCOMES and chain[0] != step:
        return False
    members = chain[1:]
    while members and members[0] == "data":
        members = members[1:]
    return bool(members) and members[0] in _FAILURE_MEMBERS


def _chains_of(text: str) -> list[Chain] | None:
    """Every name with its literal members, locals of the text left out."""

    def read() -> list[Chain]:
        tree = parse(text) if is_template(text) else parse_expression(text)
        return list(_read(tree, set()))

    try:
        return guarded(text, read)
    except (TemplateError, LimitExceededError):
        return None


def _read(node: nodes.Node, local: set[str]) -> Iterator[Chain]:
    """Chains below a node; ``local`` grows with what the node assigns."""
    rule = _RULES.get(type(node))
    if rule is not None:
        yield from rule(node, local)
        return
    if isinstance(node, nodes.Getattr | nodes.Getitem):
        parts: list[str | int] = []
        root = static_chain(node, parts)
        if root is not None:
            if root.name not in local:
                yield (root.name, *parts)
            return
    yield from _read_all(node.iter_child_nodes(), local)


def _read_all(found: Iterator[nodes.Node], local: set[str]) -> Iterator[Chain]:
    for node in found:
        yield from _read(node, local)


def _read_name(node: nodes.Name, local: set[str]) -> Iterator[Chain]:
    if node.ctx == "load" and node.name not in local:
        yield (node.name,)


def _read_call(node: nodes.Call, local: set[str]) -> Iterator[Chain]:
    called = node.node
    if isinstance(called, nodes.Getattr) and called.attr in METHODS:
        # ``ctx.get('x')`` reads all of ``ctx``, not a variable named ``get``.
        called = called.node
    if not (isinstance(called, nodes.Name) and called.name in FUNCTIONS):
        yield from _read(called, local)
    yield from _read_all(node.iter_child_nodes(exclude=("node",)), local)


def _read_for(node: nodes.For, local: set[str]) -> Iterator[Chain]:
    yield from _read(node.iter, local)
    inner = local | _stored(node.target) | {"loop"}
    if node.test is not None:
        yield from _read(node.test, inner - {"loop"})
    yield from _read_all(iter(node.body), inner)
    yield from _read_all(iter(node.else_), set(local))


def _read_if(node: nodes.If, local: set[str]) -> Iterator[Chain]:
    # A branch may not be taken: what it assigns is local in it, and unsure after it.
    yield from _read(node.test, local)
    for branch in (node.body, node.elif_, node.else_):
        yield from _read_all(iter(branch), set(local))


def _read_assign(node: nodes.Assign, local: set[str]) -> Iterator[Chain]:
    yield from _read(node.node, local)
    local |= _stored(node.target)


def _read_block(node: nodes.AssignBlock, local: set[str]) -> Iterator[Chain]:
    yield from _read_all(node.iter_child_nodes(exclude=("target",)), set(local))
    local |= _stored(node.target)


def _read_with(node: nodes.With, local: set[str]) -> Iterator[Chain]:
    yield from _read_all(iter(node.values), local)
    inner = local.union(*map(_stored, node.targets))
    yield from _read_all(iter(node.body), inner)


def _stored(target: nodes.Node) -> set[str]:
    names = {target.name} if isinstance(target, nodes.Name) else set()
    return names | {name.name for name in target.find_all(nodes.Name)}


_RULES: Final[dict[type[nodes.Node], Callable[..., Iterator[Chain]]]] = {
    nodes.Name: _read_name,
    nodes.Call: _read_call,
    nodes.For: _read_for,
    nodes.If: _read_if,
    nodes.Assign: _read_assign,
    nodes.AssignBlock: _read_block,
    nodes.With: _read_with,
}
