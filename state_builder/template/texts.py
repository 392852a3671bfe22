"""Compiled texts: what a text is, worked out once and kept by its source.

A lone expression gives a native value, a mixed text a string (PB-410, PB-411); a plain
dotted path needs no compiled code at all. What a text raises leaves here as
TemplateError or LimitExceededError, or as the error of an injected function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol, TypeVar, cast

from jinja2 import TemplateError as JinjaError
from jinja2 import TemplateSyntaxError, nodes

from state_builder.errors import TemplateError
from state_builder.records import JSON
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
from state_builder.template.values import Undefined, concatenated, settle

SHORT_TEXT_MAX: Final = 4096
"""Characters of a text that is kept among many."""

SHORT_TEXTS_KEPT: Final = 4096
LONG_TEXTS_KEPT: Final = 64
"""How many compiled texts are kept; one takes about ten times its source."""

_VALUE: Final = "_value_of_the_text"

_T = TypeVar("_T")


class Text(Protocol):
    """A compiled text."""

    structure: Text | None
    """What stands before a last ``tojson``; None of any other text (PB-413)."""

    lone: bool
    """The text is one expression and nothing else."""

    def raw(self, scope: Scope) -> object:
        """The value with its views, for truth."""

    def value(self, scope: Scope) -> JSON:
        """The value."""


class _Path:
    """A name and members of it, all literal: ``{{ ctx.n }}``."""

    lone = True
    structure: Text | None = None

    def __init__(self, root: str, parts: list[str | int]) -> None:
        self._root = root
        self._parts = parts

    def raw(self, scope: Scope) -> object:
        value = scope.lookup(self._root)
        if value is ABSENT:
            return Undefined(name=self._root)
        value = seen(cast("JSON", value))
        for part in self._parts:
            if type(part) is str:
                value = ENVIRONMENT.getattr(value, part)
            else:
                value = ENVIRONMENT.getitem(value, part)
        return value

    def value(self, scope: Scope) -> JSON:
        return plain(self.raw(scope))


class _Expression:
    """Any other lone expression."""

    lone = True

    def __init__(self, expression: nodes.Expr, structure: Text | None = None) -> None:
        self.structure = structure
        target = nodes.Name(_VALUE, "store")
        body: list[nodes.Node] = [nodes.Assign(target, expression)]
        line = expression.lineno or 1
        tree = nodes.Template(body)
        tree.set_lineno(line)
        self._root, self._builds = compile_tree(tree)

    def _run(self, scope: Scope) -> tuple[Evaluation, object]:
        run = Evaluation(scope, self._builds)
        tuple(self._root(run))
        return run, run.vars[_VALUE]

    def raw(self, scope: Scope) -> object:
        return self._run(scope)[1]

    def value(self, scope: Scope) -> JSON:
        run, value = self._run(scope)
        return settle(run, value) if self._builds else plain(value)


class _Mixed:
    """Text around expressions, or statements."""

    lone = False
    structure: Text | None = None

    def __init__(self, tree: nodes.Template) -> None:
        self._root, self._builds = compile_tree(tree)

    def value(self, scope: Scope) -> JSON:
        return concatenated(self._root(Evaluation(scope, self._builds)))

    raw = value


def text_of_source(source: str) -> Text:
    """The compiled text; raises TemplateError where it cannot be parsed."""
    return _short(source) if len(source) <= SHORT_TEXT_MAX else _long(source)


def condition_of_source(source: str) -> Text:
    """The same for a condition, which may stand without braces (PB-440)."""
    return text_of_source(source) if is_template(source) else _bare(source)


def is_template(source: str) -> bool:
    """Does the text hold anything to evaluate (PB-072)?"""
    return "{{" in source or "{%" in source


def _compiled(source: str) -> Text:
    return guarded(source, lambda: _text(parse(source), source))


def _compiled_bare(source: str) -> Text:
    return guarded(source, lambda: _lone(parse_expression(source), None))


_short = lru_cache(SHORT_TEXTS_KEPT)(_compiled)
_long = lru_cache(LONG_TEXTS_KEPT)(_compiled)
_bare = lru_cache(SHORT_TEXTS_KEPT)(_compiled_bare)


def _text(tree: nodes.Template, source: str) -> Text:
    expression = lone_expression(tree)
    if expression is None:
        return _Mixed(tree)
    structure: Text | None = None
    if isinstance(expression, nodes.Filter) and expression.name == "tojson":
        # Compiling rewrites a tree, so the part before the filter needs its own.
        again = cast("nodes.Filter", lone_expression(parse(source)))
        structure = _lone(cast("nodes.Expr", again.node), None)
    return _lone(expression, structure)


def _lone(expression: nodes.Expr, structure: Text | None) -> Text:
    parts: list[str | int] = []
    chain = static_chain(expression, parts)
    if chain is not None and chain.name != "self":
        return _Path(chain.name, parts)
    return _Expression(expression, structure)


def lone_expression(tree: nodes.Template) -> nodes.Expr | None:
    """The expression of a text that is nothing but one ``{{ … }}`` (PB-410)."""
    if len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output):
        return None
    found: nodes.Expr | None = None
    for node in tree.body[0].nodes:
        if isinstance(node, nodes.TemplateData):
            if not node.data.isspace():
                return None
        elif found is not None:
            return None
        else:
            found = node
    return found


def static_chain(expression: nodes.Node, parts: list[str | int]) -> nodes.Name | None:
    """The name a chain of literal members starts from; ``parts`` gets the members."""
    found: list[str | int] = []
    while isinstance(expression, nodes.Getattr | nodes.Getitem):
        if isinstance(expression, nodes.Getattr):
            found.append(expression.attr)
        else:
            argument = expression.arg
            if not isinstance(argument, nodes.Const) or (
                type(argument.value) not in (str, int)
            ):
                return None
            found.append(argument.value)
        expression = expression.node
    if not isinstance(expression, nodes.Name):
        return None
    parts += reversed(found)
    return expression


_FOREIGN: Final = (
    JinjaError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What an evaluation may raise besides this product's own errors."""


def guarded(source: str, work: Callable[[], _T]) -> _T:
    """Do the work; whatever the text is to blame for becomes one kind of error."""
    try:
        return work()
    except TemplateError as error:
        raise blamed(source, str(error)) from error
    except TemplateSyntaxError as error:
        where = f" (line {error.lineno})" if "\n" in source else ""
        raise blamed(source, f"{error.message}{where}") from error
    except (RecursionError, MemoryError, SyntaxError) as error:
        # Python's own compiler gives up on deep nesting with either of the latter.
        raise nested_too_deep() from error
    except _FOREIGN as error:
        raise blamed(source, f"{type(error).__name__}: {error}") from error


_EXCERPT: Final = 120
"""Characters of a text that an error shows."""


def blamed(source: str, detail: str) -> TemplateError:
    """The error of a text, with the beginning of the text in it."""
    excerpt = source if len(source) <= _EXCERPT else f"{source[:_EXCERPT]}…"
    return TemplateError(
        f"cannot evaluate '{excerpt}': {detail}", text=source, detail=detail
    )
