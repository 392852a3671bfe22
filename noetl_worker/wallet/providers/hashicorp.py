"""``vault``: HashiCorp Vault's KV version 2, ``[mount/]path[#key]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio.to_thread

from noetl_worker.wallet.providers.source import (
    SecretRef,
    SecretValue,
    bad_ref,
    quoted,
    segments,
)
from noetl_worker.wallet.providers.web import Web, WebCall
from state_builder.errors import InvalidError
from state_builder.records import JSON, encode_json

DEPTH_MAX: Final = 16
NAME: Final = "provider vault"


class VaultProvider:
    """Reads one key of one secret; the mount is the entry's ``project``, a first word
    that is the mount's name, or NOETL_VAULT_KV_MOUNT."""

    def __init__(self, web: Web, outside: Mapping[str, str], token: str = "") -> None:
        self._web = web
        self._address = outside.get("VAULT_ADDR", "").rstrip("/")
        self._namespace = outside.get("VAULT_NAMESPACE", "")
        self._token = token or outside.get("VAULT_TOKEN", "")
        self._token_file = outside.get("NOETL_VAULT_TOKEN_FILE", "")
        self._mount = outside.get("NOETL_VAULT_KV_MOUNT", "secret")
        self._ca = outside.get("NOETL_VAULT_CA_FILE", "")

    async def fetch(self, ref: SecretRef) -> SecretValue:
        """The value of the key; JSON of the whole secret without one."""
        if not self._address:
            raise InvalidError(f"{NAME}: VAULT_ADDR is not set on this server")
        path, mark, key = ref.name.partition("#")
        if mark and (not key or "#" in key or not key.isprintable()):
            raise bad_ref("vault", "write [mount/]path#key")
        if ref.version and not ref.version.isdecimal():
            raise bad_ref("vault", "a version is a number")
        parts = segments("vault", path, DEPTH_MAX)
        mount = ref.project or self._mount
        if len(parts) > 1 and parts[0] == mount:
            parts = parts[1:]
        place = "/".join(quoted(part) for part in (mount, "data", *parts))
        query = f"?version={ref.version}" if ref.version else ""
        call = WebCall(
            who=NAME,
            url=f"{self._address}/v1/{place}{query}",
            headers=await self._headers(),
            ca=self._ca,
        )
        return _value(await self._web.object(call), key)

    async def _headers(self) -> dict[str, str]:
        token = self._token
        if not token and self._token_file:
            path = Path(self._token_file)
            try:
                token = (await anyio.to_thread.run_sync(path.read_text)).strip()
            except OSError as error:
                raise InvalidError(f"{NAME}: the token file cannot be read") from error
        if not token:
            raise InvalidError(f"{NAME}: give VAULT_TOKEN or NOETL_VAULT_TOKEN_FILE")
        headers = {"X-Vault-Token": token}
        if self._namespace:
            headers["X-Vault-Namespace"] = self._namespace
        return headers


def _value(answer: dict[str, JSON], key: str) -> SecretValue:
    outer = answer.get("data")
    data = outer.get("data") if isinstance(outer, dict) else None
    if not isinstance(outer, dict) or not isinstance(data, dict):
        raise InvalidError(f"{NAME}: the answer holds no secret")
    if key and key not in data:
        raise InvalidError(f"{NAME}: the secret has no key '{key[:64]}'")
    value: JSON = data[key] if key else data
    meta = outer.get("metadata")
    version = str(meta.get("version", "")) if isinstance(meta, dict) else ""
    text = value if isinstance(value, str) else encode_json(value).decode()
    return SecretValue(text, version)
