"""The template dialect: Jinja2's grammar with this language's values (PB §11–13).

The only importer of Jinja2. May import: records, errors. Invariants: pure (the two
impure functions are handed in with the scope), bounded by counted work, never an
attribute of a Python object; the drive and the workers evaluate by the same code.
"""

from state_builder.template.reading import (
    Names,
    check,
    error_aware,
    is_template,
    names_of,
)
from state_builder.template.rendering import condition, render
from state_builder.template.results import StepResult, plain
from state_builder.template.scope import Iteration, Scope

__all__ = [
    "Iteration",
    "Names",
    "Scope",
    "StepResult",
    "check",
    "condition",
    "error_aware",
    "is_template",
    "names_of",
    "plain",
    "render",
]
