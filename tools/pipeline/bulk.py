"""Values outside the log, fetched when a text of a command asks for them.

A text that needs more of a stored result than its summary shows is evaluated again
once the value is there; small fields cost no download (TL-RR-40).
"""

from __future__ import annotations

from typing import NoReturn

from state_builder.errors import (
    LostDataError,
    NoetlError,
    ReferenceMissingError,
    UnavailableError,
)
from state_builder.records import Reference, ToolFailure
from state_builder.values import ValueStore
from tools.errors import ToolCallError

_KINDS: dict[type[NoetlError], tuple[str, bool]] = {
    ReferenceMissingError: ("missing_reference", True),
    LostDataError: ("io", False),
    UnavailableError: ("io", True),
}


async def fetch(values: ValueStore, reference: Reference) -> bytes:
    """The JSON behind a reference. Raises ToolCallError and LimitExceededError."""
    try:
        return await values.fetch(reference)
    except (ReferenceMissingError, LostDataError, UnavailableError) as error:
        _fail(error)


def _fail(error: NoetlError) -> NoReturn:
    """What policies see of it (TL-RR-43)."""
    kind, retryable = next(
        found for one, found in _KINDS.items() if isinstance(error, one)
    )
    raise ToolCallError(
        ToolFailure(kind=kind, code=error.code, message=str(error), retryable=retryable)
    ) from error
