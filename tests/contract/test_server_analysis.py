"""What stands out in an execution, and what this build says of routes it lacks."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from server_edge import PLAYBOOK, TOKEN, Fleet, event, running_edge

pytestmark = pytest.mark.anyio


async def troubled(fleet: Fleet) -> str:
    """An execution whose step was tried twice, took long and failed; rows half way."""
    await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
    eid = await fleet.start()

    def at(second: int) -> str:
        return f"2025-06-01T12:00:{second:02}Z"

    for attempt, (begin, end) in enumerate(((0, 1), (2, 40)), 1):
        command = f"{eid}.load.1.{attempt}"
        names = {"command_id": command}
        issued = replace(event("command.issued", "load", **names), at=at(begin))
        started = replace(event("command.started", "load", **names), at=at(begin))
        failed = event("command.failed", "load", error="no such host", **names)
        failed = replace(failed, at=at(end))
        await fleet.append(eid, issued)
        await fleet.append(eid, started, failed)
        if attempt == 1:
            await fleet.materialize()
    return eid


async def test_an_analysis_names_failures_retries_and_slow_steps() -> None:
    """RT §1.5: rows and log together; sums, findings, advice and a prompt."""
    async with running_edge() as fleet:
        eid = await troubled(fleet)
        body = {"max_events": 100, "include_playbook_content": True}
        answer = await fleet.http.post(f"/api/executions/{eid}/analyze", json=body)
        bare = await fleet.http.post(f"/api/executions/{eid}/analyze")
    assert answer.status_code == 200
    found = answer.json()
    summary = found["summary"]
    assert summary["retry_attempts"] == 1
    assert summary["failed_commands"] == 2
    assert summary["events_analyzed"] == 7
    assert summary["steps"] == [
        {"step": "load", "commands": 2, "failed": 2, "seconds": 39.0}
    ]
    kinds = [one["kind"] for one in found["findings"]]
    assert kinds == ["waiting", "failed", "failed", "slow", "retried"]
    assert found["findings"][1]["message"] == "step 'load' failed: no such host"
    assert len(found["recommendations"]) == 4
    assert found["playbook"]["content"] == PLAYBOOK
    assert len(found["event_sample"]) == 7
    assert eid in found["ai_prompt"]
    assert found["cloud"] == {"logs_url": None, "metrics_url": None}
    assert "content" not in bare.json()["playbook"]


@pytest.mark.parametrize(
    "body", [{"max_events": 99}, {"event_sample_size": 1001}, {"max_events": 10_001}]
)
async def test_an_analysis_has_bounds(body: dict[str, int]) -> None:
    async with running_edge() as fleet:
        answer = await fleet.http.post("/api/executions/1/analyze", json=body)
        unknown = await fleet.http.post("/api/executions/1/analyze")
    assert answer.status_code == 422
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/catalog/playbooks/explain/ai", 503),
        ("POST", "/api/catalog/playbooks/generate/ai", 503),
        ("POST", "/api/executions/1/analyze/ai", 503),
        ("POST", "/api/auth/login", 503),
        ("POST", "/api/auth/session/validate", 503),
        ("POST", "/api/auth/check-playbook-access", 503),
        ("GET", "/api/subscriptions", 501),
        ("POST", "/api/subscriptions/7/activate", 501),
        ("GET", "/api/internal/ingress/a", 501),
        ("POST", "/api/internal/cleanup/purge", 501),
        ("POST", "/api/internal/events/project", 501),
    ],
)
async def test_a_route_this_build_lacks_says_why(
    method: str, path: str, status: int
) -> None:
    """RT-API-3, RT-API-4: the four keys, and Retry-After with a 503."""
    async with running_edge() as fleet:
        answer = await fleet.http.request(method, path, json={"a": 1})
    assert answer.status_code == status
    body = answer.json()
    assert body["status"] == status
    assert len(body["error"]) > 20
    assert body["error"] == body["detail"] == body["message"]
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_a_process_tells_what_it_uses() -> None:
    """RT §1.2."""
    async with running_edge() as fleet:
        headers = {"authorization": f"Bearer {TOKEN}"}
        status = (await fleet.http.get("/api/status", headers=headers)).json()
        threads = (await fleet.http.get("/api/threads")).json()
        profiler = (await fleet.http.get("/api/profiler/status")).json()
        memory = (await fleet.http.post("/api/profiler/memory/start")).json()
    assert status["memory_peak_bytes"] > 1 << 20
    assert status["threads"] >= 1
    assert "MainThread" in [one["name"] for one in threads["threads"]]
    assert profiler == memory == {"status": "unavailable"}
