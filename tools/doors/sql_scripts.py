"""SQL that is not in the playbook: loaded when a step runs, then split as ever."""

from __future__ import annotations

from tools.contract import ToolLimits
from tools.doors.scripts import load_script
from tools.doors.web import Web
from tools.errors import configuration
from tools.fields import Fields, map_of, wrong
from tools.sql import POSTGRES, Dialect, split, statements_of


def sql_of(
    config: Fields, keys: tuple[str, ...], dialect: Dialect = POSTGRES
) -> Fields:
    """``statements``, or the ``script`` that will give them (TL-PY-02).

    Raises ToolCallError of ``configuration`` naming the field.
    """
    script = config.get("script")
    if script is None or any(config.get(key) for key in keys):
        return {"statements": [*statements_of(config, keys, dialect)], "script": None}
    if not isinstance(script, dict):
        raise wrong("script", script, "a map with uri or source")
    source = map_of(script, "source")
    code = source.get("code") or script.get("code")
    if source.get("type") == "inline" or code is not None:
        if not isinstance(code, str):
            raise configuration("script.source.code: an inline script has no code")
        return {"statements": [*split(code, dialect)], "script": None}
    return {"statements": [], "script": script}


async def statements_for(
    config: Fields, limits: ToolLimits, web: Web, dialect: Dialect = POSTGRES
) -> list[str]:
    """The statements of a canonical configuration. Raises ToolCallError."""
    script = config["script"]
    if isinstance(script, dict):
        return split(await load_script(script, limits, web), dialect)
    statements = config["statements"]
    assert isinstance(statements, list)
    return [str(statement) for statement in statements]
