"""Every route of the OpenAPI document, fed with whatever its schema allows.

Whatever comes in, the answer is a clear one: no fault of ours, errors in one shape.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core import NotSet
from server_edge import PLAYBOOK, TOKEN, Fleet, running_edge

FUZZ = settings(
    max_examples=6,
    phases=[Phase.generate],
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


async def described() -> dict[str, Any]:
    """The OpenAPI document."""
    async with running_edge() as fleet:
        answer = await fleet.http.get("/api/openapi.json")
        return dict(answer.json())


DOCUMENT = anyio.run(described)
OPERATIONS = [
    found.ok()
    for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
    # It goes on for as long as an execution does.
    if not found.ok().path.endswith("/stream")
]


def test_every_route_is_described() -> None:
    """RT-API-1: one base path; what is not described is not tested below."""
    assert len(OPERATIONS) > 40
    outside = {one.path for one in OPERATIONS if not one.path.startswith("/api/")}
    assert outside == {"/health"}


@pytest.mark.parametrize(
    "operation", OPERATIONS, ids=lambda one: f"{one.method.upper()} {one.path}"
)
def test_no_input_is_a_fault_of_ours(operation: Any) -> None:
    """RT-API-3, RT-API-4, RT-API-6."""

    cases: list[Any] = []

    @FUZZ
    @given(operation.as_strategy())
    def draw(case: Any) -> None:
        cases.append(case)

    draw()
    anyio.run(check, cases)


async def check(cases: list[Any]) -> None:
    async with running_edge(allow_sql=True) as fleet:
        await fleet.http.post("/api/catalog/register", json={"content": PLAYBOOK})
        eid = await fleet.start()
        for case in cases:
            answer = await send(fleet, case, eid)
            assert answer.status_code != 500, told(case, answer)
            if answer.status_code >= 400:
                body = answer.json()
                texts = {body["error"], body["detail"], body["message"]}
                assert len(texts) == 1, told(case, answer)
                assert body["status"] == answer.status_code
            if answer.status_code == 503:
                assert answer.headers["retry-after"]


async def send(fleet: Fleet, case: Any, eid: str) -> httpx.Response:
    """One request; half of them for an execution that exists."""
    values = {
        name: eid if name == "execution_id" and len(str(value)) % 2 else value
        for name, value in (case.path_parameters or {}).items()
    }
    path = case.path
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    query = {name: str(value) for name, value in (case.query or {}).items()}
    headers = {"authorization": f"Bearer {TOKEN}"}
    more: dict[str, Any] = {}
    if case.method.upper() != "GET" and not isinstance(case.body, NotSet):
        more["json"] = case.body
    with anyio.fail_after(10):
        return await fleet.http.request(
            case.method, path, params=query, headers=headers, **more
        )


def told(case: Any, answer: httpx.Response) -> str:
    return f"{case.method} {case.path} {case.body!r}: {answer.text[:500]}"


async def test_the_page_of_the_api_needs_no_other_server() -> None:
    """What it loads is served beside it."""
    async with running_edge() as fleet:
        page = (await fleet.http.get("/api/docs")).text
        described = (await fleet.http.get("/api/docs/openapi.json")).json()
        loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
        answers = [await fleet.http.get(path) for path in loaded]
        other = await fleet.http.get("/api/docs/assets/other.js")
    assert len(loaded) == 4
    assert all(path.startswith("/api/docs/assets/") for path in loaded)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert "SwaggerUIBundle" in answers[2].text
    assert "https://" not in re.sub(r'"[^"]*"', "", page)
    assert "/api/execute" in described["paths"]
    assert other.status_code == 404
