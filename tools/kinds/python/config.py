"""The canonical configuration of ``python``: one source, checked lists (TL-PY-01)."""

from __future__ import annotations

from base64 import b64decode

from state_builder.records import JSON
from tools.errors import configuration
from tools.fields import Fields, environment_of, map_of, text_of, texts_of, wrong
from tools.kinds.python.credentials import credentials_of


def canonical(config: Fields) -> Fields:
    """``code`` or ``script``, ``input``, ``libs``, ``expects``, ``returns`` …

    Raises ToolCallError of ``configuration`` naming the field.
    """
    assertion, deps = map_of(config, "assert"), map_of(config, "deps")
    variables, files = credentials_of(config.get("auth"))
    result: Fields = {
        **_source(config),
        "input": map_of(config, "input"),
        "libs": map_of(config, "libs"),
        "expects": list(texts_of(assertion, "expects", "assert.")),
        "returns": list(texts_of(assertion, "returns", "assert.")),
        "packages": list(texts_of(deps, "packages", "deps.")),
        "sys_path": list(texts_of(deps, "sys_path", "deps.")),
        "env": {**variables, **environment_of(config)},
        "files": dict(files),
    }
    for key, value in (
        ("venv_path", text_of(deps, "venv_path", "deps.")),
        ("cwd", text_of(config, "cwd")),
        ("python", text_of(config, "python")),
    ):
        if value is not None:
            result[key] = value
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
        raise wrong("code", code, "a text")
    return {"code": code}


def _inline(script: JSON) -> str | None:
    """The code of an inline script, None for one that has to be loaded."""
    if script is None:
        return None
    if not isinstance(script, dict):
        raise wrong("script", script, "a map with uri or source")
    source = script.get("source")
    found = source.get("code") if isinstance(source, dict) else None
    kind = source.get("type") if isinstance(source, dict) else None
    if found is None and kind == "inline":
        found = script.get("code")
        if found is None:
            raise configuration("script.source.code: an inline script has no code")
    if found is not None and not isinstance(found, str):
        raise wrong("script.source.code", found, "a text")
    return found


def _decoded(encoded: JSON) -> str:
    try:
        if isinstance(encoded, str):
            return b64decode("".join(encoded.split()), validate=True).decode(
                "utf-8-sig"
            )
    except ValueError as error:
        raise configuration(f"code_b64 is not base64 of a text: {error}") from error
    raise configuration("code_b64 must be a text")
