"""What user code gave, as JSON: a value, an exit code or an exception."""

from __future__ import annotations

import datetime
import json
import linecache
import sys
import traceback
from base64 import b64encode
from typing import Any

TRACEBACK_MAX = 16384


def check_keys(value: Any, wanted: list[str]) -> None:
    """Raise AssertionError for promised keys the result lacks (TL-PY-06)."""
    missing = [key for key in wanted if not (isinstance(value, dict) and key in value)]
    if missing:
        raise AssertionError(
            f"result lacks what assert.returns names: {', '.join(missing)}"
        )


def as_json(value: Any) -> str:
    """A value as strict JSON text (TL-RES-06, TL-PY-10)."""
    try:
        return _strict(value)
    except (TypeError, ValueError):
        return _strict(cleaned(value))


def plain(value: Any) -> Any:
    """Something JSON knows, in place of what it does not."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b64encode(value).decode()
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return list(value)
    module = type(value).__module__.partition(".")[0]
    if module == "numpy" and hasattr(value, "item"):
        return value.item() if getattr(value, "ndim", 0) == 0 else value.tolist()
    if module == "pandas" and hasattr(value, "to_dict"):
        return (
            value.to_dict("records") if hasattr(value, "columns") else value.to_dict()
        )
    return str(value)


_strict = json.JSONEncoder(default=plain, allow_nan=False).encode


def cleaned(value: Any) -> Any:
    """A value with text keys and without NaN and infinities."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key_text(key): cleaned(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(member) for member in value]
    if value is None or isinstance(value, (str, int)):
        return value
    return cleaned(plain(value))


def key_text(key: Any) -> str:
    """A key as JSON writes it; others as text."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return "null" if key is None else str(key)


def exit_code(error: SystemExit) -> int:
    """The code a process would end with; a text goes to stderr as it would there."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    print(error.code, file=sys.stderr)  # noqa: T201 - what Python itself does
    return 1


def described(error: BaseException, filename: str, source: str) -> dict[str, Any]:
    """An exception of user code, with the traceback its author needs (TL-PY-11)."""
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename != filename:
        frame = frame.tb_next
    name = type(error).__name__
    try:
        text = "".join(traceback.format_exception(type(error), error, frame))
        message = str(error)
    except Exception:  # noqa: BLE001 - its own __str__ may be broken
        text, message = f"{name}\n", ""
    kinds = {base.__name__ for base in type(error).__mro__}
    return {
        "kind": "exception",
        "exception": name,
        "message": f"{name}: {message}" if message else name,
        "traceback": text[-TRACEBACK_MAX:],
        "retryable": bool(kinds & {"TimeoutError", "ConnectionError"}),
    }
