"""Credential records: what may be stored, sealing it, and opening it again (SC-CR)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, cast

from msgspec import Raw
from msgspec.json import decode as decode_json

from noetl_worker.wallet.envelope import binding, seal, unseal, wipe
from noetl_worker.wallet.keys import Keyring
from state_builder.credentials import Credential, CredentialInfo, NewCredential
from state_builder.errors import (
    ConflictError,
    DamagedError,
    InvalidError,
    LimitExceededError,
    NotFoundError,
)
from state_builder.ports import Clock
from state_builder.records import JSON, encode_json
from state_builder.sealed import CredentialRow, SealedRows

DATA_BYTES_MAX: Final = 256 * 1024
"""Of one record (SC-CR-04)."""

SAVES_MAX: Final = 3
"""Tries when somebody creates the same name at the same time."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.\-/]{1,128}")
_NULL: Final = Raw(b"null")

TYPES: Final = {
    "postgresql": "postgres",
    "bearer_token": "bearer",
    "hmac": "gcs_hmac",
    "gcs_service_account": "gcs",
    "service_account": "gcs",
    "s3": "aws",
}
"""Older spelling → canonical type (secrets.md §2)."""

_CHECKS: Final[dict[str, Callable[[JSON], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool)
    ),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
}


class Records:
    """Stored credentials."""

    def __init__(
        self, rows: SealedRows, keys: Keyring, clock: Clock, mint: Callable[[], str]
    ) -> None:
        self._rows = rows
        self._keys = keys
        self._clock = clock
        self._mint = mint

    async def save(self, new: NewCredential) -> tuple[CredentialInfo, bool]:
        """Create, or replace by name; was it created?

        Raises InvalidError naming the field.
        """
        data = checked(new)
        for _ in range(SAVES_MAX):
            known = await self._rows.credential(new.name)
            # A name of digits may be another record's id.
            known = known if known is not None and known.name == new.name else None
            credential_id = self._mint() if known is None else known.id
            bound_to = binding("credential", credential_id)
            now = datetime.fromtimestamp(self._clock.now(), UTC)
            row = CredentialRow(
                id=credential_id,
                name=new.name,
                type=TYPES.get(new.type.lower(), new.type.lower()),
                data_encrypted=await seal(data, bound_to, self._keys),
                created_at=now,
                updated_at=now,
                schema=_raw(new.schema),
                meta=_raw(new.meta),
                tags=new.tags,
                description=new.description,
            )
            stored = await self._rows.save_credential(row)
            if stored is not None:
                return info_of(stored), known is None
        raise ConflictError(f"credential '{new.name}' is being replaced by others")

    async def find(self, name: str) -> CredentialRow:
        """By id or name. Raises NotFoundError."""
        row = await self._rows.credential(name)
        if row is None:
            raise NotFoundError(f"credential '{name[:128]}' is not known")
        return row

    async def drop(self, name: str) -> str:
        """Delete by id or name; the id. Raises NotFoundError."""
        row = await self.find(name)
        if not await self._rows.drop_credential(row.id):
            raise NotFoundError(f"credential '{name[:128]}' is not known")
        return row.id

    async def open(self, row: CredentialRow) -> Credential:
        """The values. Raises DamagedError naming the credential."""
        fields = await opened(
            row.data_encrypted, binding("credential", row.id), self._keys, row.name
        )
        version = f"{row.id}.{row.updated_at.timestamp():.6f}"
        return Credential(row.name, row.type, fields, version=version)


async def opened(
    text: str, bound_to: bytes, keys: Keyring, name: str
) -> dict[str, JSON]:
    """The fields in an envelope. Raises DamagedError naming whose they are."""
    try:
        plaintext = await unseal(text, bound_to, keys)
    except DamagedError as error:
        raise DamagedError(f"credential '{name}': {error}") from error
    try:
        return cast("dict[str, JSON]", decode_json(plaintext))
    finally:
        wipe(plaintext)


def info_of(row: CredentialRow) -> CredentialInfo:
    """A row without its data."""
    return CredentialInfo(
        id=row.id,
        name=row.name,
        type=row.type,
        meta=row.meta or _NULL,
        tags=row.tags,
        description=row.description,
        schema=row.schema or _NULL,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def checked(new: NewCredential) -> bytes:
    """The data as JSON. Raises InvalidError naming the field, never its value."""
    if not _NAME.fullmatch(new.name):
        raise InvalidError(
            "name: use letters, digits and _ . - / only, 1 to 128 of them"
        )
    if not new.type:
        raise InvalidError("type is required")
    if not isinstance(new.data, dict):
        raise InvalidError("data must be an object")
    data = encode_json(new.data)
    if len(data) > DATA_BYTES_MAX:
        raise LimitExceededError(
            "credential_bytes_max",
            f"data has {len(data):,} bytes, at most {DATA_BYTES_MAX:,} are allowed",
        )
    check_schema(new.data, new.schema)
    return data


def check_schema(data: dict[str, JSON], schema: JSON) -> None:
    """Required fields and types. Raises InvalidError naming the field (SC-CR-04)."""
    if schema is None:
        return
    if not isinstance(schema, dict):
        raise InvalidError("schema must be an object {fields, required, types}")
    required, types = schema.get("required") or [], schema.get("types") or {}
    if not isinstance(required, list) or not isinstance(types, dict):
        raise InvalidError("schema: required must be a list, types an object")
    for name in required:
        if data.get(str(name)) in (None, ""):
            raise InvalidError(f"data.{name} is required by the schema")
    for name, kind in types.items():
        check = _CHECKS.get(str(kind))
        if check is None:
            raise InvalidError(f"schema.types.{name}: use one of {', '.join(_CHECKS)}")
        if data.get(name) is not None and not check(data[name]):
            raise InvalidError(f"data.{name} must be of type {kind}")


def _raw(value: JSON) -> Raw | None:
    return None if value is None else Raw(encode_json(value))
