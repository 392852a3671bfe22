"""Log setup: one line per fact, JSON in pods and coloured text for people.

Every line carries the fields of RT-OBS-2; ``bind`` adds those of the message at hand
(``execution_id``, ``command_id``, ``step``, ``pool``). Redaction is the last step
before a line is rendered, so no processor can add a secret behind it (RT-EVT-30).
Lines of libraries come in through the standard library's root logger.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from noetl_worker.settings import Logs
from state_builder.errors import LimitExceededError
from state_builder.records import JSON, encode_json
from state_builder.redact import mask

bind = structlog.contextvars.bound_contextvars
"""``with bind(execution_id=…, command_id=…): …`` for the lines of one message."""

_LIBRARY_LEVEL = logging.WARNING
"""Libraries are heard from here on; ours is :attr:`Logs.level`."""


def setup(settings: Logs, stream: TextIO | None = None, **fields: str) -> None:
    """Configure logging of this process, once, at the composition root.

    ``fields`` go on every line: ``service``, ``version``, ``pool``, ``worker_id``.
    """
    out = stream or sys.stdout
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _constant(fields),
        structlog.processors.format_exc_info,
        _redact,
    ]
    if settings.format == "json":
        processors += [structlog.processors.EventRenamer("message"), _as_json]
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=out.isatty()))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=_Factory(out),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    root.setLevel(_LIBRARY_LEVEL)


class _Factory:
    """Makes loggers that write to one stream and know the room they speak for."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, *names: str) -> _Writer:
        return _Writer(self._out, names[0] if names else "noetl_worker")


class _Writer:
    """Where a rendered line ends."""

    def __init__(self, out: TextIO, target: str) -> None:
        self._out = out
        self.target = target

    def write(self, line: str) -> None:
        self._out.write(line + "\n")
        self._out.flush()

    debug = info = warning = error = critical = exception = msg = write


class _Bridge(logging.Handler):
    """Hands a library's line on as one of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(
            record.levelno, "library.spoke", text=record.getMessage(),
            exc_info=record.exc_info,
        )  # fmt: skip


def _constant(fields: dict[str, str]) -> Processor:
    def add(logger: _Writer, method: str, event: EventDict) -> EventDict:
        del method
        event.setdefault("target", logger.target)
        for name, text in fields.items():
            event.setdefault(name, text)
        return event

    return cast(Processor, add)


class _Hidden:
    """Texts no line of this process may hold."""

    def __init__(self) -> None:
        self.texts: Callable[[], tuple[str, ...]] = tuple


_hidden: Final = _Hidden()


def hide(texts: Callable[[], tuple[str, ...]]) -> None:
    """Mask these in every line from now on; asked anew for each (SC-LG-03)."""
    _hidden.texts = texts


def _redact(logger: object, method: str, event: EventDict) -> MutableMapping[str, Any]:
    del logger, method
    plain = {name: _plain(value) for name, value in event.items()}
    try:
        return cast(dict[str, Any], mask(plain, _hidden.texts()))
    except LimitExceededError as error:
        return {"event": event.get("event"), "unmasked": str(error)}


def _as_json(logger: object, method: str, event: EventDict) -> str:
    del logger, method
    return encode_json(event).decode()


def _plain(value: object) -> JSON:
    """A value JSON knows: numbers, texts and containers stay, others are shown."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return str(value)
