"""The canonical configuration of ``python``: one source, checked lists (TL-PY-01)."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Final

from state_builder.records import JSON
from tools.errors import configuration

SCRIPT_BYTES_MAX: Final = 10 << 20
"""Size of a script (TL-PY-02)."""

Fields = dict[str, JSON]


def canonical(config: Fields) -> Fields:
    """``code`` or ``script``, ``input``, ``libs``, ``expects``, ``returns`` …

    Raises ToolCallError of ``configuration`` naming the field.
    """
    result = _source(config)
    result["input"] = _map(config, "input")
    result["libs"] = _map(config, "libs")
    assertion = _map(config, "assert")
    result["expects"] = _names(assertion, "expects", "assert.")
    result["returns"] = _names(assertion, "returns", "assert.")
    deps = _map(config, "deps")
    result["packages"] = _names(deps, "packages", "deps.")
    result["sys_path"] = _names(deps, "sys_path", "deps.")
    if deps.get("venv_path") is not None:
        result["venv_path"] = _text(deps, "venv_path", "deps.")
    result["env"] = _environment(config)
    for key in ("cwd", "python"):
        if config.get(key) is not None:
            result[key] = _text(config, key)
    return result


def _source(config: Fields) -> Fields:
    """TL-PY-01: script, then code_b64, then code; inline scripts are code."""
    script = config.get("script")
    inline = _inline(script)
    if isinstance(script, dict) and inline is None:
        return {"script": script}
    if inline is not None and config.get("code") is None:
        return {"code": inline}
    encoded = config.get("code_b64", config.get("code_base64"))
    if encoded is not None and inline is None:
        return {"code": _decoded(encoded)}
    code = config.get("code")
    if code is None:
        raise configuration("python needs code, code_b64 or script")
    if not isinstance(code, str):
        raise configuration(f"code must be a text, got {type(code).__name__}")
    return {"code": code}


def _inline(script: JSON) -> str | None:
    """The code of an inline script, None for one that has to be loaded."""
    if script is None:
        return None
    if isinstance(script, str):
        raise configuration("script must be a map with uri or source")
    if not isinstance(script, dict):
        raise configuration("script must be a map")
    source = script.get("source")
    found = source.get("code") if isinstance(source, dict) else None
    kind = source.get("type") if isinstance(source, dict) else None
    if found is None and kind == "inline":
        found = script.get("code")
        if found is None:
            raise configuration("script.source.code: an inline script has no code")
    if found is not None and not isinstance(found, str):
        raise configuration("script.source.code must be a text")
    return found


def _decoded(encoded: JSON) -> str:
    try:
        if isinstance(encoded, str):
            return b64decode(encoded, validate=False).decode("utf-8-sig")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise configuration(f"code_b64 is not base64 of a text: {error}") from error
    raise configuration("code_b64 must be a text")


def _map(config: Fields, key: str) -> Fields:
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise configuration(f"{key} must be a map, got {type(value).__name__}")
    return value


def _text(config: Fields, key: str, where: str = "") -> str:
    value = config[key]
    if not isinstance(value, str) or not value:
        raise configuration(f"{where}{key} must be a text")
    return value


def _names(config: Fields, key: str, where: str) -> list[JSON]:
    value = config.get(key)
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise configuration(f"{where}{key} must be a list of texts")
    return value


def _environment(config: Fields) -> Fields:
    """Values of ``env`` as texts; null leaves a variable out."""
    result: Fields = {}
    for name, value in _map(config, "env").items():
        if not name or "=" in name or "\0" in name:
            raise configuration(f"env: '{name}' cannot be the name of a variable")
        if isinstance(value, bool):
            result[name] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            result[name] = str(value)
        elif value is not None:
            raise configuration(f"env.{name} must be a text or a number")
        if "\0" in str(value):
            raise configuration(f"env.{name} contains NUL")
    return result
