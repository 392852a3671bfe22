"""A worker that dies after it stored a result and before the log named it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fleet_client import Fleet, fleet, playbook, until

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

STEPS = """
  - step: start
    tool:
      kind: python
      code: "import os, time\\ntime.sleep(2)\\nresult = {'run': os.urandom(8).hex(), 'pad': 'x' * 200000}"
    next: use
  - step: use
    tool:
      kind: python
      input: {run: "{{ start.run }}", pad: "{{ start.pad }}"}
      code: "result = {'run': run, 'pad': len(pad)}"
    next: end
  - {step: end, tool: {kind: noop, result: ["{{ use }}", "{{ start._ref }}"]}}
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def found(tmp_path: Path) -> AsyncIterator[Fleet]:
    env = {
        "NOETL_RESULT_STORE": "disk",
        "NOETL_DATA_DIR": str(tmp_path / "files"),
        "NOETL_RESULT_PURGE_INTERVAL_SECS": "1",
        "NOETL_RESULT_KEEP_SECS": "3",
    }
    async with fleet(tmp_path / "fleet", env=env) as running:
        await running.client.register(playbook("crash/stored", STEPS))
        yield running


async def test_a_result_nobody_named_is_stored_again_and_purged(
    found: Fleet, tmp_path: Path
) -> None:
    """TL-RR-55, TL-RR-54, RT-HSK-1: put before event; the orphan takes no room for ever."""

    def stored() -> set[str]:
        names = (path.name for path in (tmp_path / "files").rglob("*.about"))
        return {name.removesuffix(".about") for name in names}

    async def started() -> bool:
        rows = await found.rows(
            "SELECT 1 FROM noetl.event WHERE execution_id = $1 "
            "AND event_type = 'command.started'",
            int(eid),
        )
        return bool(rows)

    async def one_is_stored() -> bool:
        return len(stored()) == 1

    async def two_are_stored() -> bool:
        return len(stored()) == 2

    async def none_is_left() -> bool:
        return not stored()

    eid = await found.start("crash/stored")
    await until(started, lambda: "the step does not start")
    # Without a broker the result can be stored, and nobody can be told of it.
    await found.stack.kill_nats()
    await until(one_is_stored, lambda: "the result is not stored")
    await found.stack.kill("worker", 0)
    (orphan,) = stored()
    await found.stack.start_nats()
    await found.stack.start_role("worker", 0)
    await until(two_are_stored, lambda: "the step does not run again")
    (named,) = stored() - {orphan}
    assert (await found.ended([eid]))[eid] == "COMPLETED"
    rows = await found.rows(
        "SELECT result::text FROM noetl.execution WHERE execution_id = $1", int(eid)
    )
    used, ref = json.loads(rows[0][0])
    assert used["pad"] == 200_000 and len(used["run"]) == 16
    assert ref.endswith(named.partition("%40")[2] or named.partition("@")[2])
    assert await found.violations([eid]) == []
    await until(none_is_left, lambda: f"left behind: {stored()}")
