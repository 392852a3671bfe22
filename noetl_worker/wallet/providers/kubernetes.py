"""``k8s``: secrets of a cluster, ``[namespace/]secret/key`` or ``secret``."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio.to_thread

from noetl_worker.wallet.providers.source import (
    SecretRef,
    SecretValue,
    quoted,
    segments,
)
from noetl_worker.wallet.providers.web import Web, WebCall
from state_builder.errors import InvalidError
from state_builder.records import JSON

NAME: Final = "provider k8s"
_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_PARTS_MAX: Final = 3


class KubernetesProvider:
    """Reads one key of one secret, as the service account of this pod."""

    def __init__(self, web: Web, outside: Mapping[str, str], token: str = "") -> None:
        self._web = web
        self._address = outside.get(
            "NOETL_K8S_API_URL", "https://kubernetes.default.svc"
        ).rstrip("/")
        self._ca = outside.get("NOETL_K8S_CA_FILE", "")
        if not self._ca and Path(f"{_ACCOUNT}/ca.crt").exists():
            self._ca = f"{_ACCOUNT}/ca.crt"
        self._token = token or outside.get("NOETL_K8S_TOKEN", "")
        self._token_file = outside.get("NOETL_K8S_TOKEN_FILE", f"{_ACCOUNT}/token")
        self._namespace = outside.get("NOETL_K8S_NAMESPACE", "default")

    async def fetch(self, ref: SecretRef) -> SecretValue:
        """The key's value; the only one's where none is named."""
        parts = segments("k8s", ref.name, _PARTS_MAX)
        namespace = ref.project or self._namespace
        if len(parts) == _PARTS_MAX:
            namespace = parts.pop(0)
        key = parts[1] if len(parts) > 1 else ""
        place = f"namespaces/{quoted(namespace)}/secrets/{quoted(parts[0])}"
        call = WebCall(
            who=NAME,
            url=f"{self._address}/api/v1/{place}",
            headers={"Authorization": f"Bearer {await self._bearer()}"},
            ca=self._ca,
        )
        return _value(await self._web.object(call), key)

    async def _bearer(self) -> str:
        """The token; its file is read each time, for the cluster renews it."""
        if self._token:
            return self._token
        path = Path(self._token_file)
        try:
            return (await anyio.to_thread.run_sync(path.read_text)).strip()
        except OSError as error:
            raise InvalidError(f"{NAME}: the token file cannot be read") from error


def _value(answer: dict[str, JSON], key: str) -> SecretValue:
    data = answer.get("data")
    if not isinstance(data, dict) or not data:
        raise InvalidError(f"{NAME}: the secret is empty")
    if not key and len(data) > 1:
        raise InvalidError(f"{NAME}: the secret has several keys; write secret/key")
    encoded = data.get(key) if key else next(iter(data.values()))
    if not isinstance(encoded, str):
        raise InvalidError(f"{NAME}: the secret has no key '{key}'")
    try:
        text = b64decode(encoded, validate=True).decode()
    except (Base64Error, ValueError) as error:
        raise InvalidError(f"{NAME}: the value is no base64 of a text") from error
    meta = answer.get("metadata")
    version = str(meta.get("resourceVersion", "")) if isinstance(meta, dict) else ""
    return SecretValue(text, version)
