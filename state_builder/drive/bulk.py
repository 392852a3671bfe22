"""Values that lie outside the log, as the drive meets them.

Deciding stays pure: what must be fetched or stored first is a *need* of the decision.
The owner sees to it and decides again, with the same state and what it found.
"""

from __future__ import annotations

from msgspec import Raw, Struct, field
from msgspec.json import decode as decode_json

from state_builder.errors import NoetlError, TemplateError
from state_builder.locator import Locator
from state_builder.records import JSON, Reference, decode_reference, encode_json
from state_builder.state import Outcome
from state_builder.state.outcomes import encode_failure
from state_builder.summary import preview, summarize
from state_builder.template import BulkNeededError, StepResult, external, fetched


class FetchNeed(Struct, frozen=True):
    """A value to fetch before this can be decided (RT-EVT-17)."""

    reference: Reference


class KeepNeed(Struct, frozen=True):
    """JSON to store before this can be decided (RT-LIM-2)."""

    locator: Locator
    data: bytes
    about: dict[str, str]


class Bulk(Struct, kw_only=True):
    """What was found for an execution's needs.

    Attributes:
        values: fetched JSON by reference.
        gone: why a value can never be had, by reference.
        kept: what stands for stored JSON, by its locator.
    """

    values: dict[str, bytes] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Reference] = field(default_factory=dict)

    def get(self, reference: Reference) -> bytes:
        """A value. Raises BulkNeededError, or TemplateError when it is gone."""
        found = self.values.get(reference.ref)
        if found is None:
            if reference.ref in self.gone:
                raise TemplateError(self.gone[reference.ref])
            raise BulkNeededError(reference)
        return found

    def decoded(self, raw: bytes | Raw) -> JSON:
        """The value behind an encoded reference."""
        value: JSON = decode_json(self.get(decode_reference(raw)))
        return value

    def keep(
        self, locator: Locator, data: bytes, about: dict[str, str] | None = None
    ) -> Reference:
        """What stands for the data. Raises LackingError until it is stored."""
        found = self.kept.get(str(locator))
        if found is None:
            raise LackingError(KeepNeed(locator, data, about or {}))
        return found


class LackingError(NoetlError):
    """Something must be seen to before this can be decided.

    Attributes:
        need: what it is.
    """

    code = "lacking"

    def __init__(self, need: KeepNeed) -> None:
        super().__init__(f"{need.locator} is not stored yet")
        self.need = need


def view(outcome: Outcome, bulk: Bulk) -> StepResult:
    """A result as texts read it; one stored elsewhere by its summary."""
    error: dict[str, JSON] | None = None
    if outcome.error is not None:
        error = encode_failure(outcome.error)  # type: ignore[assignment]
    if not outcome.reference:
        value = decode_json(outcome.data)
        return StepResult(value, outcome.form, error, not outcome.ok)
    reference = decode_reference(outcome.reference)
    if reference.ref not in bulk.values and reference.ref not in bulk.gone:
        return external(reference, outcome.form, error=error, failed=not outcome.ok)
    value = decode_json(bulk.get(reference))
    return fetched(value, reference, outcome.form, error=error, failed=not outcome.ok)


def described(reference: Reference, data: bytes) -> Raw:
    """A reference with what is to be seen of its value."""
    summary = summarize(data)
    reference.extracted = decode_json(summary.extracted)
    reference.preview = preview(data)
    return Raw(encode_json(reference))
