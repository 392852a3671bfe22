"""One trace from the caller through every process of an execution and its children."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fleet_client import fleet, playbook

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHILD = "  - {step: start, tool: {kind: shell, cmds: ['printf $TRACEPARENT']}}\n"
ROOT = """
  - {step: start, tool: {kind: shell, cmds: ['printf $TRACEPARENT']}, next: code}
  - {step: code, tool: {kind: python, code: "import os; result = os.environ['TRACEPARENT']"}, next: child}
  - {step: child, tool: {kind: playbook, path: trace/child}, next: after}
  - {step: after, tool: {kind: noop, result: ["{{ start.stdout }}", "{{ code }}", "{{ child.stdout }}"]}}
"""


async def test_a_trace_reaches_every_process(tmp_path: Path) -> None:
    """RT-OBS-10, RT-API-8: start, commands, processes, children have one trace."""
    async with fleet(tmp_path / "data") as found:
        await found.client.register(playbook("trace/child", CHILD))
        await found.client.register(playbook("trace/root", ROOT))
        async with httpx.AsyncClient(base_url=found.stack.server_url) as http:
            body, headers = {"path": "trace/root"}, {"traceparent": TRACE}
            answer = await http.post("/api/execute", json=body, headers=headers)
        execution_id = answer.json()["execution_id"]
        statuses = await found.ended([execution_id])
        told = await found.client.execution(execution_id)
        assert statuses[execution_id] == "COMPLETED", told["error"]
        assert told["result"] == [TRACE] * 3
        rows = await found.rows(
            "SELECT event_type, meta->'trace'->>'traceparent' FROM noetl.event "
            "WHERE event_type IN ('playbook_started', 'command.issued')"
        )
        assert {trace for _, trace in rows} == {TRACE}
        assert len([kind for kind, _ in rows if kind == "playbook_started"]) == 2
