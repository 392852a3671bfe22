"""Results put and read over HTTP: bytes in the store, rows as their index (RT-RES)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from msgspec import Struct

from noetl_worker.server.ports import ServerPorts
from state_builder.errors import InvalidError, NotFoundError
from state_builder.ids import digest_of
from state_builder.locator import LegacyLocator, Locator, parse
from state_builder.records import JSON, Reference, decode_reference, encode_json
from state_builder.values import OpenObject, ResultRow, StoredObject

SCOPES: Final = ("step", "execution", "workflow", "permanent")


class Placed(Struct, kw_only=True):
    """Answer of a put (RT-RES-1)."""

    ref: str
    store: str
    scope: str
    bytes: int
    sha256: str
    expires_at: str | None = None


class Listed(Struct, kw_only=True):
    """One line of RT-RES-3's list."""

    ref: str
    name: str
    step: str | None
    scope: str
    store: str
    bytes: int
    sha256: str


class Wished(Struct, kw_only=True):
    """What to put."""

    name: str
    data: JSON
    scope: str
    source_step: str | None
    ttl_s: float | None
    idempotency_key: str | None
    tier: str


class StoredResults:
    """What the result routes do."""

    def __init__(self, ports: ServerPorts) -> None:
        self._ports = ports

    async def put(self, execution_id: str, wished: Wished) -> Placed:
        """Store bytes, then their row; a key seen before answers its first row."""
        if wished.scope not in SCOPES:
            raise InvalidError(f"scope must be one of {', '.join(SCOPES)}")
        # Sorted keys: the digest is of the value, not of how it was written.
        data = encode_json(_canonical(wished.data))
        result_id = self._ports.ids.mint()
        ref = str(LegacyLocator(execution_id, wished.name, result_id))
        parse(ref)
        locator = Locator("puts", (execution_id, result_id), digest_of(data))
        about = {"scope": wished.scope, "tier": wished.tier}
        kept = await self._ports.values.keep(locator, data, about)
        expires_at = None
        if wished.ttl_s is not None:
            now = datetime.fromtimestamp(self._ports.clock.now(), UTC)
            expires_at = now + timedelta(seconds=wished.ttl_s)
        row = await self._ports.result_rows.add(
            ResultRow(
                result_id=result_id,
                execution_id=execution_id,
                name=wished.name,
                object_key=kept.ref,
                bytes=len(data),
                sha256=sha256(data).hexdigest(),
                scope=wished.scope,
                source_step=wished.source_step,
                idempotency_key=wished.idempotency_key,
                expires_at=expires_at,
            )
        )
        return _placed(row, kept.store)

    async def resolve(self, ref: str, *, as_stored: bool = False) -> OpenObject:
        """Begin to read what either form of reference names (RT-RES-2).

        ``as_stored`` is for those who decide again from it.

        Raises:
            InvalidError: no reference.
            NotFoundError: unknown, expired or gone.
        """
        locator = parse(ref)
        if isinstance(locator, LegacyLocator):
            row = await self._ports.result_rows.find(
                locator.execution_id, locator.result_id
            )
            if row is None or row.name != locator.name:
                raise NotFoundError(f"no result {ref}")
            ref = row.object_key
        if as_stored:
            data = await self._ports.values.fetch(Reference(ref=ref))
            return OpenObject(StoredObject(ref, len(data), "", {}), _one(data))
        return await self._ports.values.open(ref)

    async def of_step(self, execution_id: str, step: str) -> OpenObject:
        """The newest result of a step, put or stored by its worker."""
        rows = await self._ports.result_rows.listed(execution_id, step=step)
        if rows:
            return await self._ports.values.open(rows[-1].object_key)
        for found in reversed(await self._ports.result_rows.references(execution_id)):
            if found.step == step:
                return await self.resolve(decode_reference(found.reference).ref)
        raise NotFoundError(f"execution {execution_id} has no result of step '{step}'")

    async def listed(self, execution_id: str, scope: str, step: str) -> list[Listed]:
        """Every reference of an execution."""
        rows = await self._ports.result_rows.listed(
            execution_id, scope=scope, step=step
        )
        found = [
            Listed(
                ref=_ref(row),
                name=row.name,
                step=row.source_step,
                scope=row.scope,
                store="",
                bytes=row.bytes,
                sha256=row.sha256,
            )
            for row in rows
        ]
        for named in await self._ports.result_rows.references(execution_id):
            reference = decode_reference(named.reference)
            if scope in ("", reference.scope) and step in ("", named.step):
                found.append(_listed(named.step, reference))
        return found

    async def drop(self, execution_id: str, scope: str = "", step: str = "") -> int:
        """Remove what was put; how many."""
        rows = await self._ports.result_rows.drop(execution_id, scope=scope, step=step)
        for row in rows:
            await self._ports.values.drop(row.object_key)
        return len(rows)

    async def put_object(self, key: str, data: bytes) -> dict[str, JSON]:
        """An opaque blob under a key; the same key again replaces."""
        kept = await self._ports.values.keep(Locator("objects", (key,)), data, {})
        return {"key": key, "digest": kept.meta.sha256, "bytes": kept.meta.bytes}

    async def object(self, key: str) -> OpenObject:
        """Begin to read a blob. Raises NotFoundError."""
        return await self._ports.values.open(str(Locator("objects", (key,))))


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _canonical(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {key: _canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    return value


def _ref(row: ResultRow) -> str:
    return str(LegacyLocator(row.execution_id, row.name, row.result_id))


def _placed(row: ResultRow, store: str) -> Placed:
    return Placed(
        ref=_ref(row),
        store=store,
        scope=row.scope,
        bytes=row.bytes,
        sha256=row.sha256,
        expires_at=None if row.expires_at is None else row.expires_at.isoformat(),
    )


def _listed(step: str, reference: Reference) -> Listed:
    return Listed(
        ref=reference.ref,
        name=step,
        step=step,
        scope=reference.scope,
        store=reference.store,
        bytes=reference.meta.bytes,
        sha256=reference.meta.sha256,
    )


def seconds_of(ttl: JSON) -> float | None:
    """``ttl`` as seconds: a number, or ``30s``, ``5m``, ``2h``, ``7d``."""
    if ttl is None:
        return None
    if isinstance(ttl, int | float) and not isinstance(ttl, bool) and ttl > 0:
        return float(ttl)
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    text = str(ttl).strip()
    if text[-1:] in units and text[:-1].isdecimal() and int(text[:-1]):
        return float(int(text[:-1]) * units[text[-1]])
    raise InvalidError(f"ttl {ttl!r}: use seconds, or a number with s, m, h or d")
