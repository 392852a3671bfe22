"""Compiled texts: what a text is, parsed once and kept by its source.

A lone expression gives a native value, a mixed text a string (PB-410, PB-411); a plain
dotted path needs no compiled code at all. What a text raises leaves here as
TemplateError or LimitExceededError and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, TypeAlias

from jinja2 import TemplateError as JinjaError
from jinja2 import TemplateSyntaxError, nodes
from jinja2.runtime import Context

from state_builder.errors import NoetlError, TemplateError
from state_builder.template.dialect import (
    ENVIRONMENT,
    Evaluation,
    compile_tree,
    parse,
    parse_expression,
)
from state_builder.template.limits import nested_too_deep
from state_builder.template.results import ABSENT, plain, seen
from state_builder.template.scope import Scope
from state_builder.template.values import Undefined, settle

SHORT_TEXT_MAX: Final = 4096
"""Characters of a text that is kept among many."""

SHORT_TEXTS_KEPT: Final = 4096
LONG_TEXTS_KEPT: Final = 64
"""How many compiled texts are kept; one takes about ten times its source."""

_VALUE: Final = "_value_of_the_text"
_MIXED_ROOTS: Final = frozenset({"iter", "loop", "ctx", "_results", "_prev", "results"})
"""Roots whose values may have results inside them."""

Path: TypeAlias = tuple[str, tuple[str | int, ...]]


class Compiled:
    """One text or bare expression, ready to be evaluated.

    Attributes:
        lone: it gives a native value (PB-410).
        to_json: its last filter is ``tojson`` (PB-413).
    """

    __slots__ = ("_builds", "_path", "_render", "lone", "to_json")

    def __init__(self, tree: nodes.Template, lone: nodes.Expr | None) -> None:
        self.lone = lone is not None
        self.to_json = isinstance(lone, nodes.Filter) and lone.name == "tojson"
        self._path = None if lone is None else _path_of(lone)
        if lone is not None:
            target = nodes.Name(_VALUE, "store").set_lineno(1)
            tree = nodes.Template([nodes.Assign(target, lone).set_lineno(1)])
            tree.set_lineno(1)
        self._render, self._builds = compile_tree(tree)

    def value(self, scope: Scope) -> object:
        """The value of a lone expression, views and undefined as they are."""
        if self._path is not None:
            return _follow(self._path, scope)
        context = Evaluation(scope, self._builds)
        _run(self._render, context)
        return context.vars[_VALUE]

    def native(self, scope: Scope) -> Any:
        """The value of a lone expression as plain JSON; undefined is null."""
        if self._path is not None and self._path[0] not in _MIXED_ROOTS:
            return plain(_follow(self._path, scope))
        meter = Evaluation(scope, self._builds)
        if self._path is not None:
            return settle(meter, _follow(self._path, scope))
        _run(self._render, meter)
        return settle(meter, meter.vars[_VALUE])

    def text(self, scope: Scope) -> str:
        """What a mixed text renders to."""
        return "".join(_run(self._render, Evaluation(scope, self._builds)))


def compiled(text: str) -> Compiled:
    """A text with ``{{`` or ``{%``. Raises TemplateError when it cannot be parsed."""
    return _short(text) if len(text) <= SHORT_TEXT_MAX else _long(text)


def compiled_expression(text: str) -> Compiled:
    """An expression without braces (PB-440)."""
    return _bare(text)


def tree_of(text: str) -> nodes.Template:
    """The tree of a text, for looking at. Raises TemplateError."""
    return _guarded(text, parse)


def expression_of(text: str) -> nodes.Expr:
    """The tree of a bare expression, for looking at. Raises TemplateError."""
    return _guarded(text, parse_expression)


@lru_cache(SHORT_TEXTS_KEPT)
def _short(text: str) -> Compiled:
    return _compile(text)


@lru_cache(LONG_TEXTS_KEPT)
def _long(text: str) -> Compiled:
    return _compile(text)


@lru_cache(SHORT_TEXTS_KEPT)
def _bare(text: str) -> Compiled:
    return _guarded(text, lambda source: Compiled(_EMPTY, parse_expression(source)))


_EMPTY: Final = nodes.Template([])


def _compile(text: str) -> Compiled:
    return _guarded(text, lambda source: _of_tree(parse(source)))


def _of_tree(tree: nodes.Template) -> Compiled:
    return Compiled(tree, _lone_of(tree))


def _lone_of(tree: nodes.Template) -> nodes.Expr | None:
    """The one expression of a text that has nothing else but white space."""
    found: list[nodes.Expr] = []
    for statement in tree.body:
        if not isinstance(statement, nodes.Output):
            return None
        for part in statement.nodes:
            if not isinstance(part, nodes.TemplateData):
                found.append(part)
            elif part.data.strip():
                return None
    return found[0] if len(found) == 1 else None


def _path_of(expression: nodes.Expr) -> Path | None:
    """Root and members of a plain dotted path."""
    members: list[str | int] = []
    node: nodes.Node = expression
    while True:
        if isinstance(node, nodes.Getattr):
            members.append(node.attr)
            node = node.node
        elif isinstance(node, nodes.Getitem) and _is_key(node.arg):
            assert isinstance(node.arg, nodes.Const)
            members.append(node.arg.value)
            node = node.node
        elif isinstance(node, nodes.Name):
            return node.name, tuple(reversed(members))
        else:
            return None


def _is_key(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and type(node.value) in (str, int)


def _follow(path: Path, scope: Scope) -> Any:
    root, members = path
    found: Any = scope.lookup(root)
    if found is ABSENT:
        return Undefined(name=root)
    found = seen(found)
    for name in members:
        if isinstance(name, str):
            found = ENVIRONMENT.getattr(found, name)
        else:
            found = ENVIRONMENT.getitem(found, name)
    return found


def _run(render: Callable[[Context], Any], context: Evaluation) -> list[str]:
    try:
        return list(render(context))
    except NoetlError:
        raise
    except RecursionError as error:
        raise nested_too_deep() from error
    except (JinjaError, ArithmeticError, TypeError, ValueError, LookupError) as error:
        raise TemplateError(_words(error)) from error


def _guarded(text: str, make: Callable[[str], Any]) -> Any:
    try:
        return make(text)
    except NoetlError:
        raise
    except TemplateSyntaxError as error:
        raise TemplateError(f"line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise nested_too_deep() from error
    except (JinjaError, SyntaxError, ValueError, TypeError, MemoryError) as error:
        raise TemplateError(_words(error)) from error


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


__all__ = [
    "Compiled",
    "compiled",
    "compiled_expression",
    "expression_of",
    "tree_of",
]
