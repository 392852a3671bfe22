"""What operators and workers ask the server beside executions (§1.2, §1.11, §1.12)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from server_edge import PLAYBOOK, TOKEN, event, running_edge

from noetl_worker.cli.register import findings
from state_builder.ids import shard_of

pytestmark = pytest.mark.anyio
BROKEN = PLAYBOOK.replace(
    "tool: {kind: noop}", "tool: {kind: magic}\n    next: nowhere"
)


async def test_an_editor_the_catalog_and_lint_find_the_same() -> None:
    """PB-700, PB-701: all findings at once, with rule, path and line, in order."""
    errors, warnings = findings(BROKEN)
    wanted = [
        {"id": one.id, "path": one.path, "line": one.line, "message": one.message}
        for one in errors
    ]
    assert len(wanted) == 2
    assert warnings == []
    async with running_edge() as fleet:
        body = {"content": BROKEN}
        asked = await fleet.http.post("/api/catalog/playbooks/validate", json=body)
        stored = await fleet.http.post("/api/catalog/register", json=body)
        run = await fleet.http.post("/api/execute", json={"path": "tests/hello"})
    assert asked.json()["findings"]["errors"] == wanted
    assert asked.json()["errors"] == [one["message"] for one in wanted]
    assert stored.json()["validation"]["errors"] == wanted
    assert run.status_code == 422
    assert run.json()["findings"] == wanted


async def test_a_worker_registers_beats_and_goes() -> None:
    """RT-WPL-1, RT-WPL-2: upsert on kind and name; 404 tells it to register again."""
    async with running_edge() as fleet:
        base = "/api/worker/pool"
        beat = {"name": "w1", "status": "busy"}
        unknown = await fleet.http.post(f"{base}/heartbeat", json=beat)
        given = {"name": "w1", "labels": {"pool_name": "shared"}, "hostname": "h"}
        first = (await fleet.http.post(f"{base}/register", json=given)).json()
        again = await fleet.http.post(
            f"{base}/register", json={**given, "component_type": "worker_pool"}
        )
        beaten = (await fleet.http.post(f"{base}/heartbeat", json=beat)).json()
        rows = (await fleet.http.get("/api/worker/pools?kind=worker_pool")).json()
        other = (await fleet.http.get("/api/worker/pools?status=offline")).json()
        gone = [
            (await fleet.http.request(verb, f"{base}/deregister?name=w1")).json()
            for verb in ("DELETE", "POST")
        ]
    assert unknown.status_code == 404
    assert first["labels"] == {"hostname": "h", "pool_name": "shared"}
    assert first["runtime_id"].isdecimal()
    assert again.json()["runtime_id"] == first["runtime_id"] == beaten["runtime_id"]
    assert (rows["count"], rows["items"][0]["status"]) == (1, "busy")
    assert other == {"items": [], "count": 0}
    assert [one["status"] for one in gone] == ["ok", "not_found"]


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "x", "kind": "toaster"},
        {"name": "x", "worker_public_key": "ké"},
    ],
)
async def test_what_is_no_worker_is_refused(body: dict[str, Any]) -> None:
    """RT-WPL-1."""
    async with running_edge() as fleet:
        headers = {"authorization": f"Bearer {TOKEN}"}
        path = "/api/worker/pool/register"
        answer = await fleet.http.post(path, json=body, headers=headers)
    assert answer.status_code == 422


async def test_silent_workers_are_offline() -> None:
    """RT-WPL-4."""
    async with running_edge(runtime_sweep_s=0.01, runtime_offline_s=0.02) as fleet:
        body = {"name": "w1", "status": "ready"}
        await fleet.http.post("/api/worker/pool/register", json=body)
        status = ""
        with anyio.fail_after(10):
            while status != "offline":
                await anyio.sleep(0.01)
                rows = (await fleet.http.get("/api/worker/pools")).json()["items"]
                status = rows[0]["status"]


async def test_shards_are_told_by_the_same_hash_everywhere() -> None:
    """RT-NATS-10, §1.12."""
    async with running_edge() as fleet:
        path = "/api/runtime/shard-info"
        own = (await fleet.http.get(f"{path}?execution_id=7421")).json()
        asked = await fleet.http.get(f"{path}?execution_id=7421&shard_count=64")
        wrong = [
            (await fleet.http.get(f"{path}?{query}")).status_code
            for query in ("", "execution_id=x", "execution_id=1&shard_count=1025")
        ]
    assert own["shard_index"] == shard_of("7421", own["shard_count"])
    assert own["server_config"] == {"shard_index": 0, "shard_count": own["shard_count"]}
    assert (own["hash_function"], own["seed"], own["source"]) == ("xxh64", 0, "server")
    assert asked.json()["shard_index"] == shard_of("7421", 64)
    assert wrong == [422] * 3


async def test_the_front_page_counts_what_is_there() -> None:
    """§1.12: nested for newer clients, flat for older ones."""
    async with running_edge() as fleet:
        for _ in range(2):
            await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
        ended, failed, _ = [await fleet.start() for _ in range(3)]
        await fleet.append(ended, event("playbook_completed"))
        await fleet.append(failed, event("playbook_failed"))
        await fleet.materialize()
        found = (await fleet.http.get("/api/dashboard/stats")).json()
        widgets = (await fleet.http.get("/api/dashboard/widgets")).json()["widgets"]
    assert found["stats"] == {
        "total_executions": 3,
        "successful_executions": 1,
        "failed_executions": 1,
        "cancelled_executions": 0,
        "running_executions": 1,
        "total_playbooks": 1,
        "total_workers": 0,
    }
    flat = ("total_executions", "successful_executions", "total_playbooks")
    assert {found[name] for name in flat} == {3, 1}
    assert found["active_workflows"] == 1
    assert widgets[0]["data"]["failed"] == 1


async def test_health_tells_of_database_and_broker() -> None:
    """RT-OBS-13, §1.2: liveness looks at nothing."""
    async with running_edge() as fleet:
        alive = await fleet.http.get("/health")
        found = (await fleet.http.get("/api/health")).json()
        fleet.bus.disconnect()
        cut = (await fleet.http.get("/api/health")).json()
        fleet.database.away = "restarting"
        down = await fleet.http.get("/api/health")
        still = await fleet.http.get("/health")
    assert alive.json() == still.json() == {"status": "ok"}
    assert (found["status"], found["database"], found["nats"]) == (
        "ok",
        "connected",
        "connected",
    )
    assert found["version"] == "1.2.3"
    assert cut["nats"] == "disconnected"
    assert (down.status_code, down.json()["database"]) == (503, "disconnected")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/nothing"), ("DELETE", "/api/health"), ("PUT", "/api/execute")],
)
async def test_no_such_route_is_told_in_the_one_shape(method: str, path: str) -> None:
    """RT-API-3, RT-API-4: 404 and 405."""
    async with running_edge() as fleet:
        answer = await fleet.http.request(method, path)
    assert answer.status_code in (404, 405)
    body = answer.json()
    assert body["error"] == body["detail"] == body["message"]
    assert body["status"] == answer.status_code


async def test_browsers_of_other_origins_may_ask() -> None:
    """RT-API-7: preflights carry the session's header."""
    async with running_edge() as fleet:
        answer = await fleet.http.options(
            "/api/execute",
            headers={
                "origin": "http://elsewhere",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,x-session-token",
            },
        )
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] in ("*", "http://elsewhere")
    assert "x-session-token" in answer.headers["access-control-allow-headers"].lower()


async def test_a_body_may_say_more_than_we_know_but_not_without_end() -> None:
    """RT-API-6, RT-API-9."""
    async with running_edge(body_bytes_max=10_000) as fleet:
        await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
        more = {"path": "tests/hello", "from_the_future": [1], "resource_kind": None}
        taken = await fleet.http.post("/api/execute?unknown=1", json=more)
        large = {"path": "tests/hello", "workload": {"x": "y" * 20_000}}
        refused = await fleet.http.post("/api/execute", json=large)
    assert taken.status_code == 200
    assert refused.status_code == 413
    assert refused.json()["status"] == 413


@pytest.mark.parametrize(
    ("header", "status"),
    [("", 403), (f"Bearer {TOKEN}x", 403), (f"Basic {TOKEN}", 403)],
)
async def test_statements_need_the_token(header: str, status: int) -> None:
    """RT-API-11, §1.12: unless the setting opens the route."""
    async with running_edge() as fleet:
        headers = {"authorization": header} if header else {}
        body = {"query": "SELECT 1"}
        answer = await fleet.http.post(
            "/api/postgres/execute", json=body, headers=headers
        )
    assert answer.status_code == status


async def test_a_statement_that_is_no_base64_is_answered_as_one_that_failed() -> None:
    """§1.12: refused statements are answered, not raised."""
    async with running_edge(allow_sql=True) as fleet:
        for text in ("ké", "a", "/w=="):
            body = {"query_base64": text}
            answer = await fleet.http.post("/api/postgres/execute", json=body)
            assert answer.status_code == 200
            assert answer.json()["status"] == "error"
