"""The catalog over HTTP (RT-CAT), as its clients use it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import anyio
import pytest
from server_edge import PLAYBOOK, Fleet, running_edge

pytestmark = pytest.mark.anyio


async def register(
    fleet: Fleet, content: str = PLAYBOOK, **more: Any
) -> dict[str, Any]:
    body = {"content": content, "resource_type": "Playbook", **more}
    answer = await fleet.http.post("/api/catalog/register", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize(
    "encode", [str, lambda text: b64encode(text.encode()).decode()]
)
async def test_a_document_is_registered_plain_or_as_base64(encode: Any) -> None:
    """RT-CAT-2, RT-CAT-3; clients.md 9."""
    async with running_edge() as fleet:
        first = await register(fleet, encode(PLAYBOOK))
        second = await register(fleet, encode(PLAYBOOK))
    assert first["status"] == "success"
    assert (first["path"], first["kind"]) == ("tests/hello", "playbook")
    assert (first["version"], second["version"]) == (1, 2)
    assert (
        first["catalog_id"].isdecimal() and first["catalog_id"] != second["catalog_id"]
    )


async def test_concurrent_registrations_get_different_versions() -> None:
    """RT-CAT-3."""
    async with running_edge() as fleet:
        found: list[int] = []

        async def once() -> None:
            found.append((await register(fleet))["version"])

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(once)
    assert sorted(found) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("a: [", "Invalid YAML"),
        ("- a: 1\n", "root must be a map"),
        ("kind: Playbook\n", "Missing 'metadata' section"),
        ("metadata: {title: x}\n", "Missing 'path' or 'name' in metadata"),
        ("metadata: {name: 'a b'}\n", "without spaces"),
        ("kind: Recipe\nmetadata: {name: a}\n", "unknown kind 'recipe'"),
    ],
)
async def test_what_nobody_could_find_again_is_refused(
    content: str, named: str
) -> None:
    """RT-CAT-4, RT-API-3: one message under all four keys."""
    async with running_edge() as fleet:
        answer = await fleet.http.post(
            "/api/catalog/register", json={"content": content}
        )
    body = answer.json()
    assert answer.status_code == body["status"] == 422
    assert body["error"] == body["detail"] == body["message"]
    assert named in body["error"]


async def test_a_draft_with_errors_is_stored_and_its_errors_told() -> None:
    """PB-700."""
    draft = PLAYBOOK.replace("    tool: {kind: noop}\n", "")
    async with running_edge() as fleet:
        answer = await register(fleet, draft)
    assert answer["version"] == 1
    [found] = answer["validation"]["errors"]
    assert found["id"] == "PB-708"
    assert found["line"] > 0


async def test_registering_warns_of_fields_no_tool_reads() -> None:
    """TL-SPC-07; validating says the same."""
    text = PLAYBOOK.replace("{kind: noop}", "{kind: noop, mesage: hi}", 1)
    async with running_edge() as fleet:
        told = (await register(fleet, text))["validation"]["warnings"]
        path = "/api/catalog/playbooks/validate"
        said = (await fleet.http.post(path, json={"content": text})).json()
    assert "unknown field 'mesage' of tool kind 'noop'" in told[0]["message"]
    assert said["findings"]["warnings"] == told


async def test_entries_are_found_by_id_version_and_latest() -> None:
    """RT-CAT-1, RT-CAT-6; RT-API-2: ids come as text or number."""
    async with running_edge() as fleet:
        first = await register(fleet)
        await register(fleet, PLAYBOOK.replace("world", "moon"))
        resource = "/api/catalog/resource"
        found = [
            (await fleet.http.post(resource, json=body)).json()
            for body in (
                {"catalog_id": first["catalog_id"]},
                {"catalog_id": int(first["catalog_id"])},
                {"path": "tests/hello", "version": 1},
                {"path": "tests/hello", "version": "1"},
                {"path": "tests/hello", "version": "latest"},
                {"path": "tests/hello", "unknown": True},
            )
        ]
        missing = await fleet.http.post(resource, json={"path": "tests/none"})
        nothing = await fleet.http.post(resource, json={})
    assert [entry["version"] for entry in found] == [1, 1, 1, 1, 2, 2]
    entry = found[0]
    assert entry["payload"] == {"name": "world", "depth": {"a": 1, "b": 2}}
    assert entry["layout"] == [{"step": "start", "tool": {"kind": "noop"}}]
    assert entry["meta"]["team"] == "core"
    assert entry["meta"]["description"] == "says hello"
    assert entry["content"] == PLAYBOOK
    assert missing.status_code == 404
    assert nothing.status_code == 422


async def test_lists_filter_by_kind_path_and_capability() -> None:
    """RT-CAT-5: kinds compare without case, a path with a slash is a prefix."""
    agent = (
        "apiVersion: noetl.io/v2\nkind: Agent\n"
        "metadata: {name: agents/a, agent: true, capabilities: [search]}\n"
        "workflow: [{step: start, tool: {kind: noop}}]\n"
    )
    async with running_edge() as fleet:
        await register(fleet)
        await register(fleet, agent)

        async def paths(**body: Any) -> list[str]:
            answer = await fleet.http.post("/api/catalog/list", json=body)
            return [entry["path"] for entry in answer.json()["entries"]]

        assert await paths() == ["agents/a", "tests/hello"]
        assert await paths(resource_type="Playbook") == ["tests/hello"]
        assert await paths(path="tests/") == ["tests/hello"]
        assert await paths(capability="search") == ["agents/a"]
        assert await paths(capabilities=["fly"]) == []
        agents = await fleet.http.post("/api/catalog/agents/list")
        assert [entry["path"] for entry in agents.json()["entries"]] == ["agents/a"]
        listed = await fleet.http.get("/api/catalog/list/Playbook")
        assert listed.json() == ["tests/hello"]


async def test_the_form_follows_the_workload_and_its_comments() -> None:
    """RT-CAT-8, RT-CAT-9: a path may begin with any word."""
    content = (
        "apiVersion: noetl.io/v2\nkind: Playbook\n"
        "metadata: {name: list/forms, title: Forms, description: '**hi**'}\n"
        "workload:\n"
        "  city: Rome  # ui:enum=[Rome, Oslo]\n"
        "  key: abc  # ui:secret\n"
        "  db: main  # ui:credential=pg_*\n"
        "  count: 3\n"
        "  rate: 0.5\n"
        "  on: true\n"
        "  none:\n"
        "  items: [1]\n"
        "  box:\n"
        "    size: 1  # ui:description=how big\n"
        "workflow: [{step: start, tool: {kind: noop}}]\n"
    )
    async with running_edge() as fleet:
        await register(fleet, content)
        answer = await fleet.http.get("/api/catalog/list/forms/ui_schema?version=1")
    form = answer.json()
    assert (form["path"], form["title"], form["version"]) == ("list/forms", "Forms", 1)
    fields = {field["name"]: field for field in form["fields"]}
    assert list(fields) == [
        "city",
        "key",
        "db",
        "count",
        "rate",
        "on",
        "none",
        "items",
        "box",
    ]
    assert fields["city"]["kind"] == "enum"
    assert fields["city"]["options"] == ["Rome", "Oslo"]
    assert fields["key"]["secret"] is True
    assert fields["db"]["credential_glob"] == "pg_*"
    kinds = [fields[name]["kind"] for name in ("count", "rate", "on", "none", "items")]
    assert kinds == ["integer", "number", "boolean", "null", "array"]
    assert fields["box"]["children"][0]["description"] == "how big"


async def test_a_validator_never_answers_with_an_error_status() -> None:
    async with running_edge() as fleet:
        validate = "/api/catalog/playbooks/validate"
        good = (await fleet.http.post(validate, json={"content": PLAYBOOK})).json()
        bad = await fleet.http.post(validate, json={"content": "a: ["})
    assert good["valid"] is True and good["errors"] == []
    assert bad.status_code == 200
    assert bad.json()["valid"] is False
    assert "Invalid YAML" in bad.json()["errors"][0]


async def test_the_editor_reads_and_stores_content() -> None:
    async with running_edge() as fleet:
        first = await register(fleet)
        url = "/api/catalog/playbook/content"
        for key in ("tests/hello", first["catalog_id"]):
            found = await fleet.http.get(url, params={"playbook_id": key})
            assert found.json()["content"] == PLAYBOOK
        changed = PLAYBOOK.replace("world", "moon")
        params = {"playbook_id": "tests/hello"}
        stored = await fleet.http.put(url, params=params, json={"content": changed})
        assert stored.json()["version"] == 2
        found = await fleet.http.get(url, params=params)
        assert found.json()["content"] == changed
        assert (await fleet.http.get(url)).status_code == 422


async def test_an_entry_with_open_executions_is_not_archived() -> None:
    async with running_edge() as fleet:
        entry = await register(fleet)
        await fleet.start()
        await fleet.materialize()
        url = f"/api/catalog/playbooks/{entry['catalog_id']}"
        refused = await fleet.http.delete(url)
        assert refused.status_code == 409
        other = await register(fleet, PLAYBOOK.replace("tests/hello", "tests/other"))
        url = f"/api/catalog/playbooks/{other['catalog_id']}"
        assert (await fleet.http.delete(url)).json()["status"] == "deleted"
        listed = await fleet.http.get("/api/catalog/list/playbook")
        assert listed.json() == ["tests/hello"]
        assert (await fleet.http.delete("/api/catalog/playbooks/5")).status_code == 404


SUBSCRIPTION = """\
apiVersion: noetl.io/v1
kind: Subscription
metadata: {name: subs/orders}
spec:
  source: nats
  mode: pull
  activation: continuous
  dispatch: {playbook: tests/hello}
"""


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("source: nats", "source: smoke", "spec.source must be one of"),
        ("mode: pull", "mode: push", "spec.ingress.gateway_path must begin with /"),
        ("{playbook: tests/hello}", "{batch_max: 0}", "spec.dispatch.playbook"),
        ("mode: pull", "mode: pull\n  dedup: {window_secs: 0}", "window_secs"),
        ("mode: pull", "mode: pull\n  spool: {backend: s3}", "spec.spool.bucket"),
        ("mode: pull", "mode: pull\n  headers: {directives: [{}]}", "[0].controls"),
        ("spec:\n", "spec: []\nother:\n", "'spec' must be a map"),
    ],
)
async def test_a_subscription_that_could_not_run_is_refused(
    old: str, new: str, named: str
) -> None:
    """RT-CAT-7."""
    async with running_edge() as fleet:
        good = await fleet.http.post(
            "/api/catalog/register", json={"content": SUBSCRIPTION}
        )
        assert good.json()["kind"] == "subscription", good.text
        bad = await fleet.http.post(
            "/api/catalog/register", json={"content": SUBSCRIPTION.replace(old, new)}
        )
    assert bad.status_code == 422
    assert named in bad.json()["error"]
