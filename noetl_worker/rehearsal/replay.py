"""Folds an execution again and decides again, event by event, from its transcript.

A decision is a function of playbook, state and time (RT-DRV-4), and the log holds all
three: the time of a pass is the ``at`` of its events. What the log does not say is how
far its owner had read when it decided, because results may be stored between its
reading and its answer. So each place since the last pass is tried, in log order: one
of them must give the recorded bytes, and the pass is explained by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import zip_longest
from typing import Literal, cast

from msgspec import MsgspecError, Struct
from msgspec.json import decode as decode_json
from msgspec.structs import replace

from noetl_worker.rehearsal.lookups import Lookups
from noetl_worker.rehearsal.passes import messages_of
from noetl_worker.rehearsal.stored import Stored
from state_builder.arcs import Plan
from state_builder.drive import Decision, DriveLimits, Turn, decide
from state_builder.errors import InvalidError
from state_builder.index import DECISION_TYPES
from state_builder.playbook import load
from state_builder.records import JSON, Event, Record, Reference, encode_json
from state_builder.state import State, fold
from state_builder.transcript import LoggedRecord, Transcript

Verdict = Literal["equal", "cut", "differs", "outside", "unread"]
Fetch = Callable[[Reference], bytes | None]


class Checked(Struct, frozen=True, kw_only=True):
    """One pass of the drive, decided again.

    Attributes:
        first, last: ids of its first and last event.
        at: time of the decision, RFC 3339.
        after: id of the newest event its owner had read; 0 when nothing explains it.
        events: what was recorded.
        verdict: ``equal`` byte for byte (in meaning, from rows); ``cut``: equal as far
            as it goes, its owner ended before the rest; ``differs``; ``outside``: not
            written by the drive (an owner that could not load the playbook, or not
            store a pass); ``unread``: decided by a stored value that is not at hand.
        lacks: reference of that value.
        expected, recorded: the first records that differ.
    """

    execution_id: str
    first: int
    last: int
    at: str
    after: int
    events: list[Event]
    verdict: Verdict
    expected: bytes = b""
    recorded: bytes = b""
    lacks: str = ""

    @property
    def sound(self) -> bool:
        """Nothing says that this build would decide otherwise."""
        return self.verdict != "differs"


class Folded(Struct, frozen=True):
    """One event that was folded; ``ignored`` says why it changed nothing, or is empty.

    Attributes:
        number: from 1, in its execution.
    """

    number: int
    event_id: int
    event: Event
    ignored: str
    stored_at: float


class Replay:
    """One execution of a transcript, folded as far as it was asked to.

    Attributes:
        state: after the events folded so far.
        folded: those events.
        passes: every decision among them.

    Args:
        fetch: gives the JSON behind a reference, or None where it cannot be had.
    """

    def __init__(
        self,
        transcript: Transcript,
        execution_id: str,
        fetch: Fetch = lambda reference: None,
    ) -> None:
        records = transcript.of(execution_id)
        if not records:
            known = ", ".join(transcript.executions())
            raise InvalidError(
                f"the transcript has no execution {execution_id} (it has {known})"
            )
        self.state = State(execution_id=execution_id)
        self.folded: list[Folded] = []
        self.passes: list[Checked] = []
        self._transcript = transcript
        self._messages = _messages(transcript, execution_id, records)
        self._known = frozenset(transcript.executions())
        self._limits = DriveLimits(**transcript.head.limits)
        self._plan: Plan | None = None
        self._memo: dict[str, JSON] = {}
        self._exact = transcript.head.source == "log"
        self._stored = Stored(transcript, fetch)

    @property
    def plan(self) -> Plan:
        """The graph of its playbook. Raises InvalidError when it is not there."""
        if self._plan is None:
            genesis = self.state.genesis
            catalog_id = "" if genesis is None else genesis.catalog_id
            found = self._transcript.playbooks.get(catalog_id)
            if found is None:
                raise InvalidError(
                    f"the transcript lacks the playbook of execution "
                    f"{self.state.execution_id} (catalog id {catalog_id or 'unknown'})"
                )
            self._plan = Plan(load(found.content))
        return self._plan

    def event_number(self, until: str) -> int:
        """Which event an id or a number names, counted from 1. Raises InvalidError."""
        ids = [one for message in self._messages for one in message.own.ids]
        wanted = int(until) if until.isdecimal() else 0
        if wanted in ids:
            return ids.index(wanted) + 1
        if 1 <= wanted <= len(ids):
            return wanted
        raise InvalidError(
            f"no event '{until}': name one by its id ({ids[0]} to {ids[-1]}) or by its "
            f"number (1 to {len(ids)})"
        )

    def run(self, until: int = 0) -> None:
        """Fold up to the ``until``-th event; all of them when 0."""
        for _ in self.steps(until):
            pass

    def steps(self, until: int = 0) -> Iterator[Checked]:
        """The same, pass by pass: the state is what it was after each."""
        place = 0
        messages = self._messages
        while place < len(messages) and not self._over(until):
            upcoming = [
                index
                for index in range(place, len(messages))
                if messages[index].decides
            ]
            if not upcoming:
                self._fold_until(messages[place:], until)
                return
            found, place = self._explain(place, upcoming, until)
            if found is None:
                return
            self.passes.append(found)
            yield found

    def _explain(
        self, place: int, upcoming: list[int], until: int
    ) -> tuple[Checked | None, int]:
        """The next pass and the place behind it; None when ``until`` comes before."""
        ahead = [self._messages[index] for index in upcoming]
        first = ahead[0]
        last_try: list[list[bytes]] = []
        equal = after = 0
        lacks = ""
        for index in range(place, upcoming[0] + 1):
            after = self.state.head.event_id
            last_try = self._decided(first)
            lacks = lacks or self._stored.lacks
            equal = self._equal(last_try, ahead)
            if equal or index == upcoming[0]:
                break
            if not self._fold_until([self._messages[index]], until):
                return None, place
            place = index + 1
        taken = max(equal, 1)
        end = upcoming[taken - 1] + 1
        if not self._fold_until(self._messages[place:end], until):
            return None, end
        checked = _checked(ahead[:taken], last_try, equal, after)
        if checked.verdict == "differs" and lacks:
            checked = replace(checked, verdict="unread", lacks=lacks)
        return checked, end

    def _decided(self, first: _Message) -> list[list[bytes]]:
        """What this build would write now, at the time of a recorded pass.

        The records of each message, as bytes.
        """
        if self.state.genesis is None:
            return []
        at = first.own.events[0].at
        self._stored.lacks = ""
        while True:
            turn = Turn(
                plan=self.plan,
                state=self.state,
                now=datetime.fromisoformat(at).timestamp(),
                at=at,
                limits=self._limits,
                shard=self._transcript.head.shard,
                shard_count=self._transcript.head.shard_count,
                children=Lookups(first.own, first.others, self._transcript.playbooks),
                memo=self._memo,
                bulk=self._stored.bulk,
            )
            decision: Decision | None = decide(turn)
            if decision is None:
                return []
            if not decision.needs:
                break
            if not all(self._stored.see_to(need) for need in decision.needs):
                return []
        messages = messages_of(self.state.execution_id, decision)
        return [
            [encode_json(one) for one in message.records if self._kept(one)]
            for message in messages
        ]

    def _equal(self, decided: list[list[bytes]], recorded: list[_Message]) -> int:
        """How many leading messages are the same."""
        equal = 0
        for ours, theirs in zip(decided, recorded, strict=False):
            if not self._same(ours, _recorded_bytes(theirs)):
                break
            equal += 1
        return equal

    def _same(self, ours: list[bytes], theirs: list[bytes]) -> bool:
        """Byte for byte; in meaning where the records were made again from rows."""
        if ours == theirs or self._exact:
            return ours == theirs
        return [_meaning(one) for one in ours] == [_meaning(one) for one in theirs]

    def _kept(self, record: Record) -> bool:
        """What a child says to its parent is not in the child's own transcript."""
        return record.execution_id in self._known

    def _over(self, until: int) -> bool:
        return bool(until) and len(self.folded) >= until

    def _fold_until(self, messages: list[_Message], until: int) -> bool:
        """Fold messages; False when ``until`` was reached before their end."""
        for message in messages:
            own = message.own
            for event, event_id in zip(own.events, own.ids, strict=True):
                if self._over(until):
                    return False
                number = len(self.folded) + 1
                ignored = _fold(self.state, event, event_id, number)
                self.folded.append(
                    Folded(number, event_id, event, ignored, own.stored_at)
                )
        return True


class _Message(Struct, frozen=True):
    """What one message of the log holds for an execution and for others of its tree."""

    own: LoggedRecord
    others: list[LoggedRecord]

    @property
    def decides(self) -> bool:
        """The drive wrote it; anything else is a fact or a request."""
        return self.own.events[0].type in DECISION_TYPES

    @property
    def outside(self) -> bool:
        """An owner's own terminal: what the drive writes never has a code there."""
        first = self.own.events[0]
        return first.type == "playbook.failed" and bool(first.code)


def _messages(
    transcript: Transcript, execution_id: str, records: list[LoggedRecord]
) -> list[_Message]:
    """An execution's messages; a message with several records of it counts as several.

    What the drive says to other executions stands behind its own record.
    """
    beside: dict[int, list[LoggedRecord]] = {}
    for record in transcript.records:
        if record.execution_id != execution_id:
            beside.setdefault(record.sequence, []).append(record)
    found = []
    for record in records:
        others = beside.get(record.sequence, [])
        found.append(_Message(record, [one for one in others if _behind(one, record)]))
    return found


def _behind(one: LoggedRecord, record: LoggedRecord) -> bool:
    return one.ids[0] > record.ids[0]


def _fold(state: State, event: Event, event_id: int, number: int) -> str:
    try:
        return fold(state, event, event_id)
    except (MsgspecError, KeyError, ValueError) as error:
        raise InvalidError(
            f"event {number} ({event.type}, id {event_id}) cannot be folded: {error!r}"
        ) from error


def _meaning(record: bytes) -> JSON:
    """A record without what rows do not keep as it was."""
    found: dict[str, list[dict[str, JSON]]] = decode_json(record)
    for event in found["events"]:
        for name in ("status", "meta"):
            event.pop(name, None)
        if event["type"] != "command.issued":
            # Rows name the tool of every answer, whoever gave it.
            event.pop("kind", None)
    return cast(JSON, found)


def _recorded_bytes(message: _Message) -> list[bytes]:
    return [message.own.data, *(record.data for record in message.others)]


def _checked(
    recorded: list[_Message], decided: list[list[bytes]], equal: int, after: int
) -> Checked:
    first = recorded[0]
    verdict: Verdict = "equal" if equal == len(decided) else "cut"
    expected = difference = b""
    if not equal:
        verdict = "outside" if first.outside else "differs"
        expected, difference = _first_difference(first, decided)
    return Checked(
        execution_id=first.own.execution_id,
        first=first.own.ids[0],
        last=recorded[-1].own.ids[-1],
        at=first.own.events[0].at,
        after=after,
        events=[event for message in recorded for event in message.own.events],
        verdict=verdict,
        expected=expected,
        recorded=difference,
    )


def _first_difference(
    message: _Message, decided: list[list[bytes]]
) -> tuple[bytes, bytes]:
    ours = decided[0] if decided else []
    pairs = zip_longest(ours, _recorded_bytes(message), fillvalue=b"")
    return next(((one, other) for one, other in pairs if one != other), (b"", b""))
