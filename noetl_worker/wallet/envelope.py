"""Envelopes: a value under a key of its own, that key wrapped by the big one (SC-EN).

The JSON of an envelope is what a row holds. Payload and wrapped key are bound to the
row's table and key, so a blob moved to another row does not open (SC-EN-02).
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import DecodeError, Struct, ValidationError
from msgspec.json import Decoder
from msgspec.structs import replace

from state_builder.errors import DamagedError
from state_builder.records import encode_json
from state_builder.sealed import Table

VERSION: Final = 1
ALGORITHM: Final = "AES-256-GCM"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class WrappedKey(Struct, frozen=True):
    """A data key as a provider wrapped it: provider, key id, key version, text."""

    p: str
    kid: str
    kv: str
    ct: str


class Envelope(Struct, frozen=True, omit_defaults=True):
    """What is stored (SC-EN-01); ``aad`` 0 is an old one, bound to nothing."""

    v: int
    alg: str
    ct: str
    dek: WrappedKey
    aad: int = 0


class KeyWrapper(Protocol):
    """Who wraps data keys (SC-EN-05)."""

    async def wrap(self, dek: bytes, aad: bytes) -> WrappedKey:
        """With the current version of the key."""

    async def unwrap(self, wrapped: WrappedKey, aad: bytes) -> bytearray:
        """The data key. Raises DamagedError."""


_decode = Decoder(Envelope).decode


def binding(table: Table, key: str) -> bytes:
    """What an envelope of that row is bound to."""
    return f"{table}|{key}|v1".encode()


async def seal(plaintext: bytes, bound_to: bytes, keys: KeyWrapper) -> str:
    """A fresh data key and nonce for every write (SC-EN-01)."""
    dek = bytearray(os.urandom(KEY_BYTES))
    try:
        sealed = _encrypt(dek, plaintext, bound_to)
        wrapped = await keys.wrap(bytes(dek), bound_to)
    finally:
        wipe(dek)
    envelope = Envelope(VERSION, ALGORITHM, _text(sealed), wrapped, 1)
    return encode_json(envelope).decode()


async def unseal(text: str, bound_to: bytes, keys: KeyWrapper) -> bytearray:
    """The value; wipe it after use. Raises DamagedError."""
    envelope = parse(text)
    aad = bound_to if envelope.aad else b""
    dek = await keys.unwrap(envelope.dek, aad)
    try:
        return bytearray(_decrypt(dek, unpack(envelope.ct), aad))
    finally:
        wipe(dek)


async def rewrap(text: str, bound_to: bytes, keys: KeyWrapper) -> str:
    """The same payload bytes, their key wrapped anew (SC-RO-01). Raises DamagedError.

    An old envelope keeps being bound to nothing: its payload is not touched.
    """
    envelope = parse(text)
    aad = bound_to if envelope.aad else b""
    dek = await keys.unwrap(envelope.dek, aad)
    try:
        wrapped = await keys.wrap(bytes(dek), aad)
    finally:
        wipe(dek)
    return encode_json(replace(envelope, dek=wrapped)).decode()


def parse(text: str) -> Envelope:
    """An envelope of this version. Raises DamagedError (SC-EN-07)."""
    try:
        envelope = _decode(text)
    except (ValidationError, DecodeError) as error:
        raise DamagedError("what is stored is no envelope") from error
    if envelope.v != VERSION or envelope.alg != ALGORITHM:
        raise DamagedError(
            f"envelope of version {envelope.v}, {envelope.alg[:20]}: "
            f"this build reads version {VERSION}, {ALGORITHM}"
        )
    return envelope


def wrap_locally(kek: bytes, dek: bytes, aad: bytes) -> str:
    """A data key under a key of our own: nonce, then the sealed key."""
    return _text(_encrypt(kek, dek, aad))


def unwrap_locally(kek: bytes, wrapped: str, aad: bytes) -> bytearray:
    """The data key. Raises DamagedError."""
    return bytearray(_decrypt(kek, unpack(wrapped), aad))


def unpack(text: str) -> bytes:
    """Base64 of an envelope. Raises DamagedError."""
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise DamagedError("what is stored is no envelope: bad base64") from error


def wipe(buffer: bytearray) -> None:
    """Overwrite, as far as Python lets us (SC-EN-08)."""
    buffer[:] = bytes(len(buffer))


def _encrypt(key: bytes | bytearray, plaintext: bytes, aad: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(bytes(key)).encrypt(nonce, plaintext, aad)


def _decrypt(key: bytes | bytearray, sealed: bytes, aad: bytes) -> bytes:
    if len(sealed) <= NONCE_BYTES:
        raise DamagedError("what is stored is cut short")
    nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return AESGCM(bytes(key)).decrypt(nonce, text, aad)
    except InvalidTag as error:
        raise DamagedError(
            "cannot be decrypted: it is damaged, belongs to another row, or was "
            "sealed with another key; save it again, or give that key"
        ) from error


def _text(data: bytes) -> str:
    return b64encode(data).decode()
