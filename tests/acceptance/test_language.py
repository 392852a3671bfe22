"""Playbooks that call playbooks, on the real stack, with fewer slots than calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet_client import fleet, playbook

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CHILD = "{kind: playbook, path: lang/child, input: {n: 4}}"
PLAYBOOKS: dict[str, tuple[str, Any]] = {
    # path: (steps, result of the execution)
    "lang/child": (
        '  - {step: start, tool: {kind: noop, result: {v: "{{ n }}"}}}\n',
        0,
    ),
    "lang/broken": (
        "  - {step: start, tool: {kind: http, url: 'http://127.0.0.1:1'}}\n",
        0,
    ),
    "lang/middle": (
        """
  - step: start
    tool:
      - {name: a, kind: playbook, path: lang/child, input: {n: 4}}
      - {name: b, kind: playbook, path: lang/broken, return_step: start}
      - {name: c, kind: playbook, path: lang/broken, policy: {rules: [{else: {do: continue}}]}}
      - {name: d, kind: playbook, path: no/such, policy: {rules: [{else: {do: continue}}]}}
      - {name: e, kind: playbook, path: lang/child, async: true}
      - {name: t, kind: noop, result: "{{ a.v }} {{ b.status }} {{ c.status }} {{ d.error.kind }} {{ e.status }}"}
    next: after
  - {step: after, tool: {kind: noop, result: "{{ start.t }}"}}
""",
        "4 FAILED FAILED configuration started",
    ),
    "lang/deep": (
        """
  - {step: start, tool: [{name: a, kind: playbook, path: lang/middle}, {name: t, kind: noop, result: "{{ a.data }}"}], next: after}
  - {step: after, tool: {kind: noop, result: "{{ start.t }}"}}
""",
        "4 FAILED FAILED configuration started",
    ),
    "lang/async": (
        """
  - {step: start, tool: {kind: playbook, path: lang/child, async: true}, next: unknown}
  - {step: unknown, tool: {kind: playbook, path: no/such}, next: {arcs: [{step: after, when: "{{ error.kind == 'configuration' }}"}]}}
  - {step: after, tool: {kind: noop, result: "{{ start.status }}"}}
""",
        "started",
    ),
    "lang/retry": (
        """
  - step: start
    tool:
      kind: playbook
      path: lang/broken
      retry: {max_attempts: 2, retry_on: [child_failed], backoff: 1}
      policy: {rules: [{when: "{{ _attempt == 2 }}", then: {do: continue, set: {tries: "{{ _attempt }}"}}}]}
    next: after
  - {step: after, tool: {kind: noop, result: "{{ tries }} {{ start.status }}"}}
""",
        "2 FAILED",
    ),
    "lang/late": (
        """
  - {step: start, tool: {kind: playbook, path: lang/sleeper, timeout: 1, return_step: start, cancel_on_timeout: true}, next: after}
  - {step: after, tool: {kind: noop, result: "{{ start.status }}"}}
""",
        "timeout",
    ),
    "lang/sleeper": ("  - {step: start, tool: {kind: shell, cmds: ['sleep 20']}}\n", 0),
    "lang/wide": (
        """
  - step: start
    loop: {in: 6, iterator: i, spec: {mode: parallel}}
    tool: {kind: playbook, path: lang/child, input: {n: "{{ i }}"}}
    next: after
  - {step: after, tool: {kind: noop, result: "{{ start | map(attribute='v') | list }}"}}
""",
        [0, 1, 2, 3, 4, 5],
    ),
}


async def test_calls_of_every_kind_end_with_their_results(tmp_path: Path) -> None:
    """PB-185, PB-600 to PB-610, TL-PB-04, TL-TS-33: a worker of three slots will do."""
    env = {"NOETL_WORKER_SLOTS": "3"}
    async with fleet(tmp_path / "data", env=env) as found:
        for path, (steps, _) in PLAYBOOKS.items():
            await found.client.register(playbook(path, steps))
        wanted = {
            path: result for path, (_, result) in PLAYBOOKS.items() if result != 0
        }
        started = {path: await found.start(path) for path in wanted}
        statuses = await found.ended(list(started.values()))
        results = {}
        for path, execution_id in started.items():
            answer = await found.client.execution(execution_id)
            assert statuses[execution_id] == "COMPLETED", (path, answer.get("error"))
            results[path] = answer["result"]
        assert results == wanted
        tree = await found.rows("SELECT execution_id FROM noetl.execution")
        ids = [row[0] for row in tree]
        await found.ended([str(one) for one in ids])
        assert await found.violations(ids) == []
