"""The ``keychain`` section of a playbook: what its entries are and where they are kept.

An entry is a definition; its values are cached in a row whose key says for whom
(SC-KC-10).
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from msgspec import Struct, ValidationError, convert, field

from state_builder.credentials import Place
from state_builder.errors import InvalidError
from state_builder.records import JSON

Scope: TypeAlias = Literal["local", "shared", "global"]

SCOPES: Final[tuple[Scope, ...]] = ("local", "shared", "global")
_OLD_SCOPES: Final = {"catalog": "global", "execution": "local"}

KINDS: Final = (
    *("secrets", "credential", "bearer", "static", "oauth2", "google_id_token"),
)
_OLD_KINDS: Final = {"secret_manager": "secrets"}

_LOCAL_S: Final = 3600.0
_OTHER_S: Final = 86_400.0
_PROVIDER_S: Final = 600.0


class Definition(Struct, frozen=True, kw_only=True):
    """One entry of a keychain (SC-KC-01); texts may be templates.

    Attributes:
        order: place in the section: an entry sees the entries before it.
        type: credential type of a static or secrets entry, for ``auth: <entry>``.
        ttl: seconds a value is kept where its source gives no end.
    """

    name: str
    kind: str
    order: int = 0
    type: str = ""
    scope: Scope = "local"
    auto_renew: bool = False
    provider: str = ""
    auth: str = ""
    map: dict[str, JSON] = field(default_factory=dict)
    region: str = ""
    residency: Literal["none", "advisory", "strict"] = "none"
    allowed_regions: tuple[str, ...] = ()
    no_broker_fallback: bool = False
    ttl: float | None = None
    credential: str = ""
    ref: str = ""
    key: str = ""
    token: JSON = None
    project: str = ""
    version: JSON = None
    endpoint: str = ""
    method: str = "POST"
    headers: dict[str, JSON] = field(default_factory=dict)
    data: dict[str, JSON] = field(default_factory=dict)
    token_field: str = "access_token"
    ttl_field: str = "expires_in"
    target_audience: str = ""
    service_account_secret: str = ""
    service_account_credential: str = ""

    @property
    def ttl_s(self) -> float:
        """How long a value without an end is kept (SC-KC-11)."""
        if self.ttl is not None:
            return self.ttl
        if self.kind == "secrets":
            return _PROVIDER_S
        return _LOCAL_S if self.scope == "local" else _OTHER_S


def definitions(section: JSON) -> dict[str, Definition]:
    """The entries by name. Raises InvalidError naming the entry."""
    if section is None:
        return {}
    if not isinstance(section, list):
        raise InvalidError("keychain must be a list of entries")
    found: dict[str, Definition] = {}
    for order, item in enumerate(section):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise InvalidError(f"keychain[{order}] needs a name")
        name = str(item["name"])
        if name in found:
            raise InvalidError(f"keychain: there are two entries '{name}'")
        found[name] = _definition(item, name, order)
    return found


def _definition(item: dict[str, JSON], name: str, order: int) -> Definition:
    given = {key: value for key, value in item.items() if value is not None}
    kind = str(given.get("kind") or given.get("type") or "")
    kind = _OLD_KINDS.get(kind, kind)
    if kind not in KINDS:
        raise InvalidError(
            f"keychain '{name}': kind {kind!r} is unknown (use {', '.join(KINDS)})"
        )
    scope = str(given.get("scope") or "local")
    credential_type = given.get("type") if "kind" in given else ""
    more = {
        "kind": kind,
        "order": order,
        "scope": _OLD_SCOPES.get(scope, scope),
        "type": credential_type or given.get("credential_type") or "",
        "provider": given.get("provider") or "",
    }
    try:
        return convert({**given, **more}, Definition, strict=False)
    except ValidationError as error:
        raise InvalidError(f"keychain '{name}': {error}") from error


def scope_of(text: str) -> Scope:
    """A scope by any of its names. Raises InvalidError."""
    scope = _OLD_SCOPES.get(text, text)
    if scope not in SCOPES:
        raise InvalidError(f"scope_type {text[:20]!r}: use {', '.join(SCOPES)}")
    return scope


def cache_key(place: Place) -> str:
    """Which row holds it (SC-KC-10). Raises InvalidError without an execution."""
    name, scope = quote(place.name, safe=""), scope_of(place.scope)
    if scope == "global":
        return f"{name}:{place.catalog_id}:global"
    if not place.execution_id:
        raise InvalidError(f"scope {scope} needs an execution_id")
    if scope == "shared":
        return f"{name}:{place.catalog_id}:shared:{place.execution_id}"
    return f"{name}:{place.catalog_id}:{place.execution_id}"
