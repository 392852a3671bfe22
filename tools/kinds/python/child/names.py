"""What user code finds: its libraries, its globals, the arguments of ``main``."""

from __future__ import annotations

import builtins
import datetime
import importlib
import inspect
import json
import keyword
import os
import re
import sys
import uuid
from typing import Any


class Misuse(Exception):
    """The request cannot run, whatever is tried."""


def prepare(request: dict[str, Any]) -> None:
    """Paths, environment and working directory of a run; its libraries exist."""
    sys.path[:0] = request.get("sys_path") or []
    if request.get("env"):
        os.environ.update(request["env"])
    for variable, text in (request.get("files") or {}).items():
        os.environ[variable] = private_file(variable.lower(), text)
    if request.get("cwd"):
        os.chdir(request["cwd"])
    missing = [
        name for name in request.get("expects") or [] if name not in request["input"]
    ]
    if missing:
        raise Misuse(f"input lacks what the code expects: {', '.join(missing)}")
    request["modules"] = libraries(request)


def private_file(name: str, text: str) -> str:
    """A file that only this user reads; gone with the run's directory."""
    path = os.path.join(os.getcwd(), name)
    with open(path, "w", encoding="utf-8", opener=opened_privately) as file:
        file.write(text)
    return path


def opened_privately(path: str, flags: int) -> int:
    """A descriptor of a file with mode 0600."""
    return os.open(path, flags, 0o600)


def libraries(request: dict[str, Any]) -> dict[str, Any]:
    """What ``libs`` names, by alias; all missing modules in one error."""
    found: dict[str, Any] = {}
    missing: list[str] = []
    for alias, spec in (request.get("libs") or {}).items():
        module, name = alias, ""
        if isinstance(spec, str):
            module = spec
        elif isinstance(spec, dict):
            module, name = spec.get("from") or "", spec.get("import") or alias
            if not module:
                module, name = name, ""
        try:
            loaded = importlib.import_module(module)
            found[alias] = getattr(loaded, name) if name else loaded
        except (ImportError, AttributeError):
            missing.append(f"{module}.{name}" if name else module)
    for package in request.get("packages") or []:
        name = re.split(r"[\s<>=!~;\[]", package.strip(), maxsplit=1)[0]
        try:
            importlib.import_module(name.replace("-", "_"))
        except ImportError:
            missing.append(name)
    if missing:
        raise Misuse(f"Required libraries not installed: {', '.join(missing)}")
    return found


def names_for(request: dict[str, Any]) -> dict[str, Any]:
    """The globals a run starts with (TL-PY-04)."""
    given = request["input"]
    usable = {
        key: value
        for key, value in given.items()
        if key.isidentifier() and not keyword.iskeyword(key)
    }
    request["objects"] = {
        "args": given,
        "input_data": given,
        "context": {**request["variables"], **given},
        "variables": request["variables"],
    }
    return {
        "__name__": "__main__",
        "__builtins__": builtins,
        "os": os,
        "json": json,
        "datetime": datetime,
        "uuid": uuid,
        "workload": request["workload"],
        "execution_id": request["execution_id"],
        "step": request["step"],
        **request["objects"],
        **request["modules"],
        **usable,
    }


def bound(main: Any, request: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``main`` by name: input, then the run's objects, then context."""
    given = request["input"]
    objects, context = request["objects"], request["objects"]["context"]
    arguments: dict[str, Any] = {}
    rest: str | None = None
    for name, parameter in inspect.signature(main).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = name
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise Misuse(f"main: parameter '{name}' must be one that takes a name")
        elif name in given:
            arguments[name] = given[name]
        elif name in objects:
            arguments[name] = objects[name]
        elif name in context:
            arguments[name] = context[name]
        elif name in ("workload", "execution_id", "step"):
            arguments[name] = names[name]
        elif parameter.default is parameter.empty:
            raise Misuse(f"main: no value for required parameter '{name}'")
    if rest is not None:
        arguments.update(
            {key: value for key, value in given.items() if key not in arguments}
        )
    return arguments
