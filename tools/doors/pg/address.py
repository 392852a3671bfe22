"""Where to connect: connection strings and fields into one canonical form."""

from __future__ import annotations

import shlex
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from tools.errors import configuration
from tools.fields import Fields, first_of, integer_of, text_of, wrong

MODES: Final = ("disable", "prefer", "allow", "require", "verify-ca", "verify-full")
"""``sslmode`` (TL-PG-14)."""

_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "host": ("host", "db_host", "hostname"),
    "port": ("port", "db_port"),
    "database": ("database", "dbname", "db_name"),
    "user": ("user", "username", "db_user"),
    "password": ("password", "db_password"),
    "sslmode": ("sslmode",),
    "sslrootcert": ("sslrootcert",),
}
_IGNORED: Final = frozenset(
    ("application_name", "connect_timeout", "client_encoding", "target_session_attrs")
)
"""Words of a connection string the door decides itself."""


def address_of(config: Fields, *, default_host: str = "", where: str = "") -> Fields:
    """``host``, ``port``, ``database``, ``user``, ``password``, ``sslmode``,
    ``sslrootcert``; fields of ``auth`` count where the field itself is not given.

    Raises ToolCallError of ``configuration`` naming what is missing (TL-PG-01).
    """
    auth = config.get("auth")
    given = {**(auth if isinstance(auth, dict) else {}), **config}
    text = text_of(given, "connection_string", where)
    if text is not None:
        given = _parsed(text, f"{where}connection_string")
    address: Fields = {}
    for name, keys in _NAMES.items():
        _, value = first_of(given, keys)
        if isinstance(value, bool | list | dict):
            raise wrong(f"{where}{name}", value, "a text")
        address[name] = "" if value is None else str(value)
    address["host"] = address["host"] or default_host
    if not address["host"]:
        raise configuration(
            f"{where or 'postgres '}needs a connection_string, a host, or an auth "
            "block with one"
        )
    address["port"] = (
        integer_of({"port": address["port"] or None}, "port", least=1, most=65535)
        or 5432
    )
    address["database"] = address["database"] or "postgres"
    address["user"] = address["user"] or "postgres"
    address["sslmode"] = address["sslmode"] or "prefer"
    if address["sslmode"] not in MODES:
        raise wrong(f"{where}sslmode", address["sslmode"], f"one of {', '.join(MODES)}")
    return address


def _parsed(text: str, name: str) -> Fields:
    """A connection string, as a URL or as words ``key=value``.

    Its text never shows up in an error: it may hold a password.
    """
    try:
        fields = _of_url(text) if "://" in text else _of_words(text)
    except ValueError as error:
        raise configuration(
            f"{name} is neither a URL postgresql://user@host/database nor words "
            "like host=… dbname=…"
        ) from error
    known = {key for keys in _NAMES.values() for key in keys}
    for key in fields:
        if key not in known | _IGNORED:
            raise configuration(f"{name}: '{key[:40]}' is not supported")
    return fields


def _of_url(text: str) -> Fields:
    parts = urlsplit(text)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError
    found: Fields = {
        "host": unquote(parts.hostname or ""),
        "port": str(parts.port or ""),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.removeprefix("/")),
    }
    for key, value in parse_qsl(parts.query, strict_parsing=bool(parts.query)):
        found["database" if key == "dbname" else key] = value
    return found


def _of_words(text: str) -> Fields:
    found: Fields = {}
    for word in shlex.split(text):
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError
        found[key] = value
    return found
