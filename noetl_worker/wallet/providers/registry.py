"""Providers by name, each built once for a while (SC-PR-02)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Protocol

from noetl_worker.wallet.providers.hashicorp import VaultProvider
from noetl_worker.wallet.providers.kubernetes import KubernetesProvider
from noetl_worker.wallet.providers.local import EnvProvider, FileProvider
from noetl_worker.wallet.providers.source import SecretRef, SecretValue
from noetl_worker.wallet.providers.web import Web
from state_builder.errors import InvalidError, NoetlError, RefusedError
from state_builder.ports import Clock, Observer

BUILT_MAX: Final = 256

_ALIASES: Final = {
    "gcp_sm": "gcp",
    "google": "gcp",
    "secret_manager": "gcp",
    "kubernetes": "k8s",
    "hashicorp": "vault",
    "aws_sm": "aws",
    "azure_kv": "azure",
    "aws_iam": "aws_sts",
    "azure_oauth": "azure_aad",
}
_NOT_BUILT: Final = frozenset(
    {"gcp", "aws", "azure", "aws_sts", "gcp_iam", "azure_aad"}
)


class Provider(Protocol):
    """One outside store (SC-PR-01)."""

    async def fetch(self, ref: SecretRef) -> SecretValue:
        """The value.

        Raises NotFoundError, RefusedError, InvalidError (malformed, or badly set), or
        UpstreamError: away or overloaded.
        """


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """What providers are told.

    Attributes:
        outside: their own variables, as given to the process.
        allowed_refs: globs over ``provider:ref`` or the bare ref; all when empty.
        ttl_s: how long a built provider is used.
    """

    env_names: tuple[str, ...] = ()
    env_values: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets_dir: str = ""
    outside: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowed_refs: tuple[str, ...] = ()
    ttl_s: float = 3600.0


class Providers:
    """The registry."""

    def __init__(
        self, settings: ProviderSettings, web: Web, clock: Clock, observer: Observer
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._built: dict[tuple[str, str, str], tuple[Provider, float]] = {}
        outside = settings.outside
        self._makers: dict[str, Callable[[str], Provider]] = {
            "env": lambda token: EnvProvider(settings.env_names, settings.env_values),
            "file": lambda token: FileProvider(settings.secrets_dir),
            "k8s": lambda token: KubernetesProvider(web, outside, token),
            "vault": lambda token: VaultProvider(web, outside, token),
        }

    async def fetch(
        self, name: str, ref: SecretRef, *, token: str = "", version: str = ""
    ) -> SecretValue:
        """Ask a provider; ``token`` is the entry's own way to reach it, ``version``
        names that credential's record. Raises as :meth:`Provider.fetch`."""
        name = _ALIASES.get(name, name)
        self._check_allowed(name, ref)
        provider = self._provider(name, ref.region, token, version)
        began = self._clock.monotonic()
        status = "error"
        try:
            value = await provider.fetch(ref)
            status = "ok"
        except NoetlError as error:
            status = error.code
            raise
        finally:
            observer, where = self._observer, ref.region or "-"
            observer.count(
                "noetl_secret_resolve_total", provider=name, region=where, status=status
            )
            observer.time(
                "noetl_secret_resolve_duration_seconds",
                self._clock.monotonic() - began,
                provider=name,
                region=where,
            )
        return value

    def _check_allowed(self, name: str, ref: SecretRef) -> None:
        globs = self._settings.allowed_refs
        texts = (ref.name, f"{name}:{ref.name}")
        if globs and not any(fnmatchcase(t, g) for g in globs for t in texts):
            raise RefusedError(
                f"provider {name}: this ref is not in NOETL_SECRET_ALLOWED_REFS"
            )

    def _provider(self, name: str, region: str, token: str, version: str) -> Provider:
        key = (name, region, version)
        now = self._clock.monotonic()
        known = self._built.get(key)
        if known is not None and known[1] > now:
            self._count_build(name, region, "cache_hit")
            return known[0]
        maker = self._makers.get(name)
        if maker is None:
            raise _absent(name, sorted(self._makers))
        provider = maker(token)
        self._count_build(name, region, "ok")
        if len(self._built) >= BUILT_MAX:
            del self._built[next(iter(self._built))]
        self._built[key] = (provider, now + self._settings.ttl_s)
        return provider

    def _count_build(self, name: str, region: str, status: str) -> None:
        self._observer.count(
            "noetl_secret_provider_build_total",
            provider=name,
            region=region or "-",
            status=status,
        )


def _absent(name: str, known: list[str]) -> InvalidError:
    names = ", ".join(known)
    if name in _NOT_BUILT:
        return InvalidError(
            f"provider '{name}' is not available in this build (use {names})"
        )
    return InvalidError(f"provider {name[:40]!r} is unknown (use {names})")
