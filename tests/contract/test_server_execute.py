"""Starting executions over HTTP (RT-EXE)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from msgspec import convert
from msgspec.json import decode
from server_edge import PLAYBOOK, SHARDS, Fleet, event, running_edge

from state_builder.ids import shard_of
from state_builder.records import Genesis, Record, Reference, decode_append

pytestmark = pytest.mark.anyio

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


async def register(fleet: Fleet, content: str = PLAYBOOK) -> dict[str, Any]:
    answer = await fleet.http.post("/api/catalog/register", json={"content": content})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def genesis(record: Record) -> Genesis:
    return decode(record.events[0].context, type=Genesis)


async def test_one_event_in_the_log_and_the_execution_exists() -> None:
    """RT-EXE-2, RT-EXE-6, RT-EXE-9, RT-NATS-20."""
    async with running_edge() as fleet:
        entry = await register(fleet)
        answer = await fleet.http.post(
            "/api/execute",
            json={
                "path": "tests/hello",
                "workload": {"depth": {"b": 3}, "x": "{{ y }}"},
            },
        )
        [record] = await fleet.log()
        message = await fleet.bus.log.read(1)
    body = answer.json()
    eid = body["execution_id"]
    assert answer.status_code == 200
    assert isinstance(eid, str) and isinstance(body["version"], int)
    assert (body["status"], body["commands_generated"]) == ("started", 0)
    assert body["catalog_id"] == entry["catalog_id"]
    assert record.execution_id == eid
    assert message is not None and message.shard == shard_of(eid, SHARDS)
    [started] = record.events
    assert (started.type, started.status) == ("playbook_started", "STARTED")
    born = genesis(record)
    assert decode(born.workload) == {
        "name": "world",
        "depth": {"a": 1, "b": 3},
        "x": "{{ y }}",
    }
    assert (born.path, born.version, born.pool) == ("tests/hello", 1, "shared")
    meta = decode(started.meta)
    assert meta["emitter"] == "control_plane"
    assert meta["trace"] == decode(born.trace)
    assert meta["trace"]["traceparent"].count("-") == 3


@pytest.mark.parametrize("key", ["payload", "workload", "args", "input"])
async def test_the_workload_may_come_under_any_of_its_names(key: str) -> None:
    """RT-EXE-1."""
    async with running_edge() as fleet:
        await register(fleet)
        await fleet.start(**{key: {"name": "moon"}})
        [record] = await fleet.log()
    assert decode(genesis(record).workload)["name"] == "moon"


async def test_templates_in_defaults_are_rendered_once_at_the_start() -> None:
    """PB-021, PB-023, PB-024: request data is data."""
    content = PLAYBOOK.replace(
        "  name: world  # ui:description=who is greeted\n",
        "  name: world\n  tag: '{{ name }}'\n  run: '{{ execution_id }}'\n",
    )
    async with running_edge() as fleet:
        await register(fleet, content)
        eid = await fleet.start(workload={"name": "{{ secret }}"})
        [record] = await fleet.log()
    workload = decode(genesis(record).workload)
    assert workload["name"] == workload["tag"] == "{{ secret }}"
    assert str(workload["run"]) == eid


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({}, 422, "'path' or 'catalog_id'"),
        ({"path": "no/such"}, 404, "not in the catalog"),
        ({"path": "tests/hello", "version": 9}, 404, "version 9"),
        ({"catalog_id": "77"}, 404, "77"),
        ({"catalog_id": "seven"}, 422, "catalog_id"),
        ({"path": "tests/hello", "version": "newest"}, 422, "version"),
        ({"path": "tests/hello", "resource_kind": "recipe"}, 422, "resource_kind"),
        ({"path": "tests/hello", "workload": [1]}, 422, "workload"),
        ({"path": "tests/hello", "execution_pool": "No Such"}, 422, "execution_pool"),
        ({"path": "tests/hello", "dedup": {"key": ""}}, 422, "dedup"),
        ({"path": 5}, 400, "path"),
    ],
)
async def test_what_cannot_be_started_says_why(
    body: dict[str, Any], status: int, named: str
) -> None:
    """RT-EXE-3, RT-API-3."""
    async with running_edge() as fleet:
        await register(fleet)
        answer = await fleet.http.post("/api/execute", json=body)
        assert await fleet.log() == []
    found = answer.json()
    assert answer.status_code == found["status"] == status
    assert found["error"] == found["detail"] == found["message"]
    assert named in found["error"]


async def test_an_invalid_playbook_is_refused_with_every_finding() -> None:
    """PB-700: 422 with all messages, nothing is created."""
    broken = PLAYBOOK.replace(
        "    tool: {kind: noop}\n", "    next: [{step: nowhere}]\n  - step: start\n"
    )
    async with running_edge() as fleet:
        await register(fleet, broken)
        answer = await fleet.http.post("/api/execute", json={"path": "tests/hello"})
        again = await fleet.http.post("/api/execute", json={"path": "tests/hello"})
        assert await fleet.log() == []
    assert answer.status_code == again.status_code == 422
    found = answer.json()["findings"]
    assert len(found) > 1
    assert all(finding["message"] in answer.json()["error"] for finding in found)


async def test_a_credential_cannot_be_executed() -> None:
    """RT-EXE-3."""
    async with running_edge() as fleet:
        await register(fleet, "kind: Credential\nmetadata: {name: pg}\n")
        answer = await fleet.http.post("/api/execute", json={"path": "pg"})
    assert answer.status_code == 422
    assert "credential" in answer.json()["error"]


async def test_a_known_playbook_starts_while_the_database_is_away() -> None:
    """RT-ARC-4, RT-AFF-5: and without asking it in the second after it was asked."""
    async with running_edge() as fleet:
        await register(fleet)
        await fleet.start()
        asked = fleet.tables.asked
        await fleet.start()
        assert fleet.tables.asked == asked
        fleet.database.away = "away"
        fleet.edge.catalog._latest["tests/hello"].asked_at -= 60
        await fleet.start()
        unknown = await fleet.http.post("/api/execute", json={"path": "tests/other"})
    assert unknown.status_code == 503
    assert unknown.headers["retry-after"] == "1"


async def test_a_new_version_is_started_at_once_where_it_was_registered() -> None:
    async with running_edge() as fleet:
        await register(fleet)
        await fleet.start()
        await register(fleet, PLAYBOOK.replace("world", "moon"))
        await fleet.start()
        await fleet.start(version=1)
        records = await fleet.log()
    assert [genesis(record).version for record in records] == [1, 2, 1]


async def test_a_dedup_key_starts_one_execution() -> None:
    """RT-EXE-5: by scope, also when asked many times at once."""
    async with running_edge() as fleet:
        await register(fleet)
        body = {"path": "tests/hello", "dedup": {"key": "order-7"}}
        found: list[dict[str, Any]] = []

        async def once() -> None:
            found.append((await fleet.http.post("/api/execute", json=body)).json())

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(once)
        other = await fleet.http.post(
            "/api/execute", json={**body, "parent_execution_id": "5"}
        )
        records = await fleet.log()
    assert len({answer["execution_id"] for answer in found}) == 1
    assert other.json()["status"] == "started"
    assert len({record.execution_id for record in records}) == 2


async def test_a_claim_without_a_genesis_is_completed_by_the_retry() -> None:
    """RT-EXE-5: a crash between insert and append loses no start."""
    async with running_edge() as fleet:
        await register(fleet)
        claimed = "383487919391773547"
        await fleet.tables.claim_start("0", "k", execution_id=claimed, window_s=300)
        body = {"path": "tests/hello", "dedup": {"key": "k"}}
        first = (await fleet.http.post("/api/execute", json=body)).json()
        second = (await fleet.http.post("/api/execute", json=body)).json()
        assert len(await fleet.log()) == 1
    assert first["execution_id"] == second["execution_id"] == "383487919391773547"
    assert (first["status"], second["status"]) == ("started", "duplicate")


async def test_an_id_that_is_anothers_is_drawn_again() -> None:
    """RT-EVT-11."""
    async with running_edge() as fleet:
        await register(fleet)
        taken = await fleet.start()
        real = fleet.edge.ports.ids.mint
        drawn = iter([taken])
        fleet.edge.ports.ids.mint = lambda: next(drawn, None) or real()  # type: ignore[method-assign]
        fresh = await fleet.start()
        assert len(await fleet.log()) == 2
    assert fresh != taken


@pytest.mark.parametrize(
    ("path", "playbook", "request_pool", "pool"),
    [
        ("tests/hello", "", "", "shared"),
        ("tests/hello", "gpu", "", "gpu"),
        ("tests/hello", "gpu", "big", "big"),
        ("system/sweep", "", "", "system"),
        ("subscription/orders", "", "", "subscription"),
    ],
)
async def test_the_pool_of_an_execution_is_fixed_at_its_start(
    path: str, playbook: str, request_pool: str, pool: str
) -> None:
    """RT-NATS-3, RT-AFF-1."""
    content = PLAYBOOK.replace("tests/hello", path)
    if playbook:
        content = content.replace("metadata:", f"execution_pool: {playbook}\nmetadata:")
    async with running_edge() as fleet:
        await register(fleet, content)
        more = {"execution_pool": request_pool} if request_pool else {}
        await fleet.start(path, **more)
        [record] = await fleet.log()
    assert genesis(record).pool == pool


async def test_the_trace_of_the_body_wins_over_the_headers() -> None:
    """RT-EXE-9, RT-API-8."""
    other = TRACE.replace("a", "c")
    async with running_edge() as fleet:
        await register(fleet)
        for body in ({}, {"trace": {"traceparent": other}}):
            await fleet.http.post(
                "/api/execute",
                json={"path": "tests/hello", **body},
                headers={"traceparent": TRACE, "tracestate": "k=v"},
            )
        records = await fleet.log()
    traces = [decode(genesis(record).trace) for record in records]
    assert traces == [
        {"traceparent": TRACE, "tracestate": "k=v"},
        {"traceparent": other},
    ]


async def test_a_batch_has_an_outcome_for_every_item_in_order() -> None:
    """RT-EXE-8: one bad item never affects the others."""
    async with running_edge() as fleet:
        await register(fleet)
        items: list[Any] = [
            {"path": "tests/hello", "dedup": {"key": "k"}},
            {"path": "no/such"},
            5,
            {"path": "tests/hello", "workload": {"name": "moon"}},
        ]
        answer = await fleet.http.post("/api/execute/batch", json={"executions": items})
        again = await fleet.http.post(
            "/api/execute/batch", json={"executions": items[:1]}
        )
        assert len(await fleet.log()) == 2
        empty = await fleet.http.post("/api/execute/batch", json={"executions": []})
        many = {"executions": [{}] * 1001}
        crowd = await fleet.http.post("/api/execute/batch", json=many)
    body = answer.json()
    assert [item["index"] for item in body["results"]] == [0, 1, 2, 3]
    statuses = [item["status"] for item in body["results"]]
    assert statuses == ["started", "error", "error", "started"]
    assert (body["count"], body["started"], body["failed"]) == (4, 2, 2)
    assert "no/such" in body["results"][1]["error"]
    assert again.json()["duplicates"] == 1
    assert empty.status_code == crowd.status_code == 422


async def test_a_large_workload_is_stored_before_the_genesis_names_it() -> None:
    """RT-LIM-2: the log holds what stands for it, and no message grows with it."""
    async with running_edge(workload_bytes_max=1000) as fleet:
        await register(fleet)
        answer = await fleet.http.post(
            "/api/execute",
            json={"path": "tests/hello", "workload": {"x": "a" * 90_000}},
        )
        message = await fleet.bus.log.read(1)
        assert message is not None and len(message.data) < 4000
        started = decode_append(message.data).records[0].events[0]
        known = decode(started.context)
        assert "workload" not in known and "payload" not in known
        reference = convert(known["workload_ref"], Reference)
        stored = await fleet.edge.ports.values.fetch(reference)
        assert decode(stored)["x"] == "a" * 90_000
    assert answer.status_code == 200


async def test_an_unreachable_log_is_a_503_that_may_be_repeated() -> None:
    """RT-API-10."""
    async with running_edge() as fleet:
        await register(fleet)
        fleet.bus.disconnect()
        answer = await fleet.http.post("/api/execute", json={"path": "tests/hello"})
        fleet.bus.reconnect()
        await fleet.start()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_a_log_that_fills_up_refuses_starts_and_facts() -> None:
    """RT-LIM-6, design §4: at 80 %, long before it is full."""
    async with running_edge() as fleet:
        await register(fleet)
        eid = await fleet.start()
        fleet.broker.settings = type(fleet.broker.settings)(
            shard_count=SHARDS, log_bytes_max=600
        )
        await fleet.edge.admission._look_at_log()
        start = await fleet.http.post("/api/execute", json={"path": "tests/hello"})
        fact = await fleet.http.post(
            "/api/events", json={"execution_id": eid, "event_type": "note.taken"}
        )
    assert start.status_code == fact.status_code == 503
    assert "full" in start.json()["error"]


async def test_rows_far_behind_the_log_refuse_starts() -> None:
    """RT-LIM-8."""
    async with running_edge() as fleet:
        await register(fleet)
        eid = await fleet.start()
        await fleet.append(eid, event("note.taken"))
        fleet.edge.admission._lag_max_s = -1.0
        await fleet.edge.admission._look_at_rows()
        start = await fleet.http.post("/api/execute", json={"path": "tests/hello"})
    assert start.status_code == 503
    assert "behind the log" in start.json()["error"]
