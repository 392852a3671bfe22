"""Bad input through the whole fleet: the right error, seen by the step's policy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fleet_client import Fleet, fleet, playbook

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

WAT = """(module (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
            (i64.extend_i32_u (local.get 1)))))"""
TOKEN = "token-of-this-test"
HEADERS = {"authorization": f"Bearer {TOKEN}"}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # name: (tool, error as rules and arcs see it)
    "refused": (
        "{kind: http, url: 'http://127.0.0.1:9/'}",
        {"kind": "connection", "code": "CONNECTION", "retryable": True},
    ),
    "metadata": (
        "{kind: http, url: 'http://169.254.169.254/latest'}",
        {"kind": "configuration", "retryable": False},
    ),
    "missing": (
        "{kind: http, url: '{{ workload.server }}/no/such/page'}",
        {"kind": "not_found", "code": "HTTP_404", "retryable": False},
    ),
    "internal": (
        "{kind: http, url: '{{ workload.server }}/api/internal/secret-audit'}",
        {"kind": "configuration", "retryable": False},
    ),
    "raised": (
        "{kind: python, code: 'raise ConnectionResetError()'}",
        {"kind": "exception", "code": "ConnectionResetError", "retryable": True},
    ),
    "killed": (
        "{kind: python, code: 'import os; os.kill(os.getpid(), 9)'}",
        {"kind": "process", "code": "tool_crashed", "retryable": False},
    ),
    "late": (
        "{kind: python, code: 'while True: pass', timeout: 0.5}",
        {"kind": "timeout", "code": "timeout", "retryable": True},
    ),
    "endless": (
        "{kind: shell, cmd: 'yes', timeout: 0.5}",
        {"kind": "timeout", "code": "timeout", "retryable": True},
    ),
    "bomb": (
        "{kind: shell, cmd: 'b() { b | b & }; b; sleep 9'}",
        {"kind": "limit", "code": "processes_max", "retryable": False},
    ),
    "exit": (
        "{kind: shell, cmd: 'exit 3'}",
        {"kind": "process", "code": "EXIT_3", "retryable": False},
    ),
    "outside": (
        "{kind: python, script: {uri: ../../etc/passwd}}",
        {"kind": "configuration", "retryable": False},
    ),
    "plugin": (
        "{kind: wasm, plugin: no/such}",
        {"kind": "not_found", "code": "plugin", "retryable": False},
    ),
    "unbuilt": (
        "{kind: rhai, code: '1'}",
        {"kind": "configuration", "retryable": False},
    ),
}

POLICY = (
    "spec: {policy: {rules: [{when: '{{ output.error }}', then: "
    "{do: continue, set: {ctx.error: '{{ output.error }}'}}}]}}"
)


def guarded(tool: str) -> str:
    """Steps that absorb the tool's error and keep it as a result."""
    return f"""
  - step: start
    tool:
      - {{name: attempt, {tool[1:-1]}, {POLICY}}}
    next: done
  - step: done
    tool: {{kind: noop, result: "{{{{ ctx.error }}}}"}}
"""


@pytest.fixture(scope="module")
async def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Fleet]:
    env = {
        "NOETL_TOOL_MAX_PROCESSES": "50",
        "NOETL_INTERNAL_API_TOKEN": TOKEN,
        "NOETL_CONTAINER_DRIVER": "process",
    }
    async with fleet(tmp_path_factory.mktemp("fleet"), env=env) as found:
        yield found


async def result(running: Fleet, execution_id: str, step: str) -> Any:
    """Data of a step's last call, from the materialized rows."""
    rows = await running.rows(
        "SELECT result::text FROM noetl.event WHERE execution_id = $1 AND "
        "event_type = 'call.done' AND node_name = $2 ORDER BY event_id DESC LIMIT 1",
        int(execution_id),
        step,
    )
    return json.loads(rows[0][0])["context"]["data"]


async def test_errors_reach_the_policy_of_their_step(running: Fleet) -> None:
    """TL-ERR-02, TL-ERR-04, TL-OUT-04, TL-SEC-04, TL-SEC-05, all through the fleet."""
    started = {}
    for name, (tool, _) in CASES.items():
        path = f"tools/{name}"
        await running.client.register(playbook(path, guarded(tool)))
        started[name] = await running.start(path, server=running.stack.server_url)
    statuses = await running.ended(list(started.values()))
    for name, (_, expected) in CASES.items():
        eid = started[name]
        assert statuses[eid] == "COMPLETED", name
        error = await result(running, eid, "done")
        found = {key: error.get(key) for key in expected}
        assert found == expected, (name, error)
        assert error["message"]


async def test_kinds_that_run_code_give_their_data(running: Fleet) -> None:
    """TL-WA-01, TL-CTR-08, TL-PY-04, TL-SH-06 in one execution."""
    await put_plugin(running)
    steps = """
  - step: start
    tool:
      - {name: py, kind: python, input: {n: 2}, code: "result = {'n': n + 1}"}
      - {name: sh, kind: shell, input: {n: "{{ py.n }}"}, cmd: 'printf %s "$NOETL_ARG_N"'}
      - {name: wa, kind: wasm, plugin: {path: team/echo}, input: {n: "{{ sh.text }}"}}
      - {name: co, kind: container, image: any, command: [/bin/echo, "{{ wa.output.n }}"]}
"""
    await running.client.register(playbook("tools/code", steps))
    eid = await running.start("tools/code")
    statuses = await running.ended([eid])
    data = await result(running, eid, "start")
    assert statuses[eid] == "COMPLETED"
    assert (data["py"], data["sh"]["text"]) == ({"n": 3}, "3")
    assert (data["wa"]["output"], data["co"]["stdout"]) == ({"n": "3"}, "3\n")


ASKS = """(module
  (import "noetl" "event_publish" (func $event (param i32 i32) (result i32)))
  (import "noetl" "result_put" (func $result (param i32 i32 i32 i32) (result i32)))
  (import "noetl" "object_put" (func $object (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "notes")
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i64)
    (drop (call $event (local.get 0) (local.get 1)))
    (drop (call $result (i32.const 0) (i32.const 5) (local.get 0) (local.get 1)))
    (drop (call $object (i32.const 0) (i32.const 5) (local.get 0) (local.get 1)))
    (i64.const 0)))"""
GRANTED = "event_publish,result_put,object_put"


async def test_what_a_plugin_asks_for_happens(running: Fleet) -> None:
    """TL-WA-06, TL-WA-07: in the log, the result store and the object store; but not
    in the platform's own name."""
    await put_plugin(running, "team/asks", ASKS, GRANTED)
    said = {"type": "order.seen", "payload": {"n": 7}}
    tool = {"kind": "wasm", "plugin": "team/asks", "input": said}
    forged = {**tool, "input": {"type": "call.done"}}
    runs = {}
    for name, one in (("forges", forged), ("asks", tool)):
        steps = f"  - {{step: start, tool: {json.dumps(one)}}}\n"
        await running.client.register(playbook(f"tools/{name}", steps))
        runs[name] = await running.start(f"tools/{name}")
        wanted = "COMPLETED" if name == "asks" else "FAILED"
        assert await running.ended([runs[name]]) == {runs[name]: wanted}
    data = await result(running, runs["asks"], "start")
    assert data["flush"] == {
        "results_stored": 1,
        "objects_stored": 1,
        "events_published": 1,
        "errors": [],
    }
    rows = await running.rows(
        "SELECT node_name, context::text FROM noetl.event WHERE execution_id = $1 "
        "AND event_type = 'order.seen'",
        int(runs["asks"]),
    )
    assert [(row[0], json.loads(row[1])) for row in rows] == [("start", {"n": 7})]
    async with httpx.AsyncClient(base_url=running.stack.server_url) as http:
        stored = await http.get("/api/internal/objects/notes", headers=HEADERS)
    assert stored.json() == said


async def put_plugin(
    running: Fleet, path: str = "team/echo", code: str = WAT, granted: str = ""
) -> None:
    """Register a module with the server."""
    async with httpx.AsyncClient(base_url=running.stack.server_url) as http:
        answer = await http.put(
            f"/api/internal/plugins/{path}",
            content=code.encode(),
            params={"capabilities": granted},
            headers=HEADERS,
        )
        assert answer.status_code == 200, answer.text
