"""Values that steps read and write by reference, on a store in a directory (TL §3.10)."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool_calls

from noetl_worker.lifecycle import SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.artifacts import StepValues
from noetl_worker.results.objects import open_store
from noetl_worker.results.values import Values, ValueSettings
from tools.contract import ToolLimits
from tools.errors import ToolCallError

pytestmark = pytest.mark.anyio

CALL = tool_calls.context(ToolLimits())


@pytest.fixture
def values(tmp_path: Path) -> StepValues:
    store = open_store("disk", "", str(tmp_path))
    settings = ValueSettings(bytes_max=100)
    return StepValues(Values(store, SystemClock(), PrometheusObserver(), settings))


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
