"""Credentials of a step as secrets of a DuckDB connection (TL-DK-05).

What is built here holds passwords: it runs before the step's own statements and is
never part of a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from state_builder.records import JSON
from tools.doors.duck import identifier, text_literal
from tools.errors import configuration
from tools.fields import Fields

_POSTGRES: Final = {
    "HOST": ("host", "db_host"),
    "PORT": ("port", "db_port"),
    "DATABASE": ("database", "dbname", "db_name"),
    "USER": ("user", "username", "db_user"),
    "PASSWORD": ("password", "db_password"),
}
_HMAC: Final = {"KEY_ID": ("key_id",), "SECRET": ("secret_key", "secret")}
_S3: Final = {
    "KEY_ID": ("access_key_id", "key_id"),
    "SECRET": ("secret_access_key", "secret_key", "secret"),
    "SESSION_TOKEN": ("session_token",),
    "REGION": ("region",),
    "ENDPOINT": ("endpoint",),
    "URL_STYLE": ("url_style",),
}
_TYPES: Final[dict[str, tuple[str, dict[str, tuple[str, ...]], str, str]]] = {
    "postgres": ("POSTGRES", _POSTGRES, "postgres", ""),
    "postgresql": ("POSTGRES", _POSTGRES, "postgres", ""),
    "hmac": ("GCS", _HMAC, "httpfs", "gs://"),
    "gcs_hmac": ("GCS", _HMAC, "httpfs", "gs://"),
    "gcs": ("GCS", _HMAC, "httpfs", "gs://"),
    "s3": ("S3", _S3, "httpfs", "s3://"),
    "aws": ("S3", _S3, "httpfs", "s3://"),
}
"""Credential type → DuckDB's type, its words, the extension, what it opens."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a step's credentials ask of a connection."""

    extensions: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()


def access_of(config: Fields) -> Access:
    """The secrets of ``auth`` (one block, or a map of named ones) and
    ``gcs_credential``. Raises ToolCallError of ``configuration`` naming the entry.
    """
    entries: dict[str, JSON] = {}
    auth = config.get("auth")
    if isinstance(auth, dict) and auth:
        entries = {"auth": auth} if _type_of(auth) else dict(auth)
    hmac = config.get("gcs_credential")
    if isinstance(hmac, dict):
        entries["gcs_credential"] = {"type": "hmac", **hmac}
    extensions: dict[str, None] = {}
    statements: list[str] = []
    urls: dict[str, None] = {}
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise configuration(f"auth.{name} must be a map with a type")
        kind = _type_of(entry)
        if kind not in _TYPES:
            known = ", ".join(sorted(_TYPES))
            raise configuration(f"auth.{name}.type must be one of {known}")
        secret, words, extension, opens = _TYPES[kind]
        extensions[extension] = None
        statements.append(_secret(name, secret, words, entry))
        if opens:
            urls[str(entry.get("scope") or opens)] = None
    return Access(
        extensions=tuple(extensions), statements=tuple(statements), urls=tuple(urls)
    )


def _type_of(entry: Fields) -> str:
    for key in ("type", "tool", "service"):
        kind = entry.get(key)
        if isinstance(kind, str):
            return kind.lower()
    return ""


def _secret(
    name: str, kind: str, words: dict[str, tuple[str, ...]], entry: Fields
) -> str:
    parts = [f"TYPE {kind}"]
    for word, keys in {**words, "SCOPE": ("scope",)}.items():
        value = next((entry[key] for key in keys if entry.get(key)), None)
        if value is not None:
            parts.append(f"{word} {text_literal(str(value))}")
    return f"CREATE TEMPORARY SECRET {identifier(name)} ({', '.join(parts)})"
