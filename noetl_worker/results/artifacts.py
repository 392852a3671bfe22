"""Values as steps ask for them by name: ``artifact`` and ``result_fetch``."""

from __future__ import annotations

from msgspec.json import decode as decode_json

from noetl_worker.results.values import Values
from state_builder.errors import (
    InvalidError,
    LimitExceededError,
    LostDataError,
    NoetlError,
    ReferenceMissingError,
    RefusedError,
    UnavailableError,
)
from state_builder.locator import PROJECT, TENANT, Locator, data_locator, parse
from state_builder.records import JSON, Reference, ToolFailure
from tools.contract import CallContext
from tools.errors import ToolCallError

SCOPES = frozenset(("step", "execution", "workflow", "permanent"))

_FAILURES: tuple[tuple[type[NoetlError], str, str, bool], ...] = (
    (ReferenceMissingError, "missing_reference", "REFERENCE_NOT_AVAILABLE", True),
    (LimitExceededError, "limit", "result_bytes_max", False),
    (RefusedError, "auth", "auth", False),
    (InvalidError, "configuration", "configuration", False),
    (LostDataError, "io", "LOST", False),
    (UnavailableError, "io", "UNAVAILABLE", True),
)
"""What a store answers → kind, code and if it is worth another try (TL-ERR-02)."""


class StepValues:
    """The port :class:`tools.contract.Values` on the fleet's own store."""

    def __init__(self, values: Values) -> None:
        self._values = values

    async def read(self, call: CallContext, ref: str) -> JSON:
        """The data as it was stored."""
        try:
            _check_owner(ref)
            found: JSON = decode_json(await self._values.fetch(Reference(ref=ref)))
        except NoetlError as error:
            raise _failure(error) from error
        return found

    async def write(
        self, call: CallContext, name: str, data: bytes, scope: str
    ) -> dict[str, JSON]:
        """Store JSON under a name that its content is part of."""
        if scope not in SCOPES:
            text = f"scope must be one of {', '.join(sorted(SCOPES))}, got '{scope}'"
            raise ToolCallError(ToolFailure(kind="configuration", message=text))
        try:
            locator = data_locator("artifacts", call.execution_id, name, data)
            kept = await self._values.keep(locator, data, {"scope": scope})
        except NoetlError as error:
            raise _failure(error) from error
        return {
            "ref": kept.ref,
            "uri": kept.uri,
            "store": kept.store,
            "bytes": kept.meta.bytes,
            "sha256": kept.meta.sha256,
        }


def _check_owner(ref: str) -> None:
    """Other executions' data is read within the tenant and project (TL-AR-05)."""
    locator = parse(ref)
    if isinstance(locator, Locator):
        owner = (locator.tenant, locator.project)
        if owner != (TENANT, PROJECT):
            raise RefusedError(f"{ref} belongs to {'/'.join(owner)}")


def _failure(error: NoetlError) -> ToolCallError:
    for kind, name, code, retryable in _FAILURES:
        if isinstance(error, kind):
            return ToolCallError(
                ToolFailure(
                    kind=name, code=code, message=str(error), retryable=retryable
                )
            )
    raise error
