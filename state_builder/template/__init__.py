"""The template engine: texts of a playbook become values (PB §12, §13).

Sandboxed and pure: the same text and names give the same value, every evaluation ends
within named limits, and nothing of Python can be reached. Results keep their views
inside a text only; what leaves is plain JSON. The only importer of Jinja2.
"""

from state_builder.template.analysis import Names, error_aware, names_of
from state_builder.template.external import (
    BulkNeededError,
    External,
    external,
    fetched,
    stub_of,
)
from state_builder.template.rendering import check, condition, render
from state_builder.template.results import StepResult, plain
from state_builder.template.scope import Iteration, Scope
from state_builder.template.texts import is_template

__all__ = [
    "BulkNeededError",
    "External",
    "Iteration",
    "Names",
    "Scope",
    "StepResult",
    "check",
    "condition",
    "error_aware",
    "external",
    "fetched",
    "is_template",
    "names_of",
    "plain",
    "render",
    "stub_of",
]
