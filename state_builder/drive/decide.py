"""``decide``: what does this state still lack? The order of PB-503, no more."""

from __future__ import annotations

from state_builder.drive.answers import settle_answers
from state_builder.drive.asks import start_asked
from state_builder.drive.bulk import FetchNeed, LackingError
from state_builder.drive.calls import start_children
from state_builder.drive.commands import issue_all
from state_builder.drive.completion import consume_all
from state_builder.drive.decision import Decision, Draft, FailExecution, Turn
from state_builder.drive.ending import (
    answer_request,
    begin,
    end_if_done,
    fail,
    fire_timers,
    give_up,
)
from state_builder.drive.entry import enter_all, skip_unreachable
from state_builder.errors import LimitExceededError, TemplateError
from state_builder.template import BulkNeededError


def decide(turn: Turn) -> Decision | None:
    """What to append for this execution now; None when its state lacks nothing.

    Deterministic: the same playbook, state and time give the same decision, the same
    keys, the same command ids (RT-DRV-4). A text that cannot be evaluated, or a limit,
    ends the execution with the reason; it is never tried again (RT-DRV-10).
    """
    state = turn.state
    if state.terminal:
        return None
    if state.damaged:
        return give_up(state, turn.at, "damaged", state.damaged)
    if state.genesis is None:
        return None
    try:
        draft = _decide(turn)
    except BulkNeededError as error:
        return Decision(key="", needs=[FetchNeed(error.reference)])
    except LackingError as error:
        return Decision(key="", needs=[error.need])
    except TemplateError as error:
        draft = fail(turn, "evaluate_error", str(error))
    except LimitExceededError as error:
        draft = fail(turn, "limit", f"{error.limit}: {error}")
        draft.limits.append(error.limit)
    except FailExecution as error:
        draft = fail(turn, error.reason, str(error))
    return draft.decision()


def _decide(turn: Turn) -> Draft:
    draft = Draft(turn)
    if turn.state.request is not None:
        answer_request(draft, turn.state.request)
        return draft
    fire_timers(draft)
    settle_answers(draft)
    consume_all(draft)
    if not draft.state.failing:
        if not draft.state.steps:
            begin(draft)
        enter_all(draft)
        skip_unreachable(draft)
        if not draft.unsettled:
            # Else the next iteration would not see what this one has set (PB-206).
            _supply(draft)
    start_asked(draft)
    if not draft.needs:
        end_if_done(draft)
        if draft.state.final_entered and not draft.terminal:
            _supply(draft)
    return draft


def _supply(draft: Draft) -> None:
    """Start and issue what active steps lack; a full pass leaves it to the next."""
    if not draft.full:
        start_children(draft)
    if not draft.full and not draft.needs:
        issue_all(draft)
