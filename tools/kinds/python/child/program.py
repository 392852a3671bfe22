"""Source text to code, top-level ``return`` included (TL-PY-07)."""

from __future__ import annotations

import ast
from types import CodeType

RETURN = "__returned__"


class Program:
    """Compiled code; ``returns`` when its last word is a top-level ``return``."""

    def __init__(self, source: str, filename: str) -> None:
        self.returns = False
        try:
            self.code = compile(source, filename, "exec")
        except SyntaxError as error:
            if "'return' outside function" not in str(error):
                raise
            self.returns = True
            self.code = as_function(source, filename)


def as_function(source: str, filename: str) -> CodeType:
    """Code with top-level ``return`` as one function whose names are all global."""
    tree = ast.parse(source, filename)
    body = [unannotated(statement) for statement in tree.body]
    function = ast.FunctionDef(
        name=RETURN,
        args=ast.arguments(
            posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[]
        ),
        body=body,
        decorator_list=[],
        lineno=1,
        col_offset=0,
    )
    module = ast.Module(body=[function], type_ignores=[])
    ast.fix_missing_locations(module)
    probe = compile(module, filename, "exec")
    inner = next(item for item in probe.co_consts if isinstance(item, CodeType))
    names = [*inner.co_varnames, *inner.co_cellvars]
    if names:
        function.body = [ast.Global(names=names, lineno=1, col_offset=0), *body]
        ast.fix_missing_locations(module)
    return compile(module, filename, "exec")


class Unannotate(ast.NodeTransformer):
    """``x: int = 1`` as ``x = 1``: a global name cannot be annotated."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Names inside are the function's own."""
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Names inside are the function's own."""
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Names inside are the class's own."""
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Only names are in the way; ``a.b: int = 1`` may stay."""
        if not isinstance(node.target, ast.Name):
            return node
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(
            ast.Assign(targets=[node.target], value=node.value), node
        )


def unannotated(statement: ast.stmt) -> ast.stmt:
    """A top-level statement without annotated names."""
    return Unannotate().visit(statement)  # type: ignore[no-any-return]
