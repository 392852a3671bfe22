"""Values as steps ask for them by name: ``artifact`` and ``result_fetch``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from msgspec.json import decode as decode_json

from noetl_worker.results.values import BYTES_FORM, Values
from state_builder.errors import (
    InvalidError,
    LimitExceededError,
    LostDataError,
    NoetlError,
    ReferenceMissingError,
    RefusedError,
    UnavailableError,
)
from state_builder.locator import PROJECT, TENANT, Locator, data_locator, parse, safe
from state_builder.records import JSON, Reference, ToolFailure
from state_builder.values import OpenObject
from tools.contract import CallContext
from tools.errors import ToolCallError

SCOPES = frozenset(("step", "execution", "workflow", "permanent"))

_FAILURES: tuple[tuple[type[NoetlError], str, str, bool], ...] = (
    (ReferenceMissingError, "missing_reference", "REFERENCE_NOT_AVAILABLE", True),
    (LimitExceededError, "limit", "", False),
    (RefusedError, "auth", "auth", False),
    (InvalidError, "configuration", "configuration", False),
    (LostDataError, "io", "LOST", False),
    (UnavailableError, "io", "UNAVAILABLE", True),
)
"""What a store answers → kind, code and if it is worth another try (TL-ERR-02)."""


class StepValues:
    """The port :class:`tools.contract.Values` on the fleet's own store.

    ``mint`` gives an id that nobody had before.
    """

    def __init__(self, values: Values, mint: Callable[[], str]) -> None:
        self._values = values
        self._mint = mint

    async def read(self, call: CallContext, ref: str) -> JSON | bytes:
        """See the port."""
        try:
            _check_owner(ref)
            data, is_json = await self._values.read(ref)
        except NoetlError as error:
            raise _failure(error) from error
        if not is_json:
            return data
        found: JSON = decode_json(data)
        return found

    async def open(self, call: CallContext, ref: str) -> OpenObject:
        """See the port."""
        try:
            _check_owner(ref)
            opened = await self._values.open(ref)
        except NoetlError as error:
            raise _failure(error) from error
        return opened._replace(chunks=_told(opened.chunks))

    async def stream(
        self,
        call: CallContext,
        name: str,
        chunks: AsyncIterator[bytes],
        about: Mapping[str, str],
    ) -> dict[str, JSON]:
        """See the port."""
        # Its content is not known yet, so the name has an id instead: a call that is
        # repeated never writes over what an earlier one has told of.
        path = (call.execution_id, safe(name), safe(call.key))
        locator = Locator("bodies", path, self._mint())
        about = {
            "form": BYTES_FORM,
            "media_type": "application/octet-stream",
            "scope": _checked_scope(about.get("scope", "execution")),
            "content_type": about.get("content_type", ""),
        }
        try:
            kept = await self._values.keep_stream(locator, chunks, about)
        except ToolCallError:
            raise
        except NoetlError as error:
            raise _failure(error) from error
        return {**_described(kept), "content_type": kept.meta.content_type}

    async def write(
        self, call: CallContext, name: str, data: bytes, scope: str
    ) -> dict[str, JSON]:
        """Store JSON under a name that its content is part of."""
        about = {"scope": _checked_scope(scope)}
        try:
            locator = data_locator("artifacts", call.execution_id, name, data)
            kept = await self._values.keep(locator, data, about)
        except NoetlError as error:
            raise _failure(error) from error
        return _described(kept)


def _checked_scope(scope: str) -> str:
    if scope not in SCOPES:
        text = f"scope must be one of {', '.join(sorted(SCOPES))}, got '{scope}'"
        raise ToolCallError(ToolFailure(kind="configuration", message=text))
    return scope


def _described(kept: Reference) -> dict[str, JSON]:
    return {
        "ref": kept.ref,
        "uri": kept.uri,
        "store": kept.store,
        "bytes": kept.meta.bytes,
        "sha256": kept.meta.sha256,
    }


async def _told(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except NoetlError as error:
        raise _failure(error) from error


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
            if isinstance(error, LimitExceededError):
                code = error.limit
            return ToolCallError(
                ToolFailure(
                    kind=name, code=code, message=str(error), retryable=retryable
                )
            )
    raise error
