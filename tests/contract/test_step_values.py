"""Values that steps read and write by reference, on a store in a directory (TL §3.10)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
import tool_calls

from noetl_worker.lifecycle import SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.artifacts import StepValues
from noetl_worker.results.objects import open_store
from noetl_worker.results.values import Values, ValueSettings
from state_builder.locator import ResultPlace, result_locator
from state_builder.template import Scope, StepResult, render
from tools.contract import ToolLimits, ToolPorts
from tools.errors import ToolCallError
from tools.kinds.artifact import Artifact

pytestmark = pytest.mark.anyio

CALL = tool_calls.context(ToolLimits())


@pytest.fixture
def values(tmp_path: Path) -> StepValues:
    store = open_store("disk", "", str(tmp_path))
    settings = ValueSettings(bytes_max=100, stream_bytes_max=3000)
    kept = Values(store, SystemClock(), PrometheusObserver(), settings)
    return StepValues(kept, map(str, count(1)).__next__)


async def test_what_was_written_is_read(values: StepValues) -> None:
    """TL-AR-03, TL-AR-04: the same data again has the same name."""
    kept = await values.write(CALL, "note", b'{"n":7}', "execution")
    assert kept["bytes"] == 7
    assert await values.read(CALL, str(kept["ref"])) == {"n": 7}
    again = await values.write(CALL, "note", b'{"n":7}', "execution")
    assert again["ref"] == kept["ref"]


async def test_what_cannot_be_read_says_why(values: StepValues) -> None:
    """TL-AR-03, TL-AR-05: of another tenant is refused."""
    large = await values.write(CALL, "large", b'"%s"' % (b"x" * 200), "execution")
    for ref, kind in (
        (str(large["ref"]), "limit"),
        ("noetl://default/default/artifacts/7/none@0", "missing_reference"),
        ("noetl://other/default/artifacts/7/note@0", "auth"),
        ("noetl://default", "configuration"),
    ):
        with pytest.raises(ToolCallError) as caught:
            await values.read(CALL, ref)
        assert caught.value.failure.kind == kind, ref
    with pytest.raises(ToolCallError, match="scope must be one of"):
        await values.write(CALL, "note", b"1", "forever")


async def test_a_reference_passed_on_gives_what_a_reader_of_the_result_sees(
    values: StepValues, tmp_path: Path
) -> None:
    """PB-345, TL-AR-03: merged keys of a one-task pipeline included."""
    settings = ValueSettings(bytes_max=1000)
    store = open_store("disk", "", str(tmp_path))
    results = Values(store, SystemClock(), PrometheusObserver(), settings)
    data = b'{"fetch":{"count":3},"note":7}'
    place = result_locator(ResultPlace("7", "load", "1", "0", "1"), "v")
    kept = await results.keep(place, data, {"form": "pipeline"})
    tool = Artifact(ToolLimits())
    call = tool_calls.context(ToolLimits(), ports=ToolPorts(values=values))
    found = await tool.run(tool.validate({"uri": kept.ref}), call)
    assert found.data == {"fetch": {"count": 3}, "note": 7, "count": 3}
    scope = Scope(results={"load": StepResult(found.data)})
    assert render("{{ load.count }}{{ load.fetch.count }}", scope) == "33"


async def chunks(size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, 1000):
        yield b"\xff" * min(1000, size - start)


async def test_bytes_pass_through_whatever_may_be_held(values: StepValues) -> None:
    """TL-AR-03, TL-AR-04: what is larger than a value in memory is read by pieces."""
    about = {"content_type": "image/png"}
    kept = await values.stream(CALL, "photo", chunks(2500), about)
    assert (kept["bytes"], kept["content_type"]) == (2500, "image/png")
    opened = await values.open(CALL, str(kept["ref"]))
    assert b"".join([chunk async for chunk in opened.chunks]) == b"\xff" * 2500
    with pytest.raises(ToolCallError, match="artifact put and source") as caught:
        await values.read(CALL, str(kept["ref"]))
    assert caught.value.failure.kind == "limit"
    small = await values.stream(CALL, "photo", chunks(3), {})
    assert await values.read(CALL, str(small["ref"])) == b"\xff\xff\xff"


async def test_a_repeated_call_overwrites_nothing(values: StepValues) -> None:
    """TL-RR-10: what an earlier delivery told of stays what it was."""
    first = await values.stream(CALL, "photo", chunks(3), {})
    again = await values.stream(CALL, "photo", chunks(4), {})
    assert first["ref"] != again["ref"]
    assert await values.read(CALL, str(first["ref"])) == b"\xff" * 3


async def test_too_much_is_refused_and_nothing_is_kept(
    values: StepValues, tmp_path: Path
) -> None:
    """TL-LIM-04: the setting is named; half a value takes no room."""
    with pytest.raises(ToolCallError, match="NOETL_RESULT_STREAM_MAX_BYTES") as caught:
        await values.stream(CALL, "photo", chunks(3001), {})
    failure = caught.value.failure
    assert (failure.kind, failure.code) == ("limit", "stream_bytes_max")
    assert not failure.retryable
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
