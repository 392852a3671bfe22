"""What a command ended with, out of the events that say so."""

from __future__ import annotations

from msgspec.json import Decoder

from state_builder.records import (
    JSON,
    Event,
    ToolFailure,
    encode_json,
    outcome_envelope_decoder,
)
from state_builder.state.model import Outcome

_json = Decoder()
_updates = Decoder(dict[str, JSON])


def outcome_of(event: Event, event_id: int) -> Outcome:
    """What a ``call.done``/``call.error`` carries; bytes are copied."""
    ok = event.type == "call.done" and event.status != "FAILED"
    if not event.result:
        failure = None if ok else failure_of(event)
        return Outcome(ok=ok, event=event_id, error=failure)
    envelope = outcome_envelope_decoder.decode(event.result)
    found = envelope.context
    outcome = Outcome(ok=ok, event=event_id, reference=bytes(envelope.reference))
    if found is not None:
        outcome.form = found.form
        if not outcome.reference:
            outcome.data = bytes(found.data) or b"null"
        outcome.error = found.error
        outcome.helpers = bytes(found.helpers)
        if found.updates:
            outcome.updates = _updates.decode(found.updates)
    if not ok and outcome.error is None:
        outcome.error = failure_of(event)
    return outcome


def failure_of(event: Event) -> ToolFailure:
    """The error object of a failure that came without one."""
    return ToolFailure(
        kind=event.code or "unknown",
        code=event.code,
        message=event.error or "the command failed",
    )


def encode_failure(failure: ToolFailure) -> JSON:
    """The error object as templates and events see it."""
    decoded: JSON = _json.decode(encode_json(failure))
    return decoded
