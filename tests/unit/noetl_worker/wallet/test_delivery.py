"""Sealed messages open for one worker and one use (SC-SE)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from noetl_worker.wallet.delivery import ALGORITHM, Use, WorkerKey, seal, seal_with
from state_builder.errors import DamagedError, InvalidError

USE = Use("w1", "db", "7001")
SCALAR_A = "77076d0a7318a57d3c16c17251b26645c6db4c2a5a7ff2b5a3a5c1e5a6a5a5a5"
SCALAR_B = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
"""The second is Bob's private key of RFC 7748, section 6.1."""


def fixed(scalar: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(scalar))


@pytest.mark.parametrize("version", [1, 2])
def test_what_was_sealed_opens_as_it_was(version: int) -> None:
    """SC-SE-02, SC-SE-03: receivers take both versions."""
    worker = WorkerKey()
    message = seal(b"marker", worker.public, USE, version)
    assert message.keys() == {"alg", "v", "eph_pub", "ciphertext"}
    assert (message["alg"], message["v"]) == (ALGORITHM, version)
    assert bytes(worker.unseal(message, USE)) == b"marker"


def test_a_message_of_version_1_is_the_one_other_workers_make() -> None:
    """SC-TE-02: a vector with fixed keys, worked out with another library's HKDF."""
    from hashlib import sha256
    from hmac import digest

    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    ephemeral, receiver = fixed(SCALAR_A), fixed(SCALAR_B)
    message = seal_with(ephemeral, b"marker", receiver.public_key(), USE, 1)
    shared = receiver.exchange(ephemeral.public_key())
    prk = digest(b"\0" * 32, shared, sha256)
    first = digest(prk, b"noetl-sealed-v1" + b"\1", sha256)
    second = digest(prk, first + b"noetl-sealed-v1" + b"\2", sha256)
    material = (first + second)[:44]
    aad = b"x25519-hkdf-sha256-chacha20-poly1305|v=1"
    wanted = ChaCha20Poly1305(material[:32]).encrypt(material[32:], b"marker", aad)
    assert b64decode(str(message["ciphertext"])) == wanted
    public = ephemeral.public_key().public_bytes_raw()
    assert b64decode(str(message["eph_pub"])) == public


def test_every_message_has_a_key_of_its_own() -> None:
    """SC-SE-02: one ephemeral key per message."""
    worker = WorkerKey()
    messages = [seal(b"marker", worker.public, USE, 2) for _ in range(2)]
    assert messages[0]["eph_pub"] != messages[1]["eph_pub"]


def test_another_worker_cannot_open_it() -> None:
    """SC-TE-02."""
    message = seal(b"marker", WorkerKey().public, USE, 2)
    with pytest.raises(DamagedError, match="for another worker"):
        WorkerKey().unseal(message, USE)


@pytest.mark.parametrize("field", Use._fields)
def test_version_2_is_bound_to_its_use(field: str) -> None:
    """SC-SE-03: worker, alias and execution."""
    worker = WorkerKey()
    message = seal(b"marker", worker.public, USE, 2)
    with pytest.raises(DamagedError):
        worker.unseal(message, USE._replace(**{field: "other"}))


def test_bound_texts_cannot_run_into_each_other() -> None:
    worker = WorkerKey()
    message = seal(b"marker", worker.public, Use("w1", "db7", "001"), 2)
    with pytest.raises(DamagedError):
        worker.unseal(message, Use("w1", "db", "7001"))


LOW_ORDER = [b"\0" * 32, b"\1" + b"\0" * 31]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_key_of_low_order_is_refused(point: bytes) -> None:
    """SC-SE-02, SC-TE-02: the shared secret would be known to everybody."""
    with pytest.raises(InvalidError, match="low order"):
        seal(b"marker", b64encode(point).decode(), USE, 2)


@pytest.mark.parametrize("key", ["", "%%%", b64encode(b"short").decode()])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(InvalidError, match="base64 of 32 bytes"):
        seal(b"marker", key, USE, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"ciphertext": "AAAA"},
        {"ciphertext": "%%%"},
        {"v": 3},
        {"alg": "none"},
        {"eph_pub": WorkerKey().public},
    ],
)
def test_a_changed_message_does_not_open(change: dict[str, Any]) -> None:
    """SC-SE-02."""
    worker = WorkerKey()
    message = seal(b"marker", worker.public, USE, 2)
    with pytest.raises(DamagedError):
        worker.unseal(message | change, USE)


@pytest.mark.parametrize("message", [None, [], "plain", {"data": {"password": "x"}}])
def test_an_answer_in_the_clear_is_refused(message: object) -> None:
    """SC-SE-04, SC-TE-02: only sealed answers are used."""
    with pytest.raises(DamagedError, match="not sealed"):
        WorkerKey().unseal(message, USE)


def test_a_message_of_a_version_nobody_knows_is_not_made() -> None:
    with pytest.raises(InvalidError, match="version 3"):
        seal(b"marker", WorkerKey().public, USE, 3)


def test_a_worker_makes_another_key_every_time_it_starts() -> None:
    """SC-SE-01."""
    keys = {WorkerKey().public for _ in range(3)}
    assert len(keys) == 3
    assert all(X25519PublicKey.from_public_bytes(b64decode(key)) for key in keys)
