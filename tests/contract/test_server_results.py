"""Results over HTTP (RT-RES), on the twins in memory and on PostgreSQL."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from msgspec.json import encode
from server_edge import TOKEN, running_edge

pytestmark = pytest.mark.anyio
EID = "319000000000000000"


def body(**more: Any) -> dict[str, Any]:
    return {"name": "load/orders", "data": {"b": 1, "a": [1, 2]}, **more}


async def test_what_is_put_is_resolved_by_its_reference() -> None:
    """RT-RES-1, RT-RES-2, RT-RES-4, TL-RR-04, RT-EVT-15: either form."""
    async with running_edge() as fleet:
        answer = await fleet.http.put(f"/api/result/{EID}", json=body())
        placed = answer.json()
        read = await fleet.http.get(
            "/api/result/resolve", params={"ref": placed["ref"]}
        )
        data = {"id": 7, "rows": [1] * 50_000}
        large = await fleet.http.put(f"/api/result/{EID}", json=body(data=data))
        ref = large.json()["ref"]
        again = await fleet.http.get("/api/result/resolve", params={"ref": ref})
    assert answer.status_code == 200, answer.text
    assert placed["ref"].startswith(f"noetl://execution/{EID}/result/load/orders/")
    canonical = b'{"a":[1,2],"b":1}'
    assert placed["sha256"] == sha256(canonical).hexdigest()
    assert placed["bytes"] == len(canonical)
    assert (placed["scope"], placed["store"]) == ("execution", "object")
    assert read.json() == {"a": [1, 2], "b": 1}
    assert again.json() == data


async def test_a_put_that_was_seen_answers_the_first_reference() -> None:
    """RT-RES-4, TL-RR-04."""
    async with running_edge() as fleet:
        first = await fleet.http.put(
            f"/api/result/{EID}", json=body(idempotency_key="k")
        )
        again = await fleet.http.put(
            f"/api/result/{EID}", json=body(idempotency_key="k", data=2)
        )
        read = await fleet.http.get(
            "/api/result/resolve", params={"ref": again.json()["ref"]}
        )
    assert again.json()["ref"] == first.json()["ref"]
    assert read.json() == body()["data"]


@pytest.mark.parametrize(
    ("ref", "status"),
    [
        ("", 422),
        ("nonsense", 422),
        ("noetl://execution/x/result/n/1", 422),
        (f"noetl://execution/{EID}/result/n/1", 404),
        (f"noetl://default/default/results/{EID}/s/1/0/1@v", 404),
    ],
)
async def test_what_cannot_be_resolved_says_why(ref: str, status: int) -> None:
    """RT-RES-2, TL-RR-04, TL-RR-54."""
    async with running_edge() as fleet:
        answer = await fleet.http.get("/api/result/resolve", params={"ref": ref})
    assert answer.status_code in (status, 400 if status == 422 else status)
    assert answer.json()["error"]


async def test_results_are_listed_read_by_step_and_dropped() -> None:
    """RT-RES-3: ``resolve`` and ``list`` win over step names."""
    async with running_edge() as fleet:
        for step, scope in (("one", "execution"), ("two", "workflow")):
            await fleet.http.put(
                f"/api/result/{EID}",
                json=body(data=step, source_step=step, scope=scope),
            )
        listed = (await fleet.http.get(f"/api/result/{EID}/list")).json()
        narrow = (
            await fleet.http.get(
                f"/api/result/{EID}/list", params={"scope": "workflow"}
            )
        ).json()
        of_step = await fleet.http.get(f"/api/result/{EID}/two")
        dropped = await fleet.http.delete(f"/api/result/{EID}/step/two")
        gone = await fleet.http.get(f"/api/result/{EID}/two")
        rest = await fleet.http.delete(f"/api/result/{EID}")
    assert listed["count"] == 2 and listed["execution_id"] == EID
    assert [one["step"] for one in narrow["refs"]] == ["two"]
    assert of_step.json() == "two"
    assert dropped.json()["deleted"] == 1 and gone.status_code == 404
    assert rest.json()["deleted"] == 1


async def test_an_expired_result_is_gone() -> None:
    """RT-RES-4, TL-RR-54."""
    async with running_edge() as fleet:
        placed = await fleet.http.put(f"/api/result/{EID}", json=body(ttl=0.001))
        ref = placed.json()["ref"]
        read = await fleet.http.get("/api/result/resolve", params={"ref": ref})
        wrong = await fleet.http.put(f"/api/result/{EID}", json=body(ttl="soon"))
    assert placed.json()["expires_at"] and read.status_code == 404
    assert wrong.status_code in (400, 422)


async def test_larger_bodies_are_taken_here_than_elsewhere() -> None:
    """RT-API-9, RT-LIM-3: 64 MB, 10 MB for other routes."""
    async with running_edge() as fleet:
        answer = await fleet.http.put(
            f"/api/result/{EID}",
            content=encode(body(data="x" * 12_000_000)),
            headers={"content-type": "application/json"},
        )
    assert answer.status_code == 200 and answer.json()["bytes"] == 12_000_002


async def test_opaque_objects_are_for_those_with_the_token() -> None:
    """RT-API-11: bytes or 404."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    url = "/api/internal/objects/a/b.bin"
    async with running_edge() as fleet:
        stranger = await fleet.http.put(url, content=b"\x00\x01")
        put = await fleet.http.put(url, content=b"\x00\x01", headers=headers)
        read = await fleet.http.get(url, headers=headers)
        missing = await fleet.http.get(f"{url}x", headers=headers)
    assert stranger.status_code == 403
    digest = sha256(b"\x00\x01").hexdigest()
    assert put.json() == {"key": "a/b.bin", "digest": digest, "bytes": 2}
    assert read.content == b"\x00\x01" and missing.status_code == 404
