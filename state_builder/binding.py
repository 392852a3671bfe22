"""The smallest slice of names a step's texts need (PB-346).

An optimisation only: rendering with the slice gives the same values as with all names.
When a text's names cannot be told, the slice is everything.
"""

from __future__ import annotations

from msgspec import Struct

from state_builder.errors import TemplateError
from state_builder.playbook.model import Playbook, Step
from state_builder.records import JSON
from state_builder.template import Scope, names_of, render

ROOTS = frozenset({"workload", "ctx", "steps", "iter", "event"})
"""Roots no step, variable or workload key can shadow (PB-454)."""

_PYTHON_KINDS = frozenset({"python", "task_sequence"})


class Needs(Struct, frozen=True, kw_only=True):
    """What a step's command must carry.

    Attributes:
        everything: all names (PB-346).
        names: bare names, searched in the order of PB-450.
        variables: members of ``ctx`` that are read.
        workload: keys of ``workload`` that are read; None for all of it.
        steps: names read through ``steps[...]``.
        event: the completion that led here is read.
    """

    everything: bool = False
    names: frozenset[str] = frozenset()
    variables: frozenset[str] = frozenset()
    workload: frozenset[str] | None = frozenset()
    steps: frozenset[str] = frozenset()
    event: bool = False


def needs_of(step: Step) -> Needs:
    """What the texts of a step's tool and input read."""
    if step.full_context:
        return Needs(everything=True)
    roots: set[str] = set()
    members: dict[str, set[str]] = {"ctx": set(), "workload": set(), "steps": set()}
    # Python code sees ``workload`` as a global (TL-PY-04).
    whole_workload = step.kind in _PYTHON_KINDS and b"workload" in bytes(step.tool)
    for text in step.texts:
        names = names_of(text)
        if names is None:
            return Needs(everything=True)
        roots |= names.roots
        for path in names.paths:
            if path[0] not in members:
                continue
            if len(path) > 1:
                members[path[0]].add(path[1])
            else:
                # All of ``ctx`` or ``steps`` is no path: such a text has no names.
                whole_workload = True
    return Needs(
        names=frozenset(roots - ROOTS),
        variables=frozenset(members["ctx"]),
        workload=None if whole_workload else frozenset(members["workload"]),
        steps=frozenset(members["steps"]),
        event="event" in roots,
    )


def effective_workload(
    playbook: Playbook,
    data: dict[str, JSON],
    execution_id: str,
    at: str,
    env: JSON,
) -> dict[str, JSON]:
    """Defaults, rendered once in document order, under the request's data (PB-020 ff.).

    A default sees request data and the keys rendered before it, never itself; request
    data is never rendered. Two maps merge deeply.

    Args:
        at: what ``now()`` says, RFC 3339.

    Raises:
        TemplateError: a default that cannot be evaluated; the text names its key.
    """
    result: dict[str, JSON] = {}
    job: JSON = {"uuid": execution_id, "id": execution_id, "execution_id": execution_id}
    weak: dict[str, JSON] = {"job": job, "spec": playbook.spec, "env": env}
    for key, default in playbook.workload.items():
        seen = {**(env if isinstance(env, dict) else {}), **result, **data}
        scope = Scope(
            execution_id=execution_id,
            workload={**result, **data},
            weak={**seen, **weak},
            functions={"now": lambda: at},
        )
        try:
            rendered = render(default, scope, data=True)
        except TemplateError as error:
            raise TemplateError(f"workload.{key}: {error}") from error
        result[key] = merged(rendered, data[key]) if key in data else rendered
    return {
        **result,
        **{key: value for key, value in data.items() if key not in result},
    }


def merged(default: JSON, given: JSON) -> JSON:
    """The request's value; two maps merge deeply, its keys win (RT-EXE-4)."""
    if not isinstance(default, dict) or not isinstance(given, dict):
        return given
    result = dict(default)
    for key, value in given.items():
        result[key] = merged(default[key], value) if key in default else value
    return result
