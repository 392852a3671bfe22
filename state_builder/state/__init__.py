"""The state of one execution: a fold over its events in log order.

State changes only by :func:`fold`, only by events, and only forward. The owner folds
what it reads back from the log; the drive folds its own decisions into a draft, so
what is decided and what is read back later cannot disagree.

May import: records, chain, template and what is under them.
"""

from state_builder.state.fold import (
    REPEAT_TIMER,
    TIMEOUT_TIMER,
    apply,
    asked_key,
    fold,
    own_payloads,
)
from state_builder.state.loops import aggregate, parse_cursor_iteration
from state_builder.state.model import (
    STATE_VERSION,
    Asked,
    CursorRun,
    Frame,
    LoopRun,
    OpenCommand,
    Outcome,
    Pass,
    Repeat,
    Request,
    State,
    StepState,
    Token,
)
from state_builder.state.outcomes import encode_failure
from state_builder.state.payloads import Delivered, Entered, Exited, Updated

__all__ = [
    "REPEAT_TIMER",
    "STATE_VERSION",
    "TIMEOUT_TIMER",
    "Asked",
    "CursorRun",
    "Delivered",
    "Entered",
    "Exited",
    "Frame",
    "LoopRun",
    "OpenCommand",
    "Outcome",
    "Pass",
    "Repeat",
    "Request",
    "State",
    "StepState",
    "Token",
    "Updated",
    "aggregate",
    "apply",
    "asked_key",
    "encode_failure",
    "fold",
    "own_payloads",
    "parse_cursor_iteration",
]
