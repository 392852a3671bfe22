"""Rows folded again over HTTP: projections, bounds and checksums (RT-RPL, RT-FLD)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from server_edge import Fleet, event, running_edge

from state_builder.records import Event, Genesis

pytestmark = pytest.mark.anyio
EID = "77"
REFERENCE = {"kind": "result_ref", "ref": "noetl://execution/77/result/a/1"}


def story() -> list[Event]:
    """An execution with a loop, stages, frames, objects and a late answer."""
    genesis = Genesis(catalog_id="1", path="tests/hello", version=1)
    loop = {"loop_id": "L1"}
    item = {"type": "order", "id": "9"}
    return [
        event("playbook_started", context=genesis),
        event("stage.opened", meta={"stage_id": "s1"}),
        event("frame.dispatched", meta={"frame_id": "f1"}),
        event("command.issued", "a", command_id="c1", meta=loop),
        event("command.started", "a", command_id="c1", worker_id="w"),
        event(
            "call.done",
            "a",
            command_id="c1",
            result={"status": "ok", "reference": {**REFERENCE, "digest": "d1"}},
        ),
        event("command.completed", "a", command_id="c1", status="success", meta=loop),
        event("command.completed", "a", command_id="c1", status="success", meta=loop),
        event("order.created", meta={"business_object": {**item, "state": {"n": 1}}}),
        event("order.noted", meta={"business_object": {**item, "patch": {"m": 2}}}),
        event("frame.committed", meta={"frame_id": "f1"}),
        event("loop.done", "a", meta=loop),
        event("stage.closed", meta={"stage_id": "s1"}),
        event("playbook_completed"),
    ]


async def told(fleet: Fleet, **query: Any) -> dict[str, Any]:
    query = {"execution_id": EID, **query}
    answer = await fleet.http.get("/api/replay/state", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def written(fleet: Fleet) -> None:
    for one in story():
        await fleet.append(EID, one)
    await fleet.materialize()


def sha(value: Any) -> str:
    """As any client in any language would compute it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


async def test_every_projection_is_folded_by_its_rules() -> None:
    """RT-FLD-2 to RT-FLD-6: an ignored answer counts nowhere."""
    async with running_edge() as fleet:
        await written(fleet)
        found = await told(fleet, projection="all")
    assert found["event_count"] == len(story())
    assert found["last_event_type"] == "playbook_completed"
    assert found["execution"]["status"] == "COMPLETED"
    [reference] = found["execution"]["payload_refs"]
    assert reference["reference"]["ref"] == REFERENCE["ref"]
    assert reference["summary"]["sha256"] == "d1"
    assert [one["status"] for one in found["stages"]] == ["CLOSED"]
    assert [one["status"] for one in found["frames"]] == ["COMPLETED"]
    [command] = found["commands"]
    assert (command["command_id"], command["status"]) == ("c1", "COMPLETED")
    assert command["claimed_event_id"] is None
    assert int(command["issued_event_id"]) < int(command["terminal_event_id"])
    [loop] = found["loops"]
    assert (loop["done"], loop["failed"], loop["status"]) == (1, 0, "COMPLETED")
    [thing] = found["business_objects"]
    assert thing["state"] == {"n": 1, "m": 2}
    assert thing["status"] == "ACTIVE"


async def test_checksums_are_those_of_any_other_implementation() -> None:
    """RT-FLD-1, RT-FLD-7: the same rows, the same sums, page size or not."""
    async with running_edge() as fleet:
        await written(fleet)
        found, again = await told(fleet), await told(fleet, limit=100_000)
    names = ("execution", "stages", "frames", "commands", "business_objects", "loops")
    assert found["checksum"] == again["checksum"]
    assert found["checksum"]["value"] == sha({name: found[name] for name in names})
    for name in names:
        assert found["projection_checksums"][name] == sha(found[name])


async def test_a_fold_stops_where_it_is_asked_to() -> None:
    """RT-RPL-1: by event, position or time, and at most by one of them."""
    async with running_edge() as fleet:
        await written(fleet)
        whole = await told(fleet)
        early = str(5 * 1024)
        for name in ("as_of_event_id", "as_of_position"):
            found = await told(fleet, **{name: early})
            assert found["last_event_id"] == early
            assert found["commands"][0]["status"] == "STARTED"
            assert found["execution"]["status"] == "RUNNING"
            assert found["checksum"] != whole["checksum"]
        assert (await told(fleet, as_of_time="2000-01-01T00:00:00Z"))[
            "event_count"
        ] == 0
        assert (await told(fleet, limit=3))["event_count"] == 3
        query = {"execution_id": EID, "as_of_event_id": "1", "as_of_position": "1"}
        both = await fleet.http.get("/api/replay/state", params=query)
    assert both.status_code == 400


async def test_nothing_is_known_of_an_unknown_execution() -> None:
    """RT-RPL-3."""
    async with running_edge() as fleet:
        found = await told(fleet, execution_id="12345")
    assert (found["event_count"], found["execution"]["status"]) == (0, "UNKNOWN")
    assert found["last_event_id"] is None
    assert found["tenant_id"] == found["organization_id"] == "default", "RT-RPL-2"


@pytest.mark.parametrize(
    "query",
    [{"limit": "0"}, {"limit": "x"}, {"projection": "none"}, {"execution_id": ""},
     {"as_of_time": "soon"}, {"as_of_event_id": "x"}],
)  # fmt: skip
async def test_what_cannot_be_asked_is_refused(query: dict[str, str]) -> None:
    """RT-RPL-1."""
    async with running_edge() as fleet:
        asked = {"execution_id": EID, **query}
        answer = await fleet.http.get("/api/replay/state", params=asked)
    assert answer.status_code == 422
