"""The dialect: Jinja2's grammar with this language's meaning (PB-400..402).

A text is parsed by Jinja2; its tree is checked and rewritten so that every operator,
call, slice and ``for`` goes through the functions of this package; then Jinja2 compiles
it. Rewritten operations are filters whose names no author can write. Nothing is folded
at compile time: constants of a hostile text are as bounded as its data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, cast

from jinja2 import Template, TemplateSyntaxError, nodes, pass_context
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import Namespace, missing

from state_builder.errors import TemplateError
from state_builder.records import JSON
from state_builder.template import operators
from state_builder.template.calls import (
    FUNCTIONS,
    METHODS,
    TESTS,
    call_function,
    call_method,
)
from state_builder.template.filters import FILTERS, PASSING
from state_builder.template.limits import (
    INTEGER_BITS_MAX,
    TEXT_MAX,
    WORK_MAX,
    Meter,
    exceeded,
)
from state_builder.template.results import (
    ABSENT,
    StepResult,
    element,
    member,
    seen,
    type_name,
)
from state_builder.template.scope import Scope
from state_builder.template.values import Undefined, concatenated, text_form

TOKENS_MAX: Final = 50_000
"""Tokens of a text; compiling takes about 20 µs for each."""

_COUNTED_FROM: Final = 1 << 14
"""Characters from which tokens are counted; a shorter text cannot hold too many."""

_LOOP_WORDS: Final = frozenset(
    (
        *("index", "index0", "revindex", "revindex0", "first", "last"),
        *("length", "depth", "depth0", "previtem", "nextitem"),
    )
)

_COMPARISONS: Final[dict[str, Callable[[Meter, object, object], bool]]] = {
    "eq": operators.equal,
    "ne": operators.unequal,
    "lt": operators.less,
    "lteq": operators.at_most,
    "gt": operators.greater,
    "gteq": operators.at_least,
    "in": operators.contains,
    "notin": lambda meter, item, value: not operators.contains(meter, item, value),
}


class Evaluation(Context, Meter):
    """One evaluation of one text: its names, its meter, its ``now()``."""

    def __init__(self, scope: Scope, builds: bool) -> None:
        # The base class copies its names into dictionaries; here they stay in the
        # scope until asked for.
        self.scope = scope
        self.left = WORK_MAX
        self.builds = builds
        self.vars = {}
        self.exported_vars = set()
        self.environment = ENVIRONMENT
        self.eval_ctx = _EVAL_CONTEXT
        self._now: JSON = None

    def resolve_or_missing(self, key: str) -> Any:
        """A bare name's value, or Jinja2's own mark for none."""
        value = self.scope.lookup(key)
        return missing if value is ABSENT else seen(cast("JSON", value))

    def injected(self, name: str) -> Callable[..., JSON]:
        """A function the scope was given."""
        found = self.scope.functions.get(name)
        if found is None:
            raise TemplateError(f"{name}() cannot be called here")
        return found

    def now(self) -> JSON:
        """The time, one value per text (PB-403)."""
        if self._now is None:
            self._now = self.injected("now")()
        return self._now


class _Environment(SandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict:
            if attribute in obj:
                return seen(obj[attribute])
            return Undefined(name=attribute)
        found: object = ABSENT
        if isinstance(obj, StepResult):
            found = member(obj, attribute)
        elif isinstance(obj, LoopContext):
            found = getattr(obj, attribute) if attribute in _LOOP_WORDS else ABSENT
        elif isinstance(obj, Namespace):
            if not attribute.startswith("_"):
                found = getattr(obj, attribute, ABSENT)
        elif isinstance(obj, tuple):
            # What ``groupby`` gives: pairs with named members.
            named = getattr(obj, "_fields", ())
            found = getattr(obj, attribute) if attribute in named else ABSENT
        elif isinstance(obj, Mapping) and attribute in obj:
            found = obj[attribute]
        if found is ABSENT:
            return Undefined(name=attribute)
        return seen(cast("JSON", found))

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, StepResult):
            argument = argument.value
        if isinstance(argument, str):
            return self.getattr(obj, argument)
        if not isinstance(argument, int):
            return Undefined(name="[…]")
        found: object = ABSENT
        if isinstance(obj, StepResult):
            found = element(obj, argument)
        elif isinstance(obj, list | str | tuple):
            if -len(obj) <= argument < len(obj):
                found = obj[argument]
        elif isinstance(obj, dict):
            found = obj.get(argument, ABSENT)
        if found is ABSENT:
            return Undefined(name=f"[{argument}]")
        return seen(cast("JSON", found))

    # Blocks that are captured (``{% set x %}…{% endset %}``) are joined by this.
    concat = staticmethod(concatenated)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        raise TemplateError(f"{type_name(obj)} cannot be called")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return operators.calculate(cast("Evaluation", context), operator, left, right)

    def call_unop(self, context: Context, operator: str, arg: Any) -> Any:
        return operators.signed(cast("Evaluation", context), operator, arg)

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        # ``map`` names filters at run time; it may name those an author may write.
        if name not in FILTERS:
            raise TemplateError(f"No filter named '{name}'.")
        return super().call_filter(name, *args, **kwargs)


def _chain(meter: Meter, first: object, *rest: object) -> bool:
    """``a < b < c``: signs and operands in turn."""
    for sign, operand in zip(rest[::2], rest[1::2], strict=True):
        if not _COMPARISONS[cast("str", sign)](meter, first, operand):
            return False
        first = operand
    return True


def _named(context: Context, name: str) -> object:
    found = context.resolve_or_missing(name)
    return Undefined(name=name) if found is missing else found


_OPERATIONS: Final[dict[str, Callable[..., object]]] = {
    **{f"#{sign}": compare for sign, compare in _COMPARISONS.items()},
    "#chain": _chain,
    "#concat": lambda meter, *parts: operators.joined(meter, parts),
    "#slice": operators.slice_of,
    "#iterate": operators.iterated,
    "#undefined": lambda meter, value: Undefined("no else branch"),
    "#name": _named,
}


def _environment() -> _Environment:
    environment = _Environment(
        # ``{#`` is text: these are no characters of any text (Unicode noncharacters).
        comment_start_string="\ufdd0#",
        comment_end_string="#\ufdd1",
        keep_trailing_newline=True,
        optimized=False,
        autoescape=False,
        undefined=Undefined,
        finalize=pass_context(text_form),
        cache_size=0,
    )
    environment.globals.clear()
    operations = {name: pass_context(call) for name, call in _OPERATIONS.items()}
    environment.filters = {
        **FILTERS,
        **operations,
        "#method": call_method,
        "#function": call_function,
    }
    environment.tests = dict(TESTS)
    return environment


ENVIRONMENT: Final = _environment()
_EVAL_CONTEXT: Final = EvalContext(ENVIRONMENT)


def parse(text: str) -> nodes.Template:
    """The tree of a text, as Jinja2 gives it."""
    return cast("nodes.Template", _parsed(text, lambda source: _tree(source)))


def parse_expression(text: str) -> nodes.Expr:
    """The tree of an expression that stands without braces (PB-440)."""
    return cast("nodes.Expr", _parsed(text, _expression))


def _tree(source: str) -> nodes.Node:
    return ENVIRONMENT.parse(source)


def _expression(source: str) -> nodes.Node:
    parser = Parser(ENVIRONMENT, source, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        raise TemplateSyntaxError(
            "unexpected text after the expression", parser.stream.current.lineno
        )
    return expression


_CARRIAGE_RETURNS: Final = "\x1f\x1e\x1d\x1c"
"""Stand-ins for a carriage return: whitespace to Jinja2, but no line break."""


def _parsed(text: str, parse_source: Callable[[str], nodes.Node]) -> nodes.Node:
    if len(text) > TEXT_MAX:
        raise exceeded("text_max", TEXT_MAX, "the text is too long")
    stand_in = ""
    if "\r" in text:
        # Jinja2 turns every line break into a newline; whitespace is kept (PB-400).
        stand_in = next((char for char in _CARRIAGE_RETURNS if char not in text), "")
        text = text.replace("\r", stand_in) if stand_in else text
    if len(text) > _COUNTED_FROM:
        _count_tokens(text)
    tree = parse_source(text)
    if stand_in:
        for data in tree.find_all(nodes.TemplateData):
            data.data = data.data.replace(stand_in, "\r")
        for const in tree.find_all(nodes.Const):
            if isinstance(const.value, str):
                const.value = const.value.replace(stand_in, "\r")
    return tree


def _count_tokens(text: str) -> None:
    for count, _ in enumerate(ENVIRONMENT.lexer.tokeniter(text, None)):
        if count >= TOKENS_MAX:
            raise exceeded("tokens_max", TOKENS_MAX, "the text has too many parts")


def compile_tree(tree: nodes.Template) -> tuple[Callable[[Context], Any], bool]:
    """The render function of a tree, and whether it builds containers.

    The tree is rewritten in place.
    """
    rewriter = _Rewriter()
    rewriter.rewrite(tree)
    tree.set_environment(ENVIRONMENT)
    code = ENVIRONMENT.compile(tree)
    template = Template.from_code(ENVIRONMENT, code, {})
    return template.root_render_func, rewriter.builds


_STATEMENTS: Final = (
    nodes.Assign,
    nodes.AssignBlock,
    nodes.FilterBlock,
    nodes.For,
    nodes.If,
    nodes.Output,
    nodes.With,
)


class _Rewriter:
    """Puts this package's functions in the place of Python's operators.

    Attributes:
        builds: the text can put values into containers.
        nodes: nodes seen so far.
    """

    def __init__(self) -> None:
        self.builds = False
        self.nodes = 0

    def rewrite(self, node: nodes.Node) -> nodes.Node:
        """The node that stands in the place of ``node``, children first."""
        before = self.nodes
        self.nodes += 1
        if isinstance(node, nodes.Stmt) and not isinstance(node, _STATEMENTS):
            _refuse(f"'{type(node).__name__.lower()}' is no statement here", node)
        for name, value in node.iter_fields():
            if isinstance(value, list):
                changed = [self._rewritten(item) for item in value]
                setattr(node, name, changed)
            else:
                setattr(node, name, self._rewritten(value))
        rule = _RULES.get(type(node))
        if rule is not None:
            node = rule(self, node)
        if isinstance(node, nodes.For):
            # A round costs what its body holds, so nested loops multiply.
            weight = nodes.Const(self.nodes - before)
            assert isinstance(node.iter, nodes.Expr)
            node.iter = _operation("iterate", node.iter, [weight])
        return node

    def _rewritten(self, value: object) -> object:
        return self.rewrite(value) if isinstance(value, nodes.Node) else value


def _operation(
    name: str, value: nodes.Expr, args: list[nodes.Expr], like: nodes.Call | None = None
) -> nodes.Expr:
    kwargs = [] if like is None else like.kwargs
    dyn_args = None if like is None else like.dyn_args
    dyn_kwargs = None if like is None else like.dyn_kwargs
    found = nodes.Filter(value, f"#{name}", args, kwargs, dyn_args, dyn_kwargs)
    found.set_lineno(value.lineno or 1)
    return found


def _refuse(message: str, node: nodes.Node) -> NoReturn:
    raise TemplateSyntaxError(message, node.lineno or 1)


def _compare(rewriter: _Rewriter, node: nodes.Compare) -> nodes.Node:
    if len(node.ops) == 1:
        return _operation(node.ops[0].op, node.expr, [node.ops[0].expr])
    rest: list[nodes.Expr] = []
    for operand in node.ops:
        rest += [nodes.Const(operand.op), operand.expr]
    return _operation("chain", node.expr, rest)


def _concat(rewriter: _Rewriter, node: nodes.Concat) -> nodes.Node:
    return _operation("concat", node.nodes[0], node.nodes[1:])


def _getitem(rewriter: _Rewriter, node: nodes.Getitem) -> nodes.Node:
    piece = node.arg
    if not isinstance(piece, nodes.Slice):
        return node
    bounds = (piece.start, piece.stop, piece.step)
    return _operation("slice", node.node, [b or nodes.Const(None) for b in bounds])


def _for(rewriter: _Rewriter, node: nodes.For) -> nodes.Node:
    if node.recursive:
        _refuse("a recursive for is not supported", node)
    return node


def _if_else(rewriter: _Rewriter, node: nodes.CondExpr) -> nodes.Node:
    if node.expr2 is None:
        node.expr2 = _operation("undefined", nodes.Const(None), [])
    return node


def _call(rewriter: _Rewriter, node: nodes.Call) -> nodes.Node:
    rewriter.builds = True
    called = node.node
    if isinstance(called, nodes.Getattr) and called.attr in METHODS:
        args = [nodes.Const(called.attr), *node.args]
        return _operation("method", called.node, args, node)
    if isinstance(called, nodes.Name) and called.name in FUNCTIONS:
        return _operation("function", nodes.Const(called.name), node.args, node)
    return node


def _name(rewriter: _Rewriter, node: nodes.Name) -> nodes.Node:
    # Jinja2 compiles ``self`` to the template object; here it is a name as any.
    if node.name == "self" and node.ctx == "load":
        return _operation("name", nodes.Const("self"), [])
    return node


def _const(rewriter: _Rewriter, node: nodes.Const) -> nodes.Node:
    value = node.value
    if isinstance(value, float) and not math.isfinite(value):
        _refuse("the number is too large", node)
    if isinstance(value, int) and value.bit_length() > INTEGER_BITS_MAX:
        _refuse("the number is too large", node)
    return node


def _container(rewriter: _Rewriter, node: Any) -> nodes.Node:
    if node.items and getattr(node, "ctx", "load") == "load":
        rewriter.builds = True
    return cast("nodes.Node", node)


def _building(rewriter: _Rewriter, node: nodes.Node) -> nodes.Node:
    rewriter.builds = True
    return node


def _filter(rewriter: _Rewriter, node: nodes.Filter) -> nodes.Node:
    if node.name not in PASSING:
        rewriter.builds = True
    return node


_RULES: Final[dict[type[nodes.Node], Callable[[_Rewriter, Any], nodes.Node]]] = {
    nodes.Compare: _compare,
    nodes.Concat: _concat,
    nodes.Getitem: _getitem,
    nodes.For: _for,
    nodes.CondExpr: _if_else,
    nodes.Call: _call,
    nodes.Name: _name,
    nodes.Const: _const,
    nodes.List: _container,
    nodes.Tuple: _container,
    nodes.Dict: _container,
    nodes.Add: _building,
    nodes.Mul: _building,
    nodes.Filter: _filter,
}
