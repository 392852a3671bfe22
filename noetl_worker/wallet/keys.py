"""Who wraps data keys: our own key out of the settings; the seam for cloud services.

Unwrapping goes by the provider an envelope names, so several may be live while rows
move from one to another (SC-EN-05).
"""

from __future__ import annotations

import os
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Final, Protocol

import structlog

from noetl_worker.settings import Wallet
from noetl_worker.wallet.envelope import (
    KEY_BYTES,
    WrappedKey,
    unwrap_locally,
    wrap_locally,
)
from state_builder.errors import DamagedError, SettingsError

log = structlog.get_logger(__name__)

KEY_SETTING: Final = "NOETL_ENCRYPTION_KEY"
PREVIOUS_SETTING: Final = "NOETL_ENCRYPTION_KEY_PREVIOUS"


class KeyProvider(Protocol):
    """One place keys live in (SC-EN-05)."""

    name: str

    async def wrap(self, dek: bytes, aad: bytes) -> WrappedKey:
        """With the current version."""

    async def unwrap(self, wrapped: WrappedKey, aad: bytes) -> bytearray:
        """The data key. Raises DamagedError, UpstreamError."""

    async def current_version(self) -> str:
        """The version new data keys are wrapped with."""


class LocalKeys:
    """Keys given to this process (SC-EN-03)."""

    name = "local"

    def __init__(self, keys: dict[str, bytes], current: str) -> None:
        self._keys = keys
        self._current = current

    async def wrap(self, dek: bytes, aad: bytes) -> WrappedKey:
        """With the current version."""
        text = wrap_locally(self._keys[self._current], dek, aad)
        return WrappedKey(self.name, f"env:{KEY_SETTING}", self._current, text)

    async def unwrap(self, wrapped: WrappedKey, aad: bytes) -> bytearray:
        """The data key. Raises DamagedError."""
        key = self._keys.get(wrapped.kv)
        if key is None:
            raise DamagedError(
                f"sealed with version {wrapped.kv!r} of the encryption key, which "
                f"this server was not given: add it to {PREVIOUS_SETTING}"
            )
        return unwrap_locally(key, wrapped.ct, aad)

    async def current_version(self) -> str:
        """The version new data keys are wrapped with."""
        return self._current


class Keyring:
    """All providers in use; one of them wraps."""

    def __init__(self, current: KeyProvider, *others: KeyProvider) -> None:
        self._current = current
        self._providers = {one.name: one for one in (*others, current)}

    async def wrap(self, dek: bytes, aad: bytes) -> WrappedKey:
        """With the current provider and version."""
        return await self._current.wrap(dek, aad)

    async def unwrap(self, wrapped: WrappedKey, aad: bytes) -> bytearray:
        """The data key. Raises DamagedError."""
        provider = self._providers.get(wrapped.p)
        if provider is None:
            raise DamagedError(
                f"sealed by key provider {wrapped.p[:40]!r}, which this server does "
                f"not have (it has {', '.join(self._providers)})"
            )
        return await provider.unwrap(wrapped, aad)

    async def is_current(self, wrapped: WrappedKey) -> bool:
        """Nothing to rotate (SC-RO-01)."""
        if wrapped.p != self._current.name:
            return False
        return wrapped.kv == await self._current.current_version()

    async def current_version(self) -> str:
        """For the audit trail."""
        return await self._current.current_version()


def keyring_of(settings: Wallet) -> Keyring:
    """The keys a server was given.

    Raises:
        SettingsError: a key that is none, or a provider this build does not have.
    """
    if settings.kms != "local":
        raise SettingsError(
            f"NOETL_KMS_PROVIDER={settings.kms} is not available in this build; "
            f"use local with {KEY_SETTING}"
        )
    keys = {}
    for number, pair in enumerate(settings.keys_previous.reveal().split(","), 1):
        version, _, text = pair.strip().partition(":")
        if text:
            keys[version] = _key(text, f"{PREVIOUS_SETTING}, entry {number}")
        elif version:
            raise SettingsError(
                f"{PREVIOUS_SETTING}, entry {number}: write version:base64"
            )
    current = settings.key_version
    if current in keys:
        raise SettingsError(
            f"{PREVIOUS_SETTING} holds version {current!r}, which is the current "
            "one: give the new key another NOETL_ENCRYPTION_KEY_VERSION"
        )
    if settings.key:
        keys[current] = _key(settings.key.reveal(), KEY_SETTING)
    elif settings.insecure_key:
        log.warning(
            "wallet.insecure",
            reason="no encryption key was given: this process made one of its own, "
            "and what it stores cannot be read after it ends",
        )
        current = f"process-{os.urandom(4).hex()}"
        keys[current] = os.urandom(KEY_BYTES)
    else:
        raise SettingsError(
            f"{KEY_SETTING}: give base64 of {KEY_BYTES} bytes, for example of "
            "`openssl rand -base64 32`"
        )
    return Keyring(LocalKeys(keys, current))


def _key(text: str, name: str) -> bytes:
    try:
        key = b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise SettingsError(f"{name}: is no base64") from error
    if len(key) != KEY_BYTES:
        raise SettingsError(
            f"{name}: base64 of exactly {KEY_BYTES} bytes is needed, not of {len(key)}"
        )
    return key
