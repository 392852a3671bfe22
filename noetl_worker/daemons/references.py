"""What a command takes by reference and leaves by reference.

A context over its limit arrives as a reference; a result over its budget is stored
first and named in the log afterwards, never the other way round (TL-RR-55). Whoever
dies in between leaves an object nobody names.
"""

from __future__ import annotations

from typing import Final

import structlog
from msgspec import DecodeError, Raw, Struct, ValidationError, field
from msgspec.json import Decoder
from msgspec.json import decode as decode_json
from msgspec.structs import replace

from state_builder.drive import Bulk, FetchNeed, KeepNeed
from state_builder.errors import (
    InvalidError,
    LimitExceededError,
    LostDataError,
    NoetlError,
    ReferenceMissingError,
    UnavailableError,
)
from state_builder.ids import digest_of
from state_builder.locator import Locator, place_of, result_locator
from state_builder.ports import Command, Observer
from state_builder.records import (
    JSON,
    CommandContext,
    ContextReference,
    Reference,
    ToolFailure,
    ToolOutcome,
    decode_reference,
    encode_json,
)
from state_builder.summary import preview, selections, summarize
from state_builder.template import stub_of
from state_builder.values import ValueStore

log = structlog.get_logger(__name__)

HELPER_BYTES_MAX: Final = 16_384
"""Of one word beside the data (``stdout`` …) in the log."""

_decode_context = Decoder(CommandContext).decode
_decode_stand_in = Decoder(ContextReference).decode

ERRORS: Final = (
    InvalidError,
    LimitExceededError,
    LostDataError,
    UnavailableError,
)
"""What a store may answer."""


class _Store(Struct):
    kind: str = "auto"
    scope: str = "execution"
    ttl_s: float = 0.0
    fallback: bool = False


class _Output(Struct):
    """``output`` in its one form (TL-OS-01)."""

    store: _Store = field(default_factory=_Store)
    output_select: list[object] = field(default_factory=list)
    inline_max_bytes: int | None = None


class CommandValues:
    """Values of commands, for a tool worker."""

    def __init__(self, values: ValueStore, inline_bytes_max: int = 102_400) -> None:
        self._values = values
        self._inline_bytes_max = inline_bytes_max

    async def resolve(self, command: Command) -> Command:
        """The command with its whole context. Raises one of :data:`ERRORS`."""
        if not command.context.startswith(b'{"__context_ref__"'):
            return command
        stand_in = _decode_stand_in(command.context)
        reference = decode_reference(stand_in.reference)
        return command._replace(context=await self._values.fetch(reference))

    async def settle(self, command: Command, outcome: ToolOutcome) -> ToolOutcome:
        """The outcome as the log takes it: within its budget, the rest stored.

        A store that fails for good fails the command; its result is not thrown away
        silently (TL-RR-03).
        """
        if len(outcome.helpers) > HELPER_BYTES_MAX:
            outcome = replace(outcome, helpers=_cut(outcome.helpers))
        budget, output = self._budget(command.context)
        if outcome.reference or (
            len(outcome.data) <= budget and output.store.kind == "auto"
        ):
            return outcome
        if _is_claim(command.iteration):
            return _claim_too_large(outcome, budget)
        try:
            return await self._stored(command, outcome, output)
        except ERRORS as error:
            return ToolOutcome(
                failed=True,
                error=failure_of(error),
                helpers=outcome.helpers,
                runs=outcome.runs,
                duration_ms=outcome.duration_ms,
            )

    def _budget(self, context: bytes) -> tuple[int, _Output]:
        """Bytes that stay inline, and what the author says of it."""
        budget, output = self._inline_bytes_max, _Output()
        if b'"output":' not in context and b'"inline_bytes_max":' not in context:
            return budget, output
        try:
            found = _decode_context(context)
            if found.inline_bytes_max:
                budget = found.inline_bytes_max
            if found.output:
                output = decode_json(found.output, type=_Output)
        except (ValidationError, DecodeError):
            return budget, output
        if output.inline_max_bytes is not None:
            # Above the platform's own budget a result would not fit the log.
            budget = min(output.inline_max_bytes, max(budget, self._inline_bytes_max))
        return budget, output

    async def _stored(
        self, command: Command, outcome: ToolOutcome, output: _Output
    ) -> ToolOutcome:
        data = bytes(outcome.data)
        place = place_of(
            command.execution_id,
            command.step,
            command.visit,
            command.iteration,
            command.attempt,
        )
        about = {"form": outcome.form, "scope": output.store.scope}
        if output.store.ttl_s:
            about["ttl_s"] = str(output.store.ttl_s)
        locator = result_locator(place, digest_of(data))
        reference = await self._kept(locator, data, about, output.store)
        wanted = selections([*output.output_select])  # type: ignore[list-item]
        summary = summarize(data, wanted)
        reference.extracted = decode_json(summary.extracted)
        reference.selected = summary.selected
        reference.preview = preview(data)
        return by_reference(outcome, reference)

    async def _kept(
        self, locator: Locator, data: bytes, about: dict[str, str], store: _Store
    ) -> Reference:
        """In the tier that was asked for; elsewhere only where the author allows it
        (TL-OS-04)."""
        if store.kind == "auto":
            return await self._values.keep(locator, data, about)
        try:
            tier = {"tier": store.kind}
            return await self._values.keep(locator, data, {**about, **tier})
        except (InvalidError, UnavailableError) as error:
            if not store.fallback:
                raise
            log.warning("result.stored_elsewhere", ref=str(locator), reason=str(error))
            return await self._values.keep(locator, data, about)


async def see_to(
    need: FetchNeed | KeepNeed, bulk: Bulk, values: ValueStore, observer: Observer
) -> None:
    """Fetch or store a value an owner cannot decide without (RT-EVT-17, RT-LIM-2).

    Raises UnavailableError.
    """
    if isinstance(need, KeepNeed):
        kept = await values.keep(need.locator, need.data, need.about)
        bulk.kept[str(need.locator)] = kept
        observer.count("noetl_orchestrate_drive_total", stage="context_offloaded")
        return
    observer.count("noetl_orchestrate_drive_total", stage="ref_resolved")
    ref = need.reference.ref
    try:
        bulk.values[ref] = await values.fetch(need.reference)
    except (InvalidError, LimitExceededError, LostDataError) as error:
        bulk.gone[ref] = str(error)


def by_reference(outcome: ToolOutcome, reference: Reference) -> ToolOutcome:
    """The outcome with what stands for its data."""
    return replace(
        outcome,
        data=Raw(encode_json(stub_of(reference))),
        reference=Raw(encode_json(reference)),
    )


def failure_of(error: NoetlError) -> ToolFailure:
    """What policies and arcs see of a store's answer (TL-RR-03, TL-RR-43)."""
    if isinstance(error, LimitExceededError):
        return ToolFailure(kind="limit", code=error.limit, message=str(error))
    if isinstance(error, ReferenceMissingError):
        kind = "missing_reference"
    elif isinstance(error, UnavailableError | LostDataError):
        kind = "io"
    else:
        kind = "configuration"
    return ToolFailure(
        kind=kind,
        code=error.code,
        message=str(error),
        retryable=not isinstance(error, LostDataError) and kind != "configuration",
    )


def _cut(helpers: Raw) -> Raw:
    """Long words beside the data, by their beginning."""
    words: dict[str, JSON] = decode_json(helpers)
    for name, word in words.items():
        encoded = encode_json(word)
        if len(encoded) > HELPER_BYTES_MAX:
            text = word if isinstance(word, str) else encoded.decode()
            words[name] = text[: HELPER_BYTES_MAX // 4] + "…"
    return Raw(encode_json(words))


def _is_claim(iteration: str) -> bool:
    return iteration.startswith("f") and "r" not in iteration


def _claim_too_large(outcome: ToolOutcome, budget: int) -> ToolOutcome:
    failure = ToolFailure(
        kind="limit",
        code="claim_bytes",
        message=f"the claim gave {len(outcome.data):,} bytes of rows, at most "
        f"{budget:,} are taken: claim fewer rows per frame, or fewer columns",
    )
    return ToolOutcome(failed=True, error=failure, duration_ms=outcome.duration_ms)
