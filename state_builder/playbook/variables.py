"""``set`` in all its spellings, as flat dotted keys (PB-200 to PB-202).

Steps and arcs set execution variables: a key is the variable's path (``x``, ``a.b``).
Policy rules set ``ctx.x`` or ``iter.x``. Tools also set bare ``x``, which lives as long
as the command. ``step.x`` is an older spelling of ``ctx.x``.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from state_builder.playbook.findings import Block, is_template
from state_builder.playbook.source import Path
from state_builder.records import JSON

SET_KEYS = ("set_ctx", "set_iter", "set")
"""Keys of a tool or rule that assign."""

_SCOPES = {"ctx": "ctx", "step": "ctx", "iter": "iter"}


class Assignment(Struct, frozen=True):
    """One variable to set; ``scope`` is ``ctx``, ``iter``, or empty for a bare key."""

    scope: str
    variable: str
    value: JSON
    path: Path


def step_variables(block: Block, *keys: str) -> dict[str, JSON]:
    """Variables a step or an arc sets: path of the variable → value or template."""
    found: dict[str, JSON] = {}
    for item in _assignments(block, keys):
        if item.scope == "iter":
            problem = "is not possible here: iter ends with the tool's run"
            _refuse(block, item.path, f"iter.{item.variable}", problem)
        found[item.variable] = item.value
    return found


def rule_variables(block: Block, *keys: str) -> dict[str, JSON]:
    """Variables a policy rule sets: ``ctx.…`` or ``iter.…`` → value or template."""
    return {
        f"{item.scope or 'ctx'}.{item.variable}": item.value
        for item in _assignments(block, keys)
    }


def tool_variables(block: Block, *keys: str) -> dict[str, JSON]:
    """Variables a tool sets: ``ctx.…``, ``iter.…`` or a bare local one."""
    return {
        f"{item.scope}.{item.variable}" if item.scope else item.variable: item.value
        for item in _assignments(block, keys)
    }


def _assignments(block: Block, keys: tuple[str, ...]) -> Iterator[Assignment]:
    for key in keys:
        inner = block.block(key)
        if key in ("set_ctx", "set_iter"):
            yield from _scoped(inner, key.removeprefix("set_"))
        else:
            yield from _unscoped(inner)


def _unscoped(block: Block) -> Iterator[Assignment]:
    for key, value in block.value.items():
        if key in ("ctx", "iter"):
            if isinstance(value, dict):
                yield from _scoped(block.block(key), key)
            else:
                problem = f"needs a variable: write {key}.name"
                _refuse(block, block.at(key), key, problem)
            continue
        root, _, rest = key.partition(".")
        scope = _SCOPES.get(root, "") if "." in key else ""
        variable = rest if scope else key
        if _named(block, key, variable):
            yield Assignment(scope, variable, value, block.at(key))


def _scoped(block: Block, scope: str) -> Iterator[Assignment]:
    for key, value in block.value.items():
        if _named(block, key, key):
            yield Assignment(scope, key, value, block.at(key))


def _named(block: Block, key: str, variable: str) -> bool:
    if is_template(key):
        _refuse(block, block.at(key), key, "is a template; keys are literal")
        return False
    if not all(part.strip() for part in variable.split(".")):
        _refuse(block, block.at(key), key, "has an empty part")
        return False
    return True


def _refuse(block: Block, path: Path, key: str, problem: str) -> None:
    block.report.error("PB-716", path, f"set key '{key}' {problem}")
