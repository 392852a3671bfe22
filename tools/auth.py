"""Credentials: from what a playbook states to what a tool takes.

A name is looked up, its fields come under the tool's own names, and what the playbook
says itself stays (TL-AUT-01, SC-TY-01). A block carries its values or names where they
are (TL-AUT-02, TL-AUT-03). This room logs nothing and keeps nothing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from state_builder.credentials import Credential, Want
from state_builder.errors import (
    DamagedError,
    NoetlError,
    NotFoundError,
    RefusedError,
)
from state_builder.records import JSON, ToolFailure
from state_builder.redact import SECRET_LENGTH_MIN, is_secret_key
from tools.errors import ToolCallError

Fields = dict[str, JSON]
Lookup = Callable[[str, Want], Awaitable[Credential]]

KEYS: Final = ("auth", "credential")
"""Where a tool names its credential, the first that is given (SC-AL-01)."""

ANY_TYPE: Final = "any"
"""A credential that stands for every type: rehearsals have no real ones."""

_WITHOUT_AUTH: Final = frozenset({"noop"})
"""Kinds that use no credential: an ``auth`` on them means nothing."""

_CANONICAL: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "postgres": {
        "host": ("db_host", "host"),
        "port": ("db_port", "port"),
        "user": ("db_user", "user", "username"),
        "password": ("db_password", "password"),
        "database": ("db_name", "database", "dbname"),
        "sslmode": ("sslmode",),
        "sslrootcert": ("sslrootcert",),
        "connection_string": ("connection_string",),
    },
    "snowflake": {
        name: (f"sf_{name}", name)
        for name in (
            *("account", "user", "password", "private_key", "public_key"),
            *("private_key_passphrase", "warehouse", "database", "schema", "role"),
        )
    },
    "bearer": {"token": ("token", "access_token", "bearer_token")},
    "api_key": {"token": ("api_key", "key", "token"), "header": ("header",)},
    "basic": {"username": ("username", "user"), "password": ("password",)},
    "nats": {
        "url": ("nats_url", "url"),
        "user": ("nats_user", "user"),
        "password": ("nats_password", "password"),
        "token": ("nats_token", "token"),
        "creds": ("nats_creds", "creds"),
    },
    "gcs_hmac": {
        name: (name,) for name in ("key_id", "secret_key", "service", "scope")
    },
    "aws": {
        name: (name,)
        for name in (
            *("access_key_id", "secret_access_key", "session_token", "region"),
            "endpoint",
        )
    },
}
"""Type → canonical field → the names it is stored under (secrets.md §2)."""

_MINTED: Final = frozenset({"oauth2", "google_oauth", "gcs"})
"""Types a bearer token is got with."""

_HTTP_TYPES: Final = ("bearer", "basic", "api_key")

_FLAT: Final[dict[str, frozenset[str]]] = {
    "postgres": frozenset({"postgres"}),
    "ducklake": frozenset({"postgres"}),
    "snowflake": frozenset({"snowflake"}),
    "nats": frozenset({"nats"}),
    "subscription": frozenset({"nats", "pubsub", "kafka"}),
    "gcs": frozenset({"gcs", "google_oauth"}),
    "s3": frozenset({"aws"}),
    "transfer": frozenset({"postgres", "snowflake"}),
}
"""Kinds that take a credential's fields beside their own, and of which types."""

_MAPPED: Final = frozenset({"duckdb", "python"})
"""Kinds that take credentials by name (TL-AUT-03)."""

_HTTP: Final = frozenset({"http", "mcp"})
_REFUSING: Final = frozenset({"shell", "container", "playbook", "workbook", "rhai"})

_ADDRESS: Final = ("host", "port", "user", "password", "database")
_JSON_FIELDS: Final = ("service_account_json", "service_account", "authorized_user")


def refuse(message: str, code: str = "auth") -> ToolCallError:
    """A credential that cannot be used: terminal, the tool does not run (TL-AUT-05)."""
    return ToolCallError(ToolFailure(kind="auth", code=code, message=message))


_CODES: Final[tuple[tuple[type[NoetlError], str], ...]] = (
    (NotFoundError, "credential_not_found"),
    (RefusedError, "credential_refused"),
    (DamagedError, "credential_damaged"),
)


def unavailable(error: NoetlError) -> ToolCallError:
    """What a lookup raised, as a tool's failure (SC-AL-05)."""
    if error.retryable:
        failure = ToolFailure(
            kind="connection",
            code="credential_unavailable",
            message=str(error),
            retryable=True,
        )
        return ToolCallError(failure)
    codes = (code for kind, code in _CODES if isinstance(error, kind))
    return refuse(str(error), next(codes, "credential_invalid"))


def names_credentials(kind: str, config: Fields) -> bool:
    """Whether this configuration may need a lookup."""
    if "gcs_credential" in config or any(config.get(key) for key in KEYS):
        return True
    if kind == "transfer":
        return any(isinstance(config.get(end), dict) for end in ("source", "target"))
    return isinstance(config.get("script"), dict)


async def authorize(kind: str, config: Fields, lookup: Lookup) -> Fields:
    """The configuration with everything it names looked up and merged in.

    Raises ToolCallError of kind ``auth``; what a lookup raises leaves as it is.
    """
    config = dict(config)
    given = next((config[key] for key in KEYS if config.get(key)), None)
    for key in KEYS:
        config.pop(key, None)
    if given is not None and kind not in _WITHOUT_AUTH:
        if isinstance(given, str):
            await _by_alias(kind, config, given, lookup)
        elif isinstance(given, dict):
            config["auth"] = await _by_block(kind, given, lookup)
        else:
            raise refuse("auth must be the name of a credential or a map")
    await _inside(kind, config, lookup)
    return config


async def _by_alias(kind: str, config: Fields, alias: str, lookup: Lookup) -> None:
    credential = await lookup(alias, "credential")
    if credential.type == ANY_TYPE:
        return
    if kind in _HTTP:
        config["auth"] = await _http_block(kind, credential, lookup)
    elif kind in _MAPPED:
        config["auth"] = {alias: _typed(credential)}
    elif kind in _REFUSING:
        raise _unusable(kind, credential)
    else:
        accepted = _FLAT.get(kind)
        if accepted is not None and credential.type not in accepted:
            raise _unusable(kind, credential)
        _merge(config, credential)


async def _by_block(kind: str, block: Fields, lookup: Lookup) -> Fields:
    """A structured block, or a map of named ones, with values in place of names."""
    if not _is_named_map(block):
        return await _filled(kind, block, lookup)
    return {
        name: await _filled(kind, entry, lookup) if isinstance(entry, dict) else entry
        for name, entry in block.items()
    }


def _is_named_map(block: Fields) -> bool:
    own = {"type", "source", "credential", "key", "token", "password"}
    return bool(block) and not own.intersection(block)


async def _filled(kind: str, block: Fields, lookup: Lookup) -> Fields:
    """One block: a literal wins over a name (TL-AUT-02)."""
    if block.get("token") or block.get("password"):
        return block
    from_store = block.get("source") == "credential"
    alias = block.get("credential") or (block.get("key") if from_store else None)
    if not alias:
        alias = block.get("oauth_credential")
    if not isinstance(alias, str) or not alias:
        if from_store:
            raise refuse("auth names a credential store but no credential; give 'key'")
        return block
    credential = await lookup(alias, "credential")
    named = ("source", "key", "credential", "oauth_credential", "tool", "service")
    rest = {key: value for key, value in block.items() if key not in named}
    if credential.type == ANY_TYPE:
        return {"type": "none"}
    if kind in _HTTP:
        return {**await _http_block(kind, credential, lookup), **_texts(rest, "header")}
    stated = block.get("type") or block.get("tool") or block.get("service")
    return {**_typed(credential), **rest, "type": stated or credential.type}


async def _inside(kind: str, config: Fields, lookup: Lookup) -> None:
    """Endpoints of a transfer, the source of a script (SC-AL-01)."""
    alias = config.get("gcs_credential")
    if isinstance(alias, str) and alias:
        config["gcs_credential"] = _typed(await lookup(alias, "credential"))
    if kind == "transfer":
        for name in ("source", "target"):
            end = config.get(name)
            if isinstance(end, dict):
                inner = str(end.get("type") or end.get("tool") or end.get("kind"))
                config[name] = await authorize(inner.lower(), end, lookup)
    script = config.get("script")
    source = script.get("source") if isinstance(script, dict) else None
    if isinstance(script, dict) and isinstance(source, dict):
        given = next((source[key] for key in KEYS if source.get(key)), None)
        if given is not None:
            auth = await _of_script(given, lookup)
            config["script"] = {**script, "source": {**source, "auth": auth}}


async def _of_script(given: JSON, lookup: Lookup) -> JSON:
    """What opens the place a script is at: keys of a store, or a header's words."""
    if isinstance(given, dict):
        return await _by_block("http", given, lookup)
    credential = await lookup(str(given), "credential")
    if credential.type in _MINTED:
        return await _http_block("http", credential, lookup)
    return _typed(credential)


def canonical(credential: Credential) -> Fields:
    """A credential's fields by their canonical names; JSON in texts is parsed where a
    map is meant, line ends of PEM texts are real ones (SC-TY-04)."""
    fields = credential.reveal()
    names = _CANONICAL.get(credential.type)
    if names is None:
        return {name: _opened(name, value) for name, value in fields.items()}
    found: Fields = {}
    for name, stored in names.items():
        value = next((fields[one] for one in stored if fields.get(one)), None)
        if value is not None:
            found[name] = _opened(name, value)
    if isinstance(found.get("port"), str):
        found["port"] = _port(credential, str(found["port"]))
    return found


def _opened(name: str, value: JSON) -> JSON:
    if not isinstance(value, str):
        return value
    if name in _JSON_FIELDS:
        try:
            return cast("JSON", decode_json(value))
        except DecodeError:
            return value
    return value.replace("\\n", "\n") if "-----BEGIN " in value else value


def _port(credential: Credential, text: str) -> int:
    if not text.isdecimal():
        raise refuse(f"credential '{credential.alias}': port is no number")
    return int(text)


def _typed(credential: Credential) -> Fields:
    fields = canonical(credential)
    address = fields.get("connection_string")
    if isinstance(address, str):
        # Who takes a credential by name takes it in parts.
        fields = {**_parts_of(address), **fields}
    return {"type": credential.type, **fields}


def _merge(config: Fields, credential: Credential) -> None:
    """Fields the playbook does not give itself (SC-TY-01)."""
    names = _CANONICAL.get(credential.type, {})
    fields = canonical(credential)
    said = {
        name
        for name in fields
        if any(config.get(one) is not None for one in (name, *names.get(name, ())))
    }
    if credential.type == "postgres":
        if config.get("connection_string") is not None:
            return
        explicit = {
            name
            for name in _ADDRESS
            if any(config.get(one) is not None for one in (name, *names[name]))
        }
        if explicit and isinstance(fields.get("connection_string"), str):
            # A whole address would hide the part the playbook gives.
            address = str(fields.pop("connection_string"))
            fields = {**_parts_of(address), **fields}
            said |= explicit
    for name, value in fields.items():
        if name not in said:
            config[name] = value


def _parts_of(address: str) -> Fields:
    parts = urlsplit(address)
    found: Fields = {
        "host": parts.hostname,
        "port": parts.port,
        "user": unquote(parts.username or "") or None,
        "password": unquote(parts.password or "") or None,
        "database": unquote(parts.path.lstrip("/")) or None,
        **dict(parse_qsl(parts.query)),
    }
    return {name: value for name, value in found.items() if value is not None}


async def _http_block(kind: str, credential: Credential, lookup: Lookup) -> Fields:
    """A block that http turns into a header; some need a token first (SC-TY-02)."""
    if credential.type in _MINTED:
        token = (await lookup(credential.alias, "token")).reveal()
        return {"type": "bearer", "token": token.get("access_token")}
    if credential.type not in _HTTP_TYPES:
        raise _unusable(kind, credential)
    return _typed(credential)


def _texts(block: Fields, *names: str) -> Fields:
    return {name: block[name] for name in names if block.get(name)}


def _unusable(kind: str, credential: Credential) -> ToolCallError:
    return refuse(
        f"credential '{credential.alias}' of type {credential.type} cannot be used by "
        f"kind '{kind}'",
        "credential_type",
    )


def secret_values(config: Fields) -> set[str]:
    """Values a playbook itself states that must not show up in results (TL-SCR-05)."""
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


def _type_of(block: Fields) -> str:
    """The type of a block; told by its members where it does not say."""
    kind = block.get("type")
    if isinstance(kind, str):
        return kind.lower()
    if block.get("source") == "adc":
        return "gcp_adc"
    if isinstance(block.get("token"), str):
        return "bearer"
    return "basic" if isinstance(block.get("username"), str) else ""


def _block_headers(block: Fields) -> dict[str, str]:
    kind = _type_of(block)
    if kind == "none":
        return {}
    if kind == "bearer":
        return {"Authorization": f"Bearer {_secret(block, 'token')}"}
    if kind == "api_key":
        name = block.get("header") or "X-API-Key"
        return {str(name): _secret(block, "token", "api_key", "key", "value")}
    if kind == "basic":
        return {"Authorization": basic(_name(block), _secret(block, "password"))}
    if kind == "gcp_adc":
        raise refuse("auth type 'gcp_adc' is not available in this build")
    known = ", ".join((*_HTTP_TYPES, "gcp_adc", "none"))
    raise refuse(f"auth type '{kind}' is unknown (known: {known})")


def basic(user: str, password: str) -> str:
    """The value of a basic ``Authorization`` header."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def _name(block: Fields) -> str:
    name = block.get("username")
    return name if isinstance(name, str) else ""


def _secret(block: Fields, *keys: str) -> str:
    for key in keys:
        value = block.get(key)
        if isinstance(value, str) and value:
            return value
    raise refuse(f"auth type '{_type_of(block)}' needs {' or '.join(keys)}")
