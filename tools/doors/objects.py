"""The way to object stores: S3 and Google Cloud Storage, with a step's own credential.

What the worker's surroundings would offer (environment, instance roles) is never used:
a step reaches what its credential gives, and without one it is refused (TL-PG-16).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import obstore
from msgspec import DecodeError
from msgspec.json import decode as decode_json
from obstore.exceptions import BaseError, NotFoundError, UnauthenticatedError
from obstore.exceptions import PermissionDeniedError as DeniedError
from obstore.store import GCSStore, S3Store

from state_builder.records import JSON, ToolFailure, encode_json
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, first_of, text_of, wrong

SCHEMES: Final = {"s3": "s3", "gs": "gcs"}
"""Scheme of an address → kind."""

STORE_ERRORS: Final = (BaseError, OSError)
"""What the library raises: its own tree, and Python's where there is such an error."""

PART_BYTES: Final = 8 * 1024 * 1024
PIECE_BYTES: Final = 1024 * 1024

RETRIES: Final[Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}

_ADDRESS: Final = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]{1,254})/(.+)")


class Place(NamedTuple):
    """One object."""

    scheme: str
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """Its address."""
        return f"{self.scheme}://{self.bucket}/{self.key}"


def place_of(uri: str, field: str) -> Place:
    """An address ``s3://bucket/key`` or ``gs://bucket/key``.

    Raises ToolCallError of ``configuration``, also for keys that climb.
    """
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise configuration(f"{field}: '{uri[:200]}' is no s3:// or gs:// address")
    key = found.group(3)
    if {"", ".", ".."} & set(key.split("/")) or any(ord(one) < 32 for one in key):
        raise configuration(f"{field}: '{key[:200]}' is no key of an object")
    return Place(found.group(1), found.group(2), key)


def access_of(scheme: str, config: Fields) -> Fields:
    """What opens a store, out of the fields of a credential, canonical.

    Raises ToolCallError of ``configuration`` where there is none (TL-OS-04).
    """
    auth = config.get("auth")
    given = {**(auth if isinstance(auth, dict) else {}), **config}
    endpoint = text_of(given, "endpoint") or ""
    if scheme == "s3":
        return {"endpoint": endpoint, **_s3_access(given)}
    return {"endpoint": endpoint, **_gcs_access(given)}


def _s3_access(given: Fields) -> Fields:
    _, key = first_of(given, ("access_key_id", "key_id", "aws_access_key_id"))
    _, secret = first_of(
        given, ("secret_access_key", "secret_key", "aws_secret_access_key")
    )
    if not key or not secret:
        raise configuration(
            "s3 needs access_key_id and secret_access_key, best in a credential of "
            "type aws"
        )
    return {
        "access_key_id": str(key),
        "secret_access_key": str(secret),
        "session_token": text_of(given, "session_token"),
        "region": text_of(given, "region") or "us-east-1",
    }


def _gcs_access(given: Fields) -> Fields:
    _, account = first_of(given, ("service_account_json", "service_account"))
    if isinstance(account, str):
        try:
            account = decode_json(account)
        except DecodeError as error:
            raise configuration("service_account_json is no JSON") from error
    if account is None and given.get("private_key") and given.get("client_email"):
        account = {
            key: given.get(key) for key in ("client_email", "private_key", "token_uri")
        }
    if not isinstance(account, dict):
        raise configuration(
            "gcs needs service_account_json, best in a credential of type gcs"
        )
    return {"service_account": account}


async def put(
    place: Place,
    access: Fields,
    data: bytes | Path | AsyncIterator[bytes],
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Store an object, in parts where it is large; all of it, or nothing.

    Raises ToolCallError, and what ``data`` raises.
    """
    try:
        await obstore.put_async(
            _opened(place, access),
            place.key,
            data,
            attributes=dict(attributes or {}),
            chunk_size=PART_BYTES,
        )
    except STORE_ERRORS as error:
        raise _failure(error, place) from error


async def read(place: Place, access: Fields) -> AsyncIterator[bytes]:
    """The bytes, piece by piece. Raises as :func:`get` does, without its limit."""
    try:
        found = await obstore.get_async(_opened(place, access), place.key)
        async for piece in found.stream(min_chunk_size=PIECE_BYTES):
            yield bytes(piece)
    except STORE_ERRORS as error:
        raise _failure(error, place) from error


async def get(place: Place, access: Fields, bytes_max: int) -> bytes:
    """The bytes. Raises ToolCallError, ``missing_reference`` when it is gone."""
    try:
        found = await obstore.get_async(_opened(place, access), place.key)
        size = found.meta["size"]
        if size > bytes_max:
            text = f"{place.uri} has {size:,} bytes, at most {bytes_max:,} fit"
            failure = ToolFailure(kind="limit", code="result_bytes_max", message=text)
            raise ToolCallError(failure)
        return bytes(await found.bytes_async())
    except STORE_ERRORS as error:
        raise _failure(error, place) from error


def _opened(place: Place, access: Fields) -> Any:
    endpoint = str(access["endpoint"])
    options: Any = {"allow_http": endpoint.startswith("http://"), "timeout": "60s"}
    if place.scheme == "s3":
        keys: Any = {
            "access_key_id": access["access_key_id"],
            "secret_access_key": access["secret_access_key"],
            "token": access["session_token"],
            "expires_at": None,
        }
        region = str(access["region"])
        return S3Store(
            place.bucket,
            # Whole, so that no part of it comes from the environment.
            credential_provider=lambda: keys,
            region=region,
            endpoint=endpoint or f"https://s3.{region}.amazonaws.com",
            virtual_hosted_style_request=False,
            client_options=options,
            retry_config=RETRIES,
        )
    account = access["service_account"]
    assert isinstance(account, dict)
    if endpoint:
        account = {**account, "gcs_base_url": endpoint}
    try:
        return GCSStore(
            place.bucket,
            service_account_key=encode_json(account).decode(),
            client_options=options,
            retry_config=RETRIES,
        )
    except BaseError as error:
        raise wrong("service_account_json", None, "a service account") from error


def _failure(error: Exception, place: Place) -> ToolCallError:
    """Of the store's answer; what it says of keys and tokens is cut off."""
    text = " ".join(str(error).split("Debug source")[0].split())[:500]
    text = f"{place.uri}: {text}"
    if isinstance(error, NotFoundError | FileNotFoundError):
        return _tool_error("missing_reference", "REFERENCE_NOT_AVAILABLE", text)
    if isinstance(error, DeniedError | UnauthenticatedError | PermissionError):
        return _tool_error("auth", "auth", text)
    lowered = text.lower()
    if "403" in lowered or "401" in lowered:
        return _tool_error("auth", "auth", text)
    kind: JSON = "connection" if "sending request" in lowered else "io"
    return _tool_error(str(kind), "", text, retryable=True)


def _tool_error(
    kind: str, code: str, text: str, *, retryable: bool = False
) -> ToolCallError:
    return ToolCallError(
        ToolFailure(kind=kind, code=code, message=text, retryable=retryable)
    )
