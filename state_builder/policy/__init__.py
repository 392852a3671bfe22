"""What to do after a tool ran: policy rules, then ``retry``, then the default (PB §5).

The worker asks after every run of a task, the drive after every child playbook; both
get the same verdict from the same rules. Pure: waits are numbers, variables are values.

May import: template, retry, records and what is under them.
"""

from state_builder.policy.rules import (
    ACTIONS,
    Case,
    PolicyError,
    Rule,
    Run,
    Verdict,
    envelope,
    error_map,
    failure_of,
    judge,
    outcome_names,
)
from state_builder.policy.variables import Changes, apply, assign, evaluate, put

__all__ = [
    "ACTIONS",
    "Case",
    "Changes",
    "PolicyError",
    "Rule",
    "Run",
    "Verdict",
    "apply",
    "assign",
    "envelope",
    "error_map",
    "evaluate",
    "failure_of",
    "judge",
    "outcome_names",
    "put",
]
