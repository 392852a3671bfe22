"""Variables a command sets: seen at once by its later texts, reported in order.

Keys are ``ctx.x`` (the execution's), ``iter.x`` (this run of the step) or bare ``x``
(this command); deeper keys set one member of a map (PB-202).
"""

from __future__ import annotations

from typing import cast

from state_builder.records import JSON
from state_builder.template import Scope, plain, render

Changes = dict[str, JSON]


def evaluate(block: Changes, scope: Scope) -> Changes:
    """All values of a block against the state before it (PB-201)."""
    found = render({**block}, scope, data=True)
    assert isinstance(found, dict)
    return found


def apply(values: Changes, scope: Scope, updates: Changes) -> None:
    """Make values visible; what is durable goes to ``updates``, latest last."""
    for key, value in values.items():
        place, _, name = key.partition(".")
        if name and place in ("ctx", "step"):
            _set_variable(name, value, scope)
            put(updates, {name: value})
        elif name and place == "iter":
            assign(cast("Changes", scope.iter_vars), name, value)
        else:
            assign(cast("Changes", scope.runtime), key, value)


def _set_variable(name: str, value: JSON, scope: Scope) -> None:
    """The token's own value of a variable gives way to the new one (PB-454)."""
    root = name.partition(".")[0]
    ctx = cast("Changes", scope.ctx)
    overlay = cast("Changes", scope.overlay)
    if root in overlay:
        ctx[root] = plain(overlay.pop(root))
    assign(ctx, name, value)


def assign(variables: Changes, path: str, value: JSON) -> None:
    """Set a variable by its path: ``a.b`` sets member ``b`` of ``a`` (PB-202).

    Maps on the way are copied, not changed: earlier holders keep what they saw.
    """
    *members, last = path.split(".")
    inner = variables
    for name in members:
        old = inner.get(name)
        copied: Changes = dict(old) if isinstance(old, dict) else {}
        inner[name] = copied
        inner = copied
    inner[last] = value


def put(updates: Changes, values: Changes) -> None:
    """Add changes to earlier ones, latest last: order decides where paths overlap."""
    for path, value in values.items():
        updates.pop(path, None)
        updates[path] = value
