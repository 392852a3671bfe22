"""Where a broker is, and which names there are a playbook's to use."""

from __future__ import annotations

from typing import Final

from state_builder.records import JSON
from tools.errors import configuration
from tools.fields import Fields, first_of, texts_of

_NAMES: Final = {
    "url": ("nats_url", "url", "servers"),
    "user": ("user", "nats_user", "username"),
    "password": ("password", "nats_password"),
    "token": ("token", "nats_token"),
    "creds": ("creds", "nats_creds"),
}
_INTERNAL: Final = ("noetl_", "KV_noetl_", "OBJ_noetl_")
_INTERNAL_SUBJECTS: Final = ("noetl.", "$", "_INBOX.")


def address_of(config: Fields, default_url: str) -> Fields:
    """``url`` (one or a comma list), ``user``, ``password``, ``token``, ``creds``.

    Raises ToolCallError of ``configuration`` where there is no broker named.
    """
    auth = config.get("auth")
    given = {**(auth if isinstance(auth, dict) else {}), **config}
    address: Fields = {}
    for name, keys in _NAMES.items():
        key, value = first_of(given, keys)
        if isinstance(value, list):
            value = ",".join(texts_of(given, key))
        address[name] = "" if value is None else str(value)
    address["url"] = address["url"] or default_url
    if not address["url"]:
        raise configuration(
            "url: say which NATS server, here or in an auth block (the worker's own is "
            "used only with NOETL_NATS_TOOL_USE_WORKER_CONN=true)"
        )
    return address


def forbid_internal(name: str, path: str, what: str) -> None:
    """Refuse a stream or bucket of the platform, but to its own playbooks."""
    if name.startswith(_INTERNAL) and not path.startswith("system/"):
        raise configuration(f"{what}: '{name}' belongs to the platform itself")


def subject_of(text: JSON, what: str, path: str) -> str:
    """A subject or key that says exactly one place (TL-NA-05)."""
    if not isinstance(text, str) or not text:
        raise configuration(f"{what} is required")
    tokens = text.split(".")
    if any(not token or set(token) & set(" \t\r\n\0*>") for token in tokens):
        raise configuration(
            f"{what}: '{text[:80]}' must be words joined by dots, "
            "without blanks, * or >"
        )
    if text.startswith(_INTERNAL_SUBJECTS) and not path.startswith("system/"):
        raise configuration(f"{what}: '{text[:80]}' belongs to the platform itself")
    return text
