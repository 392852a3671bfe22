"""What the catalog had said when a recorded pass called other playbooks.

The catalog's answer is not in the log, but what came of it is, in the same message: the
genesis of the child that was started, or the error of the call that was not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct
from msgspec.json import Decoder
from msgspec.json import decode as decode_json

from state_builder.drive import Child, ChildNeed
from state_builder.playbook import parse
from state_builder.records import GENESIS, Event, Genesis, outcome_envelope_decoder
from state_builder.transcript import LoggedRecord, PlaybookLine

_NOT_STARTED: Final = re.compile(
    r"playbook '(?P<path>.*?)' cannot be started: (?P<problem>.*)", re.DOTALL
)

_genesis = Decoder(Genesis)


class Lookups(Mapping[Struct, Struct]):
    """Need → child, for the calls of one recorded pass."""

    def __init__(
        self,
        own: LoggedRecord,
        others: list[LoggedRecord],
        playbooks: Mapping[str, PlaybookLine],
    ) -> None:
        self._own = own
        self._started = [
            _genesis.decode(record.events[0].context)
            for record in others
            if record.events[0].type == GENESIS
        ]
        self._playbooks = playbooks
        self._found: dict[Struct, Child] = {}

    def __getitem__(self, need: Struct) -> Child:
        assert isinstance(need, ChildNeed)
        found = self._found.get(need) or self._child(need)
        if found is None:
            raise KeyError(need)
        self._found[need] = found
        return found

    def __iter__(self) -> Iterator[Struct]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def _child(self, need: ChildNeed) -> Child | None:
        for genesis in self._started:
            line = self._playbooks.get(genesis.catalog_id)
            if _is_meant(need, genesis) and line is not None:
                return Child(
                    catalog_id=genesis.catalog_id,
                    path=genesis.path,
                    version=genesis.version,
                    playbook=parse(line.content).playbook,
                )
        for event in self._own.events:
            problem = _problem(event, need.path or need.catalog_id)
            if problem:
                return Child(problem=problem)
        return None


def _is_meant(need: ChildNeed, genesis: Genesis) -> bool:
    if need.catalog_id:
        return need.catalog_id == genesis.catalog_id
    return need.path == genesis.path and need.version in (None, genesis.version)


def _problem(event: Event, name: str) -> str:
    """Why the playbook of that name was not started, as its call was told."""
    if event.type not in ("call.error", "call.done") or not event.result:
        return ""
    outcome = outcome_envelope_decoder.decode(event.result).context
    if outcome is None:
        return ""
    if outcome.error is not None:
        told = _NOT_STARTED.fullmatch(outcome.error.message)
        if told is not None and told["path"] == name:
            return told["problem"]
        return ""
    data = decode_json(outcome.data) if outcome.data else None
    if isinstance(data, dict) and data.get("path") == name:
        return str(data.get("error") or "")
    return ""
