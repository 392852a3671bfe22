"""Named credentials as user code's libraries look for them (TL-PY-13).

Cloud libraries read variables and files; each entry of an ``auth`` map becomes those of
its provider. Files are written by the child, for this run alone.
"""

from __future__ import annotations

from msgspec.json import encode

from state_builder.records import JSON
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, wrong

GOOGLE_FILE = "GOOGLE_APPLICATION_CREDENTIALS"

_Variables = dict[str, tuple[str, ...]]

_AWS: _Variables = {
    "AWS_ACCESS_KEY_ID": ("access_key_id", "aws_access_key_id", "key_id"),
    "AWS_SECRET_ACCESS_KEY": (
        *("secret_access_key", "aws_secret_access_key", "secret_key"),
    ),
    "AWS_SESSION_TOKEN": ("session_token", "aws_session_token"),
    "AWS_DEFAULT_REGION": ("region", "aws_region"),
}
_AZURE: _Variables = {"AZURE_STORAGE_CONNECTION_STRING": ("connection_string",)}
_GOOGLE: _Variables = {GOOGLE_FILE: ("service_account_json", "service_account")}

_TYPES: dict[str, _Variables] = {
    "gcs": _GOOGLE,
    "gcs_service_account": _GOOGLE,
    "service_account": _GOOGLE,
    "aws": _AWS,
    "s3": _AWS,
    "azure": _AZURE,
}


def credentials_of(auth: JSON) -> tuple[dict[str, str], dict[str, str]]:
    """Variables, and files by the variable that names them.

    Raises ToolCallError of ``configuration`` naming entry and type.
    """
    env: dict[str, str] = {}
    files: dict[str, str] = {}
    if not auth:
        return env, files
    if not isinstance(auth, dict):
        raise wrong("auth", auth, "a map of credentials")
    for name, entry in auth.items():
        if not isinstance(entry, dict):
            raise wrong(f"auth.{name}", entry, "a map with type and its fields")
        found = _variables(f"auth.{name}", entry)
        (files if GOOGLE_FILE in found else env).update(found)
    return env, files


def _variables(field: str, entry: Fields) -> dict[str, str]:
    kind = next(
        (entry[key] for key in ("type", "tool", "service") if entry.get(key)), None
    )
    wanted = _TYPES.get(str(kind).lower())
    if wanted is None:
        raise _unusable(field, kind)
    found: dict[str, str] = {}
    for variable, keys in wanted.items():
        value = next((entry[key] for key in keys if entry.get(key)), None)
        if value is not None:
            found[variable] = (
                value if isinstance(value, str) else encode(value).decode()
            )
    if not found:
        fields = ", ".join(keys[0] for keys in wanted.values())
        raise configuration(f"{field}: type '{kind}' needs {fields}")
    return found


def _unusable(field: str, kind: JSON) -> ToolCallError:
    known = ", ".join(sorted(_TYPES))
    return configuration(f"{field}: type '{kind}' is not for python (known: {known})")
