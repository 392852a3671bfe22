"""Steps that wait for a container: parked, ended from outside or by a worker's look."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fleet_client import Fleet, fleet, playbook, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TOKEN = "token-of-this-test"
HEADERS = {"authorization": f"Bearer {TOKEN}"}


def steps(command: str) -> str:
    return f"""
  - step: start
    tool: {{kind: container, image: any, command: [/bin/sh, -c, "{command}"]}}
    next:
      spec: {{mode: exclusive}}
      arcs:
        - {{step: mend, when: "{{{{ event.name == 'call.error' }}}}"}}
        - {{step: done}}
  - {{step: mend, tool: {{kind: noop, result: "{{{{ start.terminal_state }}}}"}}}}
  - {{step: done, tool: {{kind: noop, result: "{{{{ start.terminal_state }}}}"}}}}
"""


@pytest.fixture(scope="module")
async def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Fleet]:
    env = {
        "NOETL_INTERNAL_API_TOKEN": TOKEN,
        "NOETL_CONTAINER_DRIVER": "process",
        "NOETL_WORKER_SLOTS": "1",
    }
    async with fleet(tmp_path_factory.mktemp("fleet"), env=env) as found:
        await found.client.register(playbook("job/long", steps("sleep 60")))
        await found.client.register(playbook("job/short", steps("exit 0")))
        noop = "  - {step: start, tool: {kind: python, code: 'result = 1'}}\n"
        await found.client.register(playbook("job/none", noop))
        yield found


async def parked(running: Fleet, path: str) -> tuple[str, dict[str, Any]]:
    """An execution whose container has begun, and what is known of its job."""
    eid = await running.start(path)
    found: list[Any] = []

    async def waits() -> bool:
        found[:] = await running.rows(
            "SELECT result::text FROM noetl.event WHERE execution_id = $1 AND "
            "event_type = 'command.completed' AND meta @> '{\"pending_callback\": true}'",
            int(eid),
        )
        return bool(found)

    await until(waits, lambda: "it is not parked")
    return eid, json.loads(found[0][0])["context"]["data"]


async def call_back(running: Fleet, eid: str, **body: Any) -> Any:
    path = f"/api/internal/container-callback/{eid}/start"
    async with httpx.AsyncClient(base_url=running.stack.server_url) as http:
        answer = await http.post(path, json=body, headers=HEADERS)
    assert answer.status_code == 202, answer.text
    return answer.json()["status"]


async def last(running: Fleet, eid: str) -> Any:
    """What the last step of an execution that ended gave."""
    assert (await running.ended([eid]))[eid] == "COMPLETED"
    rows = await running.rows(
        "SELECT result::text FROM noetl.event WHERE execution_id = $1 AND "
        "event_type = 'call.done' ORDER BY event_id DESC LIMIT 1",
        int(eid),
    )
    assert await running.violations([eid]) == []
    return json.loads(rows[0][0])["context"]["data"]


@pytest.mark.parametrize("state", ["succeeded", "failed_oom"])
async def test_a_call_back_ends_a_container_that_holds_no_slot(
    running: Fleet, state: str
) -> None:
    """TL-CTR-02, TL-CTR-04 to 06, RT-WRK-16: the only slot serves others meanwhile."""
    eid, job = await parked(running, "job/long")
    beside = await running.start("job/none")
    assert (await running.ended([beside]))[beside] == "COMPLETED"
    other = {"state": "failed", "job_name": "noetl-container-start-1-000000"}
    assert await call_back(running, eid, **other) == "accepted_stale"
    told = {"state": state, "job_name": job["job_name"], "exit_code": 1}
    assert await call_back(running, eid, **told) == "accepted_in_flight"
    assert await last(running, eid) == state
    assert await call_back(running, eid, **told) == "accepted_stale"
    assert await call_back(running, "7", **told) == "accepted_stale"


async def test_a_worker_sees_the_end_nobody_tells(running: Fleet) -> None:
    """TL-CTR-07."""
    eid, _ = await parked(running, "job/short")
    assert await last(running, eid) == "succeeded"


async def test_another_worker_watches_on(running: Fleet) -> None:
    """TL-CTR-01, RT-WRK-20: what a stopping worker watched goes to the next one."""
    eid, _ = await parked(running, "job/short")
    await running.stack.stop_role("worker", 0)
    await running.stack.start_role("worker", 0)
    assert await last(running, eid) == "succeeded"


async def test_cancelling_ends_a_parked_container(running: Fleet) -> None:
    """TL-CTR-09."""
    eid, _ = await parked(running, "job/long")
    await running.client.cancel(eid)
    assert (await running.ended([eid]))[eid] == "CANCELLED"
    assert await running.violations([eid]) == []
