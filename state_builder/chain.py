"""Links between the events of one execution, in log order (RT-EVT-20 ff.).

Index and materializer share this room, so they cannot disagree about who is the root,
which event is the terminal, and what is only recorded and ignored.
"""

from __future__ import annotations

from msgspec import Struct

from state_builder.records import GENESIS, TERMINAL_STATUS


class ChainHead(Struct, kw_only=True):
    """The end of an execution's chain so far.

    Attributes:
        event_id: the last event; 0 before the genesis.
        count: events linked.
        terminal: status the first terminal event gave, empty while it runs.
    """

    event_id: int = 0
    count: int = 0
    terminal: str = ""


class Link(Struct, frozen=True):
    """How one event joins the chain.

    Attributes:
        previous: ``prev_event_id``; 0 for the root.
        verdict: empty when the event counts; else why it does not:
            ``orphan`` (no genesis yet: quarantine), ``second_terminal`` (quarantine),
            ``second_genesis`` or ``after_terminal`` (kept as IGNORED).
    """

    previous: int
    verdict: str = ""


_OUTSIDE = frozenset({"orphan", "second_terminal"})


def link(head: ChainHead, event_id: int, event_type: str) -> Link:
    """Join an event to the chain and move the head, or say why it stays out."""
    previous = head.event_id
    verdict = join(head, event_id, event_type)
    return Link(0 if verdict in _OUTSIDE else previous, verdict)


def join(head: ChainHead, event_id: int, event_type: str) -> str:
    """Move the head as :func:`link` does; the verdict alone."""
    if not head.count and event_type != GENESIS:
        return "orphan"
    terminal = TERMINAL_STATUS.get(event_type, "")
    if terminal and head.terminal:
        return "second_terminal"
    verdict = ""
    if head.terminal:
        verdict = "after_terminal"
    elif event_type == GENESIS and head.count:
        verdict = "second_genesis"
    elif terminal:
        head.terminal = terminal
    head.event_id = event_id
    head.count += 1
    return verdict
