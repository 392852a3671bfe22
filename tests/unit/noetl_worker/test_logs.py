"""Log lines: one JSON object each, redacted last (style 3.12, RT-OBS-2)."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from noetl_worker import logs
from noetl_worker.settings import Logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_carries_the_fields_operators_query() -> None:
    """RT-OBS-2."""
    out = io.StringIO()
    logs.setup(Logs(), out, service="noetl-worker", version="1", pool="shared")
    with logs.bind(execution_id="42", command_id="42.load.1.1"):
        structlog.get_logger("noetl_worker.daemons.executor").info(
            "command.finished", status="COMPLETED", seconds=0.25
        )
    [line] = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "message": "command.finished",
        "level": "info",
        "target": "noetl_worker.daemons.executor",
        "service": "noetl-worker",
        "version": "1",
        "pool": "shared",
        "execution_id": "42",
        "command_id": "42.load.1.1",
        "status": "COMPLETED",
        "seconds": 0.25,
    }


def test_secrets_are_masked_whatever_processor_added_them() -> None:
    """RT-EVT-30, RT-EVT-31."""
    out = io.StringIO()
    logs.setup(Logs(), out)
    structlog.get_logger("t").warning(
        "call.failed",
        config={"password": "hush", "host": "db"},
        error="Authorization: Bearer hush1234567890hush",
    )
    assert "hush" not in out.getvalue()
    assert lines(out)[0]["config"]["host"] == "db"


def test_values_json_does_not_know_are_shown_as_text() -> None:
    out = io.StringIO()
    logs.setup(Logs(), out)
    structlog.get_logger("t").info(
        "thing.seen", names={"a"}, error=ValueError("odd"), pair=(1, None)
    )
    [line] = lines(out)
    assert (line["names"], line["error"], line["pair"]) == (["a"], "odd", [1, None])


def test_an_exception_is_part_of_its_line() -> None:
    out = io.StringIO()
    logs.setup(Logs(), out)
    try:
        raise RuntimeError("broken on purpose")
    except RuntimeError:
        structlog.get_logger("t").exception("daemon.failed")
    [line] = lines(out)
    assert "RuntimeError: broken on purpose" in line["exception"]


def test_lines_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    logs.setup(Logs(level="WARNING"), out)
    structlog.get_logger("t").info("thing.seen")
    structlog.get_logger("t").warning("thing.missed")
    assert [line["message"] for line in lines(out)] == ["thing.missed"]


def test_libraries_speak_through_the_same_stream() -> None:
    out = io.StringIO()
    logs.setup(Logs(), out)
    logging.getLogger("uvicorn.error").warning("port %d is slow", 80)
    logging.getLogger("uvicorn.error").info("chatter")
    [line] = lines(out)
    assert (line["target"], line["text"]) == ("uvicorn.error", "port 80 is slow")


def test_people_get_text() -> None:
    out = io.StringIO()
    logs.setup(Logs(format="text"), out)
    structlog.get_logger("t").info("role.started", role="worker")
    assert "role.started" in out.getvalue()
    assert not out.getvalue().startswith("{")
