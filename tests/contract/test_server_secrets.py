"""Routes of credentials, keychain, key rotation and the audit trail (RT §1.7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from server_edge import TOKEN, Fleet, running_edge

from noetl_worker.wallet import WorkerKey
from noetl_worker.wallet.delivery import Use
from state_builder.records import JSON

INTERNAL = {"authorization": f"Bearer {TOKEN}"}
MARKER = "marker-of-a-password"
DATA = {"db_host": "h", "db_password": MARKER}


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with running_edge() as found:
        yield found


async def save(fleet: Fleet, name: str = "db", **more: Any) -> dict[str, Any]:
    body = {"name": name, "type": "postgres", "data": DATA, **more}
    answer = await fleet.http.post("/api/credentials", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def get(
    fleet: Fleet, path: str, *, token: bool = False, **query: Any
) -> httpx.Response:
    headers = INTERNAL if token else {}
    return await fleet.http.get(path, params=query, headers=headers)


async def trail(fleet: Fleet, **query: Any) -> list[dict[str, Any]]:
    answer = await get(fleet, "/api/internal/secret-audit", token=True, **query)
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def test_a_credential_is_stored_listed_found_and_deleted(fleet: Fleet) -> None:
    """SC-CR-01, SC-CR-02, RT §1.7: no answer has data."""
    made = await save(
        fleet,
        tags="a, b",
        description="d",
        meta={"x": 1},
        schema={"required": ["db_host"]},
    )
    assert made.keys() == {
        "id", "name", "type", "meta", "tags", "description", "schema", "created_at", "updated_at",
    }  # fmt: skip
    assert (made["tags"], made["meta"]) == (["a", "b"], {"x": 1})
    for name in (made["id"], "db"):
        assert (await get(fleet, f"/api/credentials/{name}")).json() == made
    await save(fleet, "team/api", type="bearer", data={"token": MARKER})
    listed = (await get(fleet, "/api/credentials", type="bearer")).json()
    assert [item["name"] for item in listed["items"]] == ["team/api"]
    assert listed["filter"] == {"type": "bearer", "q": None}
    assert (await get(fleet, "/api/credentials/team/api")).json()["name"] == "team/api"
    everything = (await get(fleet, "/api/credentials")).text
    assert MARKER not in everything
    gone = await fleet.http.delete("/api/credentials/db")
    assert gone.json()["id"] == made["id"]
    assert (await get(fleet, "/api/credentials/db")).status_code == 404
    assert (await fleet.http.delete("/api/credentials/db")).status_code == 404


async def test_saving_again_replaces_by_name(fleet: Fleet) -> None:
    """SC-CR-02, SC-CR-05: it takes effect for the next look."""
    first = await save(fleet)
    second = await save(
        fleet, credential_type="", type="postgresql", data={"db_password": "new"}
    )
    assert (second["id"], second["type"]) == (first["id"], "postgres")
    answer = await get(fleet, "/api/credentials/db", token=True, include_data="true")
    assert answer.json()["data"] == {"db_password": "new"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"name": "a b"}, 422, "name"),
        ({"name": "x" * 129}, 422, "name"),
        ({"name": "a/sealed"}, 422, "name"),
        ({"data": MARKER}, 422, "data must be an object"),
        ({"data": None}, 422, "data must be an object"),
        ({"data": {"a": MARKER * 20_000}}, 413, "262,144"),
        ({"schema": {"required": ["db_user"]}}, 422, "data.db_user is required"),
        (
            {"schema": {"types": {"db_password": "integer"}}},
            422,
            "data.db_password must be",
        ),
        (
            {"schema": {"types": {"db_password": "magic"}}},
            422,
            "schema.types.db_password",
        ),
        ({"schema": []}, 422, "schema must be an object"),
    ],
)
async def test_what_cannot_be_stored_names_the_field_and_not_its_value(
    fleet: Fleet, body: dict[str, JSON], status: int, words: str
) -> None:
    """SC-CR-04, SC-CR-06."""
    full = {"name": "db", "type": "postgres", "data": DATA, **body}
    answer = await fleet.http.post("/api/credentials", json=full)
    assert answer.status_code == status
    assert words in answer.json()["message"]
    assert MARKER not in answer.text
    assert (await get(fleet, "/api/credentials")).json()["items"] == []


async def test_an_unreadable_body_is_not_repeated(fleet: Fleet) -> None:
    """SC-CR-04, RT-API-12."""
    for content in (f'{{"name": "x", "data": {{"p": "{MARKER}"', f'["{MARKER}"]'):
        answer = await fleet.http.post("/api/credentials", content=content)
        assert answer.status_code == 400
        assert MARKER not in answer.text


async def test_data_is_for_whoever_has_the_internal_token(fleet: Fleet) -> None:
    """SC-CR-03, SC-TR-02, SC-TR-03, RT-SEC-4: audited, never stored by a cache."""
    await save(fleet)
    path = "/api/credentials/db"
    refused = await get(fleet, path, include_data="true")
    assert refused.status_code == 403
    assert MARKER not in refused.text
    wrong = await fleet.http.get(
        path, params={"include_data": "1"}, headers={"authorization": "Bearer wrong"}
    )
    assert wrong.status_code == 403
    answer = await get(fleet, path, token=True, include_data="true")
    assert answer.json()["data"] == DATA
    assert answer.headers["cache-control"] == "no-store"
    missing = await get(fleet, "/api/credentials/no", token=True, include_data="true")
    assert missing.status_code == 404
    found = [
        (row["operation"], row["credential"], row["outcome"])
        for row in await trail(fleet)
    ]
    assert found == [
        ("get_credential", "no", "credential_not_found"),
        ("get_credential", "db", "ok"),
        ("create", "db", "ok"),
    ]


CLOSED = [
    ("GET", "/api/keychain/catalog/1"),
    ("GET", "/api/keychain/1/e"),
    ("POST", "/api/keychain/1/e"),
    ("DELETE", "/api/keychain/1/e"),
    ("POST", "/api/internal/wallet/rotate-kek"),
    ("GET", "/api/internal/wallet/key-status"),
    ("GET", "/api/internal/secret-audit"),
    ("POST", "/api/internal/cross-region/resolve"),
    ("GET", "/api/credentials/db/sealed?worker_id=w&execution_id=1"),
    ("POST", "/api/gcp/token"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_secret_routes_are_closed_to_others(
    fleet: Fleet, method: str, path: str
) -> None:
    """RT-API-11, SC-TR-02; and to pages of other origins (SC-TR-03)."""
    body = {"data": {}} if method == "POST" else None
    headers = {"origin": "http://elsewhere"}
    answer = await fleet.http.request(method, path, json=body, headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    preflight = {**headers, "access-control-request-method": method}
    asked = await fleet.http.request("OPTIONS", path, headers=preflight)
    assert "access-control-allow-origin" not in asked.headers


async def test_a_page_of_another_origin_may_list_but_not_reveal(fleet: Fleet) -> None:
    """SC-TR-03, RT-API-7."""
    await save(fleet)
    origin = {"origin": "http://elsewhere"}
    listed = await fleet.http.get("/api/credentials", headers=origin)
    assert listed.headers["access-control-allow-origin"] == "*"
    path = "/api/credentials/db?include_data=true"
    revealed = await fleet.http.get(path, headers={**origin, **INTERNAL})
    assert "access-control-allow-origin" not in revealed.headers


async def register(fleet: Fleet, key: str | None, **more: Any) -> httpx.Response:
    body = {
        "name": "w1",
        "kind": "worker_pool",
        "capabilities": {"pools": ["shared"]},
        "worker_public_key": key,
        **more,
    }
    return await fleet.http.post(
        "/api/worker/pool/register", json=body, headers=INTERNAL
    )


async def own(
    fleet: Fleet, eid: str = "7001", pool: str = "shared", catalog: str = "1"
) -> None:
    """Let an owner say that this execution has an open command of that pool."""
    await fleet.own(
        eid,
        lineage=[{"execution_id": eid, "catalog_id": catalog}],
        workload={},
        pool=pool,
    )


async def sealed(fleet: Fleet, name: str = "db", eid: str = "7001") -> httpx.Response:
    return await get(
        fleet,
        f"/api/credentials/{name}/sealed",
        token=True,
        worker_id="w1",
        execution_id=eid,
        command_id=f"{eid}.start.1.1",
    )


async def test_a_worker_gets_what_only_it_can_read(fleet: Fleet) -> None:
    """SC-SE-01, SC-SE-02, SC-FL-01, RT-WRK-18: sealed to the registered key."""
    await save(fleet)
    await own(fleet)
    key = WorkerKey()
    assert (await register(fleet, key.public)).status_code == 200
    answer = await sealed(fleet)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert MARKER not in answer.text
    opened = key.unseal(answer.json(), Use("w1", "db", "7001"))
    assert MARKER.encode() in opened
    [row] = await trail(fleet, operation="get_sealed")
    assert row | {"audit_id": "", "occurred_at": "", "kek_version": ""} == {
        "audit_id": "", "occurred_at": "", "credential": "db", "operation": "get_sealed",
        "outcome": "ok", "worker_id": "w1", "execution_id": "7001",
        "parent_execution_id": None, "server_region": None, "broker_region": None,
        "kek_version": "", "notes": None,
    }  # fmt: skip


async def test_a_worker_without_a_key_is_refused(fleet: Fleet) -> None:
    """SC-SE-04, SC-SE-05: no plaintext instead."""
    await save(fleet)
    await own(fleet)
    unknown = await sealed(fleet)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "worker_not_found")
    await register(fleet, None)
    keyless = await sealed(fleet)
    assert (keyless.status_code, keyless.json()["code"]) == (400, "no_pubkey")
    await register(fleet, WorkerKey().public)
    assert (await sealed(fleet, "nothing")).status_code == 404
    outcomes = [row["outcome"] for row in await trail(fleet, operation="get_sealed")]
    assert outcomes == ["credential_not_found", "no_pubkey", "credential_not_found"]
    page = (await fleet.http.get("/metrics")).text
    for status in ("no_pubkey", "worker_not_found", "credential_error"):
        assert f'noetl_credentials_sealed_total{{status="{status}"}} 1.0' in page


async def test_only_the_worker_of_an_open_command_gets_it(fleet: Fleet) -> None:
    """SC-SE-06: of its own pools, while the command is open."""
    await save(fleet)
    await register(fleet, WorkerKey().public)
    await own(fleet, "7001", pool="")
    closed = await sealed(fleet)
    assert closed.status_code == 403
    assert "is not open" in closed.json()["message"]
    await own(fleet, "7001", pool="gpu")
    foreign = await sealed(fleet)
    assert foreign.status_code == 403
    assert "does not serve pool 'gpu'" in foreign.json()["message"]
    unknown = await sealed(fleet, eid="1")
    assert unknown.status_code == 503
    outcomes = [row["outcome"] for row in await trail(fleet, operation="get_sealed")]
    assert outcomes == ["provider_fetch_error", "denied", "denied"]


async def test_who_registers_a_key_has_the_token(fleet: Fleet) -> None:
    """SC-SE-01: who may set the key may read what is sealed to it."""
    body = {"name": "w1", "worker_public_key": WorkerKey().public}
    path = "/api/worker/pool/register"
    assert (await fleet.http.post(path, json=body)).status_code == 403
    assert (await register(fleet, "c2hvcnQ=")).status_code == 422
    assert (await register(fleet, "%%%")).status_code == 422
    assert (await fleet.http.post(path, json={"name": "plain"})).status_code == 200


async def test_a_heartbeat_keeps_the_key(fleet: Fleet) -> None:
    await save(fleet)
    await own(fleet)
    key = WorkerKey()
    await register(fleet, key.public)
    beat = {"name": "w1", "runtime": {"busy": 3}}
    await fleet.http.post("/api/worker/pool/heartbeat", json=beat)
    assert (await sealed(fleet)).status_code == 200


async def test_a_keychain_value_by_its_routes(fleet: Fleet) -> None:
    """SC-KC-12, RT-SEC-2."""
    path = "/api/keychain/1/e"
    body = {"token_data": {"t": MARKER}, "ttl_seconds": 60, "auto_renew": True}
    made = await fleet.http.post(path, json=body, headers=INTERNAL)
    assert made.json()["status"] == "success"
    assert made.json()["cache_key"] == "e:1:global"
    found = await get(fleet, path, token=True)
    assert (found.json()["status"], found.json()["data"]) == ("found", {"t": MARKER})
    assert found.headers["cache-control"] == "no-store"
    listed = await get(fleet, "/api/keychain/catalog/1", token=True)
    assert [entry["name"] for entry in listed.json()["entries"]] == ["e"]
    assert MARKER not in listed.text
    past = {"data": {"t": MARKER}, "expires_at": "2020-01-01T00:00:00Z"}
    await fleet.http.post(path, json=past, headers=INTERNAL)
    expired = (await get(fleet, path, token=True)).json()
    assert expired["status"] == "expired"
    assert "data" not in expired
    for status in ("deleted", "not_found"):
        gone = await fleet.http.delete(path, headers=INTERNAL)
        assert gone.json() == {"status": status}
    assert (await get(fleet, path, token=True)).json() == {"status": "not_found"}
    scoped = await get(fleet, path, token=True, scope_type="local")
    assert scoped.status_code == 422


async def test_the_playbooks_keychain_is_the_fallback(fleet: Fleet) -> None:
    """RT-SEC-3, SC-AL-02: on a miss with an execution id; one audit row."""
    text = (
        "apiVersion: noetl.io/v2\nkind: Playbook\nmetadata: {name: p, path: t/p}\n"
        f"keychain:\n  - {{name: api, kind: static, map: {{token: {MARKER}}}}}\n"
        "workflow:\n  - {step: start, tool: {kind: noop}}\n"
    )
    answer = await fleet.http.post("/api/catalog/register", json={"content": text})
    await own(fleet, catalog=answer.json()["catalog_id"])
    path = "/api/credentials/api"
    found = await get(fleet, path, token=True, include_data="true", execution_id="7001")
    assert found.json()["data"] == {"token": MARKER}
    [row] = await trail(fleet)
    assert (row["operation"], row["execution_id"]) == ("resolve_keychain", "7001")
    without = await get(fleet, path, token=True, include_data="true")
    assert without.status_code == 404
    again = await get(fleet, path, token=True, include_data="true", execution_id="7001")
    assert again.status_code == 200
    assert (await trail(fleet))[0]["notes"] == "cache"


async def test_a_third_party_that_is_away_is_a_bad_gateway(fleet: Fleet) -> None:
    """RT-SEC-3, SC-TR-04, SC-AL-05: 502, to be tried again; what is set wrong is 422."""
    text = (
        "apiVersion: noetl.io/v2\nkind: Playbook\nmetadata: {name: p, path: t/p}\n"
        "keychain:\n  - {name: away, kind: oauth2, endpoint: 'http://127.0.0.1:9/t'}\n"
        "  - {name: unset, kind: secrets, provider: vault, map: {a: b}}\n"
        "workflow:\n  - {step: start, tool: {kind: noop}}\n"
    )
    answer = await fleet.http.post("/api/catalog/register", json={"content": text})
    await own(fleet, catalog=answer.json()["catalog_id"])
    for name, status, code in (("away", 502, "upstream"), ("unset", 422, "invalid")):
        found = await get(
            fleet,
            f"/api/credentials/{name}",
            token=True,
            include_data="true",
            execution_id="7001",
        )
        assert (found.status_code, found.json()["code"]) == (status, code)
        assert ("retry-after" in found.headers) == (status == 502)
    assert {row["outcome"] for row in await trail(fleet)} == {"provider_fetch_error"}


async def test_keys_are_rotated_and_counted_over_http(fleet: Fleet) -> None:
    """RT-SEC-5, SC-RO-01, SC-RO-03."""
    await save(fleet)
    path = "/api/internal/wallet/rotate-kek"
    done = await fleet.http.post(path, json={"batch_size": 10}, headers=INTERNAL)
    table = done.json()["credential"]
    assert (table["processed"], table["skipped"], table["rewrapped"]) == (1, 1, 0)
    assert done.json().keys() == {"credential", "keychain"}
    assert (await fleet.http.post(path, headers=INTERNAL)).status_code == 200
    bad = await fleet.http.post(path, json={"batch_size": 0}, headers=INTERNAL)
    assert bad.status_code == 422
    status = await get(fleet, "/api/internal/wallet/key-status", token=True)
    assert status.json()["keys"] == [
        {
            "table": "credential",
            "provider": "local",
            "kid": "env:NOETL_ENCRYPTION_KEY",
            "version": "v1",
            "count": 1,
        }
    ]


async def test_the_trail_can_be_searched(fleet: Fleet) -> None:
    """SC-AU-05."""
    for name in ("a", "b"):
        await save(fleet, name)
    assert [row["credential"] for row in await trail(fleet, limit=1)] == ["b"]
    assert [row["credential"] for row in await trail(fleet, credential="a")] == ["a"]
    assert await trail(fleet, **{"from": "2100-01-01T00:00:00Z"}) == []
    path = "/api/internal/secret-audit"
    assert (await get(fleet, path, token=True, limit="x")).status_code == 422
    assert (await get(fleet, path, token=True, to="soon")).status_code == 422


async def test_a_token_for_a_credential(fleet: Fleet) -> None:
    """SC-KC-12: ``/api/gcp/token``, internal, audited."""
    await save(fleet, "api", type="bearer", data={"token": MARKER})
    body = {"credential": "api"}
    answer = await fleet.http.post("/api/gcp/token", json=body, headers=INTERNAL)
    assert answer.json() == {
        "access_token": MARKER,
        "token_type": "Bearer",
        "expires_in": None,
    }
    assert (await trail(fleet))[0]["outcome"] == "ok"
    empty = await fleet.http.post("/api/gcp/token", json={}, headers=INTERNAL)
    assert empty.status_code == 422


async def test_the_broker_says_that_it_is_to_come(fleet: Fleet) -> None:
    """RT-SEC-6: single-region installs answer 503."""
    path = "/api/internal/cross-region/resolve"
    answer = await fleet.http.post(path, json={}, headers=INTERNAL)
    assert answer.status_code == 503
    assert "not available in this build" in answer.json()["message"]


async def test_a_damaged_record_fails_alone(fleet: Fleet) -> None:
    """SC-EN-07: 500 for it, listing still works."""
    made = await save(fleet)
    await save(fleet, "good")
    row = fleet.database.credentials[made["id"]]
    from msgspec.structs import replace

    fleet.database.credentials[made["id"]] = replace(row, data_encrypted="x")
    broken = await get(fleet, "/api/credentials/db", token=True, include_data="true")
    assert (broken.status_code, broken.json()["code"]) == (500, "damaged")
    assert "'db'" in broken.json()["message"]
    assert len((await get(fleet, "/api/credentials")).json()["items"]) == 2
    good = await get(fleet, "/api/credentials/good", token=True, include_data="true")
    assert good.status_code == 200
    assert (await trail(fleet, outcome="decrypt_error"))[0]["credential"] == "db"


async def test_without_a_database_there_is_no_secret(fleet: Fleet) -> None:
    fleet.database.away = "gone"
    answer = await get(fleet, "/api/credentials/db", token=True, include_data="true")
    assert answer.status_code == 503
