"""Reading and ending executions over HTTP (RT-EXN)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from msgspec.json import decode
from server_edge import PLAYBOOK, Fleet, event, running_edge

from noetl_worker.server.shapes import duration_words, percent
from state_builder.records import Genesis

pytestmark = pytest.mark.anyio


async def started(fleet: Fleet, **body: Any) -> str:
    await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
    return await fleet.start(**body)


async def status(fleet: Fleet, execution_id: str) -> dict[str, Any]:
    answer = await fleet.http.get(f"/api/executions/{execution_id}/status")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def run_to(fleet: Fleet, execution_id: str, *types: str) -> None:
    """Append one event of each type, as an owner does."""
    for kind in types:
        step = "start" if kind.startswith("step") else ""
        await fleet.append(execution_id, event(kind, step))


async def test_a_just_started_execution_is_known_everywhere_at_once() -> None:
    """RT-EXE-7, RT-NATS-30: before any row, without any owner."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        base = f"/api/executions/{eid}"
        assert (await status(fleet, eid))["status"] == "RUNNING"
        check = (await fleet.http.get(f"{base}/cancellation-check")).json()
        detail = (await fleet.http.get(base)).json()
        cancel = (await fleet.http.post(f"{base}/cancel")).json()
    assert check == {
        "execution_id": eid,
        "is_cancelled": False,
        "cancelled": False,
        "status": "RUNNING",
        "completed": False,
        "failed": False,
    }
    assert [e["event_type"] for e in detail["events"]] == ["playbook_started"]
    assert detail["workload"]["name"] == "world"
    assert cancel["status"] == "cancelling"


async def test_an_execution_started_elsewhere_is_found_in_the_log() -> None:
    """RT-ARC-3, RT-NATS-30: any server may take any request."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await run_to(fleet, eid, "step.enter")
        fleet.edge.live._facts.clear()
        fleet.edge.streams._history._starts.clear()
        found = await status(fleet, eid)
    assert (found["current_step"], found["progress"]["running_steps"]) == ("start", 1)


async def test_unknown_executions_are_404_and_not_5xx() -> None:
    """RT-NATS-30, RT-API-3."""
    async with running_edge() as fleet:
        for eid in ("12345", "abc", "9" * 30):
            for what in ("", "/status", "/events", "/cancellation-check", "/stream"):
                answer = await fleet.http.get(f"/api/executions/{eid}{what}")
                assert answer.status_code == 404, (eid, what)
                assert answer.json()["detail"] == answer.json()["message"]
            for what in ("/cancel", "/stop", "/finalize", "/rerun"):
                answer = await fleet.http.post(f"/api/executions/{eid}{what}")
                assert answer.status_code == 404, (eid, what)


async def test_the_owner_answers_first() -> None:
    """RT-EXN-4: one answer serves GUI, CLI and scripts."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.own(
            eid,
            current_step="b",
            completed_steps=["start", "a"],
            running_steps=["b"],
            failed_steps=["x"],
            total_steps=5,
            variables={"n": 3},
            waiting=[{"kind": "timer"}],
            last_event_type="step.enter",
            last_event_id="2048",
        )
        found = await status(fleet, eid)
        variables = (await fleet.http.get(f"/api/vars/{eid}")).json()
        one = (await fleet.http.get(f"/api/vars/{eid}/n")).json()
        none = await fleet.http.get(f"/api/vars/{eid}/m")
        detail = (await fleet.http.get(f"/api/executions/{eid}")).json()
    assert found["completed_steps"] == ["start", "a"]
    assert found["progress"] == {
        "total_steps": 5,
        "completed_steps": 2,
        "running_steps": 1,
        "failed_steps": 1,
    }
    assert (found["completed"], found["failed"], found["is_cancelled"]) == (False,) * 3
    assert found["completion_inferred"] is False
    assert found["variables"] == {"n": 3}
    assert found["start_time"] == "2025-06-01T12:00:00.000000Z"
    assert found["end_time"] is None
    assert variables["variables"]["n"]["value"] == one["value"] == 3
    assert none.status_code == 404
    assert detail["progress"] == 60


@pytest.mark.parametrize(
    ("word", "completed", "failed", "cancelled"),
    [
        ("COMPLETED", True, False, False),
        ("FAILED", True, True, False),
        ("CANCELLED", True, False, True),
    ],
)
async def test_the_flags_the_cli_reads(
    word: str, completed: bool, failed: bool, cancelled: bool
) -> None:
    """RT-EXN-4: completed for every terminal status, failed only for FAILED."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.own(eid, word, end_time="2025-06-01T12:01:05Z", error="no")
        found = await status(fleet, eid)
    flags = (found["completed"], found["failed"], found["is_cancelled"])
    assert flags == (completed, failed, cancelled)
    assert (found["duration_seconds"], found["duration_human"]) == (65.0, "1m 5s")


async def test_an_end_once_told_is_never_taken_back() -> None:
    """RT-EXN-5: also when nobody can be asked any more."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.own(eid, "COMPLETED")
        assert (await status(fleet, eid))["status"] == "COMPLETED"
        await fleet.own(eid, "RUNNING")
        fleet.database.away = "away"
        assert (await status(fleet, eid))["status"] == "COMPLETED"


async def test_without_an_owner_row_and_log_tell_the_end() -> None:
    """RT-NATS-30, RT-PRJ-5: a terminal is seen before it is materialized."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await run_to(fleet, eid, "step.enter")
        await fleet.materialize()
        await run_to(fleet, eid, "step.exit", "playbook.failed", "note.late")
        found = await status(fleet, eid)
        detail = (await fleet.http.get(f"/api/executions/{eid}")).json()
    assert (found["status"], found["completed_steps"]) == ("FAILED", ["start"])
    assert found["last_event_type"] == "playbook.failed"
    assert detail["progress"] == 100
    types = [item["event_type"] for item in detail["events"]]
    assert types == [
        "note.late",
        "playbook.failed",
        "step.exit",
        "step.enter",
        "playbook_started",
    ]


async def test_events_link_across_rows_and_log() -> None:
    """RT-EVT-20: the same predecessor, wherever an event is read."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await run_to(fleet, eid, "step.enter")
        await fleet.materialize()
        await run_to(fleet, eid, "step.exit", "playbook.completed")
        mixed = (await fleet.http.get(f"/api/executions/{eid}/events")).json()
        await fleet.materialize()
        rows = (await fleet.http.get(f"/api/executions/{eid}/events")).json()
    keys = ("event_id", "prev_event_id", "event_type", "status", "node_name", "meta")
    assert [[e[key] for key in keys] for e in mixed["events"]] == [
        [e[key] for key in keys] for e in rows["events"]
    ]
    ids = [e["event_id"] for e in rows["events"]]
    assert [e["prev_event_id"] for e in rows["events"]] == [*ids[1:], None]
    assert all(e["status"] for e in rows["events"])
    assert all(e["timestamp"] == e["created_at"] for e in rows["events"])


async def test_events_come_in_pages_newest_first() -> None:
    """RT-EXN-2, RT-EXN-11."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        for _ in range(14):
            await run_to(fleet, eid, "note.taken")
        await fleet.materialize()
        for _ in range(10):
            await run_to(fleet, eid, "note.taken")
        url = f"/api/executions/{eid}/events"

        async def page(**query: Any) -> dict[str, Any]:
            return dict((await fleet.http.get(url, params=query)).json())

        pages = [await page(page=number, page_size=10) for number in (1, 2, 3)]
        anchor = pages[1]["events"][0]["event_id"]
        since = await page(since_event_id=anchor)
        typed = await page(event_type="playbook_started")
        rounded = await page(since_event_id=f"{float(anchor):.0f}")
        odd = await fleet.http.get(url, params={"since_event_id": "x"})
    found = [e["event_id"] for each in pages for e in each["events"]]
    assert len(found) == len(set(found)) == 25
    assert found == sorted(found, key=int, reverse=True)
    assert pages[0]["pagination"] == {
        "page": 1,
        "page_size": 10,
        "total_events": 25,
        "total_pages": 3,
        "has_next": True,
        "has_prev": False,
    }
    assert pages[2]["pagination"]["has_next"] is False
    assert [e["event_id"] for e in since["events"]] == found[:10]
    assert len(typed["events"]) == typed["pagination"]["total_events"] == 1
    assert rounded == since
    assert odd.status_code == 422


async def test_the_list_is_an_array_with_every_name_both_clients_read() -> None:
    """RT-EXN-1, RT-API-30."""
    async with running_edge() as fleet:
        first = await started(fleet)
        second = await fleet.start()
        await run_to(fleet, first, "playbook.completed")
        await fleet.materialize()

        async def ids(**query: Any) -> list[str]:
            answer = await fleet.http.get("/api/executions", params=query)
            assert isinstance(answer.json(), list)
            return [row["execution_id"] for row in answer.json()]

        assert await ids() == [second, first]
        assert await ids(status="completed") == [first]
        assert await ids(path="tests/none") == []
        assert await ids(limit=1) == [second]
        assert await ids(page=2, page_size=1) == [first]
        assert await ids(offset=1) == [first]
        row = (await fleet.http.get("/api/executions?status=COMPLETED")).json()[0]
    assert row["start_time"] == row["started_at"] is not None
    assert row["end_time"] == row["completed_at"] is not None
    assert (row["progress"], row["status"]) == (100, "COMPLETED")
    assert isinstance(row["version"], int)
    for name in ("duration_seconds", "duration_human", "result", "error"):
        assert name in row


async def test_cancel_waits_for_the_owners_terminal() -> None:
    """RT-EXN-6, RT-EXN-7: the request is the server's, the end the owner's."""
    async with (
        running_edge(end_wait_s=5.0) as fleet,
        anyio.create_task_group() as tasks,
    ):
        eid = await started(fleet)
        tasks.start_soon(fleet.answer_requests)
        url = f"/api/executions/{eid}/cancel"
        answer = (await fleet.http.post(url, json={"reason": "enough"})).json()
        again = (await fleet.http.post(f"/api/executions/{eid}/stop")).json()
        requests = [
            record.events[0]
            for record in await fleet.log()
            if record.events[0].type == "playbook.cancel_requested"
        ]
        tasks.cancel_scope.cancel()
    assert answer["status"] == "cancelled"
    assert answer["cancelled_executions"] == [eid]
    assert again["status"] == "already_completed"
    assert again["cancelled_executions"] == []
    [request] = requests
    assert request.error == "enough"
    assert decode(request.meta) == {"reason": "enough", "cascade": True}


async def test_cancel_goes_down_to_every_descendant() -> None:
    """RT-EXN-6."""
    async with (
        running_edge(end_wait_s=5.0) as fleet,
        anyio.create_task_group() as tasks,
    ):
        parent = await started(fleet)
        child = await fleet.start(parent_execution_id=parent)
        grandchild = await fleet.start(parent_execution_id=child)
        other = await fleet.start()
        await fleet.materialize()
        tasks.start_soon(fleet.answer_requests)
        url = f"/api/executions/{parent}/cancel"
        alone = await fleet.start()
        only = await fleet.http.post(
            f"/api/executions/{alone}/cancel", json={"cascade": False}
        )
        answer = (await fleet.http.post(url)).json()
        assert (await status(fleet, other))["status"] == "RUNNING"
        tasks.cancel_scope.cancel()
    assert only.json()["cancelled_executions"] == [alone]
    assert sorted(answer["cancelled_executions"]) == sorted([parent, child, grandchild])


async def test_an_execution_that_completes_meanwhile_is_told_so() -> None:
    """RT-EXN-6, A9: answers are consistent with the one terminal."""
    async with (
        running_edge(end_wait_s=5.0) as fleet,
        anyio.create_task_group() as tasks,
    ):
        eid = await started(fleet)
        tasks.start_soon(fleet.answer_requests, "playbook.completed")
        answer = (await fleet.http.post(f"/api/executions/{eid}/cancel")).json()
        tasks.cancel_scope.cancel()
    assert answer["status"] == "already_completed"
    assert answer["cancelled_executions"] == []


async def test_a_cancel_that_cannot_be_stored_is_a_503() -> None:
    """RT-API-10."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.own(eid)
        listener = await fleet.edge.hub.join(eid)
        fleet.broker.settings = type(fleet.broker.settings)(
            shard_count=4, log_bytes_max=1
        )
        answer = await fleet.http.post(f"/api/executions/{eid}/cancel")
        fleet.edge.hub.leave(listener)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"status": "COMPLETED"}, "COMPLETED"),
        ({"status": "failed", "error": "stuck"}, "FAILED"),
        ({"reason": "stuck"}, "FAILED"),
    ],
)
async def test_finalize_asks_for_the_end_it_is_told(
    body: dict[str, str], word: str
) -> None:
    """RT-EXN-8."""
    async with (
        running_edge(end_wait_s=5.0) as fleet,
        anyio.create_task_group() as tasks,
    ):
        eid = await started(fleet)
        tasks.start_soon(fleet.answer_requests)
        url = f"/api/executions/{eid}/finalize"
        first = await fleet.http.post(url, json=body)
        same = await fleet.http.post(url, json={"status": word})
        other = "FAILED" if word == "COMPLETED" else "COMPLETED"
        different = await fleet.http.post(url, json={"status": other})
        bad = await fleet.http.post(url, json={"status": "PAUSED"})
        tasks.cancel_scope.cancel()
    assert (first.status_code, first.json()["status"]) == (200, word)
    assert same.status_code == 200
    assert different.status_code == 409
    assert bad.status_code == 422


async def test_finalize_without_an_owner_answers_with_the_status_so_far() -> None:
    """RT-EXN-8: 202."""
    async with running_edge(end_wait_s=0.05) as fleet:
        eid = await started(fleet)
        answer = await fleet.http.post(f"/api/executions/{eid}/finalize", json={})
    assert (answer.status_code, answer.json()["status"]) == (202, "RUNNING")


async def test_rerun_starts_the_same_version_with_the_workload_overlaid() -> None:
    async with running_edge() as fleet:
        eid = await started(fleet, workload={"name": "moon"})
        await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
        answers = []
        for _ in range(2):
            answer = await fleet.http.post(
                f"/api/executions/{eid}/rerun", json={"workload": {"depth": {"b": 9}}}
            )
            answers.append(answer.json())
            await fleet.materialize()
        records = await fleet.log()
    born = decode(records[-1].events[0].context, type=Genesis)
    assert {answer["status"] for answer in answers} == {"started"}
    assert answers[0]["execution_id"] != eid
    assert born.version == 1
    assert decode(born.workload) == {"name": "moon", "depth": {"a": 1, "b": 9}}


async def test_cleanup_cancels_what_stands_still_and_waits_for_nothing() -> None:
    """RT-EXN-9."""
    async with (
        running_edge(end_wait_s=5.0) as fleet,
        anyio.create_task_group() as tasks,
    ):
        eid = await started(fleet)
        await fleet.materialize()
        tasks.start_soon(fleet.answer_requests)
        url = "/api/executions/cleanup"
        young = (await fleet.http.post(url)).json()
        body = {"older_than_minutes": 0, "dry_run": True}
        dry = (await fleet.http.post(url, json=body)).json()
        done = (await fleet.http.post(url, json={**body, "dry_run": False})).json()
        bad = await fleet.http.post(url, json={"older_than_minutes": -1})
        tasks.cancel_scope.cancel()
    assert young["execution_ids"] == []
    assert (dry["cancelled_count"], dry["execution_ids"]) == (0, [eid])
    assert (done["cancelled_count"], done["execution_ids"]) == (1, [eid])
    assert bad.status_code == 422


async def test_history_is_a_503_with_the_reason_while_the_database_is_away() -> None:
    """RT-ARC-4."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.own(eid)
        fleet.database.away = "restarting"
        listed = await fleet.http.get("/api/executions")
        assert (await status(fleet, eid))["status"] == "RUNNING"
        events = await fleet.http.get(f"/api/executions/{eid}/events")
    assert listed.status_code == 503
    assert "restarting" in listed.json()["error"]
    assert listed.headers["retry-after"] == "1"
    assert [e["event_type"] for e in events.json()["events"]] == ["playbook_started"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (59.9, "59s"), (3600, "1h"), (93_784, "1d 2h 3m 4s"), (-5, "0s")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    """RT-EXN-1."""
    assert duration_words(seconds) == words


@pytest.mark.parametrize(
    ("over", "done", "known", "shown"),
    [(True, 0, 0, 100), (False, 0, 0, 0), (False, 2, 3, 66), (False, 3, 3, 99)],
)
def test_progress_is_100_only_at_the_end(
    over: bool, done: int, known: int, shown: int
) -> None:
    """RT-EXN-10."""
    assert percent(over, done, known) == shown
