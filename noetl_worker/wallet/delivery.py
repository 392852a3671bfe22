"""Sealed delivery: what only the asking worker can read (SC-SE).

A worker makes a key pair when it starts and keeps the private half in memory. Version 2
binds a message to its use: both public keys, worker, alias and execution (SC-SE-03).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct, ValidationError, convert

from state_builder.errors import DamagedError, InvalidError
from state_builder.records import JSON, encode_json

ALGORITHM: Final = "x25519-hkdf-sha256-chacha20-poly1305"
INFO: Final = {1: b"noetl-sealed-v1", 2: b"noetl-sealed-v2"}
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class Use(NamedTuple):
    """What a sealed message is for; all of it is bound in version 2."""

    worker_id: str
    alias: str
    execution_id: str


class Sealed(Struct, frozen=True):
    """The message on the wire (SC-SE-02)."""

    alg: str
    v: int
    eph_pub: str
    ciphertext: str


class WorkerKey:
    """One worker's key pair; it lives as long as the process."""

    def __init__(self, private: X25519PrivateKey | None = None) -> None:
        self._private = private or X25519PrivateKey.generate()
        self.public = b64encode(_raw(self._private.public_key())).decode()

    def unseal(self, message: object, use: Use) -> bytearray:
        """The value; wipe it after use. Raises DamagedError."""
        try:
            sealed = convert(message, Sealed)
        except ValidationError as error:
            raise DamagedError("the server's answer is not sealed") from error
        if sealed.alg != ALGORITHM or sealed.v not in INFO:
            raise DamagedError(
                f"sealed with {sealed.alg[:50]!r} version {sealed.v}, "
                f"this build reads {ALGORITHM} versions 1 and 2"
            )
        ephemeral = _public(sealed.eph_pub)
        cipher, nonce, aad = _cipher(
            self._private, ephemeral, (ephemeral, _public(self.public)), sealed.v, use
        )
        try:
            text = b64decode(sealed.ciphertext, validate=True)
            return bytearray(cipher.decrypt(nonce, text, aad))
        except (InvalidTag, Base64Error, ValueError) as error:
            raise DamagedError(
                "the sealed answer cannot be opened: it is damaged, or for another "
                "worker, alias or execution"
            ) from error


def seal(plaintext: bytes, public_key: str, use: Use, version: int) -> dict[str, JSON]:
    """A message for the worker with that key; a new ephemeral key for each.

    Raises InvalidError for a key that is none, or of low order.
    """
    receiver = _public(public_key)
    ephemeral = X25519PrivateKey.generate()
    return seal_with(ephemeral, plaintext, receiver, use, version)


def seal_with(
    ephemeral: X25519PrivateKey,
    plaintext: bytes,
    receiver: X25519PublicKey,
    use: Use,
    version: int,
) -> dict[str, JSON]:
    """As :func:`seal`, with a given ephemeral key."""
    if version not in INFO:
        raise InvalidError(f"sealed version {version}: use 1 or 2")
    public = ephemeral.public_key()
    cipher, nonce, aad = _cipher(ephemeral, receiver, (public, receiver), version, use)
    return {
        "alg": ALGORITHM,
        "v": version,
        "eph_pub": b64encode(_raw(public)).decode(),
        "ciphertext": b64encode(cipher.encrypt(nonce, plaintext, aad)).decode(),
    }


def _cipher(
    own: X25519PrivateKey,
    other: X25519PublicKey,
    pair: tuple[X25519PublicKey, X25519PublicKey],
    version: int,
    use: Use,
) -> tuple[ChaCha20Poly1305, bytes, bytes]:
    """Cipher, nonce and bound data; ``pair`` is the ephemeral and the worker's key."""
    try:
        shared = own.exchange(other)
    except ValueError as error:
        # All-zero: the other side's key is a point of low order (SC-SE-02).
        raise InvalidError("the public key is of low order") from error
    info, aad = INFO[version], f"{ALGORITHM}|v={version}".encode()
    if version > 1:
        bound = _raw(pair[0]) + _raw(pair[1]) + encode_json(list(use))
        info, aad = info + bound, aad + bound
    length = KEY_BYTES + NONCE_BYTES
    derived = HKDF(algorithm=SHA256(), length=length, salt=None, info=info)
    material = derived.derive(shared)
    return ChaCha20Poly1305(material[:KEY_BYTES]), material[KEY_BYTES:], aad


def _public(text: str) -> X25519PublicKey:
    try:
        return X25519PublicKey.from_public_bytes(b64decode(text, validate=True))
    except (Base64Error, ValueError) as error:
        raise InvalidError(
            f"worker_public_key: base64 of {KEY_BYTES} bytes is needed"
        ) from error


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes_raw()
