"""What an owner fetched and stored while it decided, for whoever decides again.

What it stored is named in the log, by a name its content is part of: it needs no
storing again. What it fetched lies where it lay, if anybody can get it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import UNSET, Struct, ValidationError, convert
from msgspec.json import decode as decode_json
from msgspec.structs import replace

from state_builder.drive import Bulk, FetchNeed, KeepNeed
from state_builder.locator import SCHEME
from state_builder.records import JSON, Reference
from state_builder.transcript import Transcript


class Stored:
    """Answers the needs of decisions.

    Attributes:
        bulk: what was found so far.
        lacks: reference of the last value that could not be had.
    """

    def __init__(
        self, transcript: Transcript, fetch: Callable[[Reference], bytes | None]
    ) -> None:
        self.bulk = Bulk()
        self.lacks = ""
        self._fetch = fetch
        self._transcript = transcript
        self._named: dict[str, Reference] | None = None

    def see_to(self, need: Struct) -> bool:
        """Whether the need is answered now."""
        if isinstance(need, KeepNeed):
            return self._keep(str(need.locator))
        if isinstance(need, FetchNeed):
            return self._get(need.reference)
        return False

    def _keep(self, name: str) -> bool:
        if self._named is None:
            self._named = {found.ref: found for found in _references(self._transcript)}
        found = self._named.get(name)
        if found is None:
            # This build would store what the recorded decision did not.
            return False
        self.bulk.kept[name] = found
        return True

    def _get(self, reference: Reference) -> bool:
        data = self._fetch(reference)
        if data is None:
            self.lacks = reference.ref
            return False
        self.bulk.values[reference.ref] = data
        return True


def _references(transcript: Transcript) -> Iterator[Reference]:
    """Every reference the log names, without what was added to it for readers."""
    for record in transcript.records:
        for event in record.events:
            for raw in (event.context, event.result):
                if SCHEME.encode() in bytes(raw):
                    yield from _within(decode_json(raw))


def _within(value: JSON) -> Iterator[Reference]:
    if isinstance(value, list):
        for one in value:
            yield from _within(one)
    if not isinstance(value, dict):
        return
    if str(value.get("ref", "")).startswith(SCHEME) and "meta" in value:
        try:
            found = convert(value, Reference)
        except ValidationError:
            return  # somebody's data
        yield replace(
            found, kind="result_ref", extracted=UNSET, selected={}, preview=""
        )
        return
    for one in value.values():
        yield from _within(one)
