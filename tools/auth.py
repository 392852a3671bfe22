"""Credentials as a playbook states them, and what tools may take from them.

An alias names a stored credential; a block carries its values itself. This room tells
one from the other, says what cannot be resolved, and knows which values are secret. It
never logs and never stores.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Final

from state_builder.records import JSON, ToolFailure
from state_builder.redact import SECRET_LENGTH_MIN, is_secret_key
from tools.errors import ToolCallError

_WITHOUT_AUTH: Final = frozenset({"noop"})
"""Kinds that use no credential: an ``auth`` on them means nothing."""

_CREDENTIAL_KEYS: Final = ("credential", "key", "oauth_credential")


def refuse(message: str) -> ToolCallError:
    """A credential that cannot be used: terminal, the tool does not run (TL-AUT-05)."""
    return ToolCallError(ToolFailure(kind="auth", code="auth", message=message))


def _unresolved(alias: str) -> ToolCallError:
    return refuse(
        f"credential '{alias}' cannot be resolved: "
        "no credential store is configured in this build"
    )


def check_auth(kind: str, config: dict[str, JSON]) -> None:
    """Refuse a credential that has to be looked up somewhere (TL-AUT-01 to 03).

    Raises ToolCallError of kind ``auth`` naming the alias.
    """
    auth = config.get("auth")
    if not auth or kind in _WITHOUT_AUTH:
        return
    if isinstance(auth, str):
        raise _unresolved(auth)
    if not isinstance(auth, dict):
        raise refuse("auth must be the name of a credential or a map")
    _refuse_lookups(auth)
    for entry in auth.values():
        if isinstance(entry, dict):
            _refuse_lookups(entry)


def _refuse_lookups(block: dict[str, JSON]) -> None:
    named = block.get("source") == "credential" or "credential" in block
    if not named or _has_literal(block):
        return
    for key in _CREDENTIAL_KEYS:
        alias = block.get(key)
        if isinstance(alias, str) and alias:
            raise _unresolved(alias)
    raise refuse("auth names a credential store but no credential; give its key")


def _has_literal(block: dict[str, JSON]) -> bool:
    return any(block.get(key) for key in ("token", "password"))


def secret_values(config: dict[str, JSON]) -> set[str]:
    """Values of a configuration that must not show up in results (TL-SCR-05)."""
    found = set(_secrets_in(config.get("auth")))
    for key, value in config.items():
        if isinstance(value, str) and is_secret_key(key):
            found.update(_parts(value))
    return found


def _secrets_in(value: JSON) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    for key, member in value.items():
        if isinstance(member, str) and is_secret_key(key):
            yield from _parts(member)
        else:
            yield from _secrets_in(member)


def _parts(secret: str) -> Iterator[str]:
    """The secret, and the password inside when it is a connection string."""
    if len(secret) >= SECRET_LENGTH_MIN:
        yield secret
    if "://" in secret and "@" in secret:
        userinfo = secret.split("://", 1)[1].rpartition("@")[0]
        password = userinfo.partition(":")[2]
        if len(password) >= SECRET_LENGTH_MIN:
            yield password


def http_headers(auth: JSON) -> dict[str, str]:
    """What a block, or the first usable one of a map of blocks, adds to a request.

    Raises ToolCallError of kind ``auth`` (TL-AUT-02, TL-HT-11).
    """
    if not isinstance(auth, dict) or not auth:
        return {}
    if _type_of(auth):
        return _block_headers(auth)
    for entry in auth.values():
        if isinstance(entry, dict) and _type_of(entry) in _HTTP_TYPES:
            return _block_headers(entry)
    known = ", ".join(_HTTP_TYPES)
    raise refuse(f"auth has no block of a type that http can use ({known})")


_HTTP_TYPES: Final = ("bearer", "basic", "api_key")


def _type_of(block: dict[str, JSON]) -> str:
    """The type of a block; told by its members where it does not say."""
    kind = block.get("type")
    if isinstance(kind, str):
        return kind.lower()
    if block.get("source") == "adc":
        return "gcp_adc"
    if isinstance(block.get("token"), str):
        return "bearer"
    return "basic" if isinstance(block.get("username"), str) else ""


def _block_headers(block: dict[str, JSON]) -> dict[str, str]:
    kind = _type_of(block)
    if kind == "none":
        return {}
    if kind == "bearer":
        return {"Authorization": f"Bearer {_secret(block, 'token')}"}
    if kind == "api_key":
        name = block.get("header") or "X-API-Key"
        return {str(name): _secret(block, "token", "key", "value")}
    if kind == "basic":
        return {"Authorization": basic(_name(block), _secret(block, "password"))}
    if kind == "gcp_adc":
        raise refuse("auth type 'gcp_adc' is not available in this build")
    known = ", ".join((*_HTTP_TYPES, "gcp_adc", "none"))
    raise refuse(f"auth type '{kind}' is unknown (known: {known})")


def basic(user: str, password: str) -> str:
    """The value of a basic ``Authorization`` header."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def _name(block: dict[str, JSON]) -> str:
    name = block.get("username")
    return name if isinstance(name, str) else ""


def _secret(block: dict[str, JSON], *keys: str) -> str:
    for key in keys:
        value = block.get(key)
        if isinstance(value, str) and value:
            return value
    raise refuse(f"auth type '{_type_of(block)}' needs {' or '.join(keys)}")
