"""What clients keep beside playbooks and executions: variables, test suites, limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Raw
from pg_service import PgServer, pg_server  # noqa: F401 - a fixture
from server_edge import PLAYBOOK, Fleet, running_edge

from materializer.memory import MemoryDatabase
from materializer.memory.notes import MemoryNotes
from materializer.postgres import Database, DatabaseSettings, PostgresTables
from materializer.postgres.notes import PostgresNotes
from noetl_worker.lifecycle import SystemClock
from state_builder.notes import Notes, SuiteRow, VariableRow
from state_builder.ports import PoolProgress

pytestmark = pytest.mark.anyio
EID = "700"


async def started(fleet: Fleet) -> str:
    """An execution of the one playbook there is."""
    await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
    return await fleet.start()


@pytest.fixture(params=["memory", "postgres"])
async def notes(
    request: pytest.FixtureRequest,
    pg_server: PgServer,  # noqa: F811
) -> AsyncIterator[Notes]:
    if request.param == "memory":
        yield MemoryNotes(MemoryDatabase(SystemClock()))
        return
    dsn = pg_server.create_database()
    async with Database(DatabaseSettings(dsn=dsn)) as base:
        await PostgresTables(base).apply_schema()
        yield PostgresNotes(base)


async def test_variables_are_replaced_counted_and_forgotten(notes: Notes) -> None:
    """RT §1.12: a read of one bumps its count, a read of all does not."""
    rows = [
        VariableRow(name="a", value=Raw(b'{"n": 1}')),
        VariableRow(name="b", value=Raw(b"null"), type="computed", source_step="s"),
    ]
    await notes.set_variables(EID, rows)
    await notes.set_variables(EID, [VariableRow(name="a", value=Raw(b"2"))])
    await notes.set_variables("701", rows)
    once = await notes.read_variable(EID, "a")
    twice = await notes.read_variable(EID, "a")
    listed = await notes.variables(EID)
    assert once is not None
    assert twice is not None
    assert (bytes(once.value), once.access_count, twice.access_count) == (b"2", 1, 2)
    assert [(row.name, row.access_count) for row in listed] == [("a", 2), ("b", 0)]
    assert (listed[1].type, listed[1].source_step) == ("computed", "s")
    assert bytes(listed[1].value) == b"null"
    assert await notes.read_variable(EID, "c") is None
    assert await notes.drop_variables(EID, "a") == 1
    assert await notes.drop_variables(EID) == 1
    assert await notes.variables(EID) == []
    assert len(await notes.variables("701")) == 2


async def test_a_suite_is_replaced_and_removed(notes: Notes) -> None:
    row = SuiteRow(
        suite_id="a/b", playbook_path="p", tests=Raw(b"[]"), metadata=Raw(b"{}")
    )
    assert (await notes.save_suite(row)).updated_at is not None
    assert await notes.suite("a/b") is not None
    assert await notes.drop_suite("a/b")
    assert not await notes.drop_suite("a/b")
    assert await notes.suite("a/b") is None


async def test_variables_are_kept_in_three_shapes() -> None:
    """RT §1.12: a list, a map of them, plain values; one of the execution's own wins."""
    async with running_edge() as fleet:
        eid = await started(fleet)
        await fleet.own(eid, variables={"mine": 1})
        base = f"/api/vars/{eid}"
        shapes: list[dict[str, Any]] = [
            {"variables": [{"var_name": "x", "var_value": [1], "source_step": "s"}]},
            {"variables": {"y": None}, "var_type": "computed"},
            {"z": 3, "mine": 2},
        ]
        counts = [
            (await fleet.http.post(base, json=body)).json()["variables_set"]
            for body in shapes
        ]
        everything = (await fleet.http.get(base)).json()
        one = (await fleet.http.get(f"{base}/x")).json()
        gone = (await fleet.http.delete(f"{base}/x")).json()
        after = await fleet.http.get(f"{base}/x")
        rest = (await fleet.http.delete(base)).json()
        own = (await fleet.http.get(base)).json()
    assert counts == [1, 1, 2]
    assert everything["count"] == 4
    values = {k: v["value"] for k, v in everything["variables"].items()}
    assert values == {"x": [1], "y": None, "z": 3, "mine": 1}
    assert everything["variables"]["y"]["type"] == "computed"
    assert (one["value"], one["source_step"], one["access_count"]) == ([1], "s", 1)
    assert (gone["status"], gone["deleted"], after.status_code) == ("ok", 1, 404)
    assert rest["deleted"] == 3
    assert list(own["variables"]) == ["mine"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"variables": 1},
        {"variables": ["x"]},
        {"variables": [{"var_value": 1}]},
        {"variables": {"a": 1}, "var_type": "odd"},
        {"": 1},
    ],
)
async def test_what_is_no_variable_is_refused(body: dict[str, Any]) -> None:
    async with running_edge() as fleet:
        eid = await started(fleet)
        answer = await fleet.http.post(f"/api/vars/{eid}", json=body)
        unknown = await fleet.http.post("/api/vars/1", json={"a": 1})
    assert answer.status_code == 422
    assert unknown.status_code == 404


async def test_a_test_suite_is_kept() -> None:
    """RT §1.3: its id may have slashes."""
    body = {"playbook_path": "a/b", "tests": [{"name": "t"}], "metadata": {"o": "x"}}
    async with running_edge() as fleet:
        path = "/api/playbook-tests/suites/team/one"
        none = await fleet.http.get(path)
        saved = (await fleet.http.put(path, json=body)).json()
        found = (await fleet.http.get(path)).json()
        gone = (await fleet.http.delete(path)).json()
        again = await fleet.http.delete(path)
    assert (none.status_code, again.status_code) == (404, 404)
    assert found == saved
    assert {**body, "suite_id": "team/one"}.items() <= found.items()
    assert found["updated_at"].endswith("Z")
    file = "playbook-tests/team/one"
    assert gone == {"status": "deleted", "suite_id": "team/one", "file_path": file}


async def test_a_pool_with_too_much_to_do_takes_no_more() -> None:
    """RT-LIM-7: 429 with Retry-After; other pools, and no limit, are as ever."""
    backlog = {"shared": 11, "fast": 10}

    async def progress(pool: str) -> PoolProgress:
        return PoolProgress(0, backlog[pool], 0, 0)

    async with running_edge(pending_commands_max=10) as fleet:
        await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
        fleet.bus.commands.progress = progress  # type: ignore[method-assign]
        body = {"path": "tests/hello"}
        full = await fleet.http.post("/api/execute", json=body)
        other = await fleet.http.post(
            "/api/execute", json={**body, "execution_pool": "fast"}
        )
        batch = await fleet.http.post("/api/execute/batch", json={"executions": [body]})
        page = (await fleet.http.get("/metrics")).text
    assert full.status_code == 429
    assert full.headers["retry-after"] == "1"
    assert "11 commands wait for pool 'shared'" in full.json()["detail"]
    assert other.status_code == 200
    assert batch.json()["results"][0]["status"] == "error"
    hits = 'noetl_limit_hits_total{limit="NOETL_MAX_PENDING_COMMANDS"} 2.0'
    assert hits in page


@pytest.mark.parametrize("route", ["register", "playbooks/validate"])
async def test_a_document_may_have_so_many_bytes(route: str) -> None:
    """RT-LIM-3: the source of a playbook; 413 names the setting."""
    async with running_edge(playbook_bytes_max=len(PLAYBOOK)) as fleet:
        fits = await fleet.http.post(
            f"/api/catalog/{route}", json={"content": PLAYBOOK}
        )
        large = {"content": PLAYBOOK + "#"}
        answer = await fleet.http.post(f"/api/catalog/{route}", json=large)
    assert fits.status_code == 200
    assert answer.status_code == 413
    assert "NOETL_PLAYBOOK_MAX_BYTES" in answer.json()["detail"]
