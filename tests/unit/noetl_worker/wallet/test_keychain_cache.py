"""Cached keychain values: kept, refreshed, renewed, and where they may be seen (SC-CA)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from keychain_cases import ENV, OAUTH, fields
from wallet_world import EXECUTION, World, asker, wallet_world
from web_server import WebServer, reply

from noetl_worker.wallet.keychain import Definition
from noetl_worker.wallet.residency import residency_decision
from state_builder.credentials import NewEntry, Place
from state_builder.errors import (
    NoetlError,
    NotFoundError,
    RefusedError,
    UpstreamError,
)


def counted(world: World, lives: list[float], error: list[NoetlError]) -> Any:
    """A provider that counts; its values end after ``lives``, errors come first."""
    from noetl_worker.wallet.providers import SecretRef, SecretValue

    class Counted:
        asked = 0
        gate = anyio.Event()

        async def fetch(self, ref: SecretRef) -> SecretValue:
            Counted.asked += 1
            await self.gate.wait()
            if error:
                raise error[0]
            end = world.clock.now() + lives[0] if lives else None
            return SecretValue(f"marker-{Counted.asked}", expires_at=end)

    resolver = world.keeper._resolver
    resolver._from.providers._makers["env"] = lambda token: Counted()
    return Counted


ONE = "  - {name: e, kind: secrets, provider: env, map: {k: A_KEY}}"


async def test_two_hundred_cold_lookups_ask_the_provider_once(world: World) -> None:
    """SC-TE-04, SC-CA-03: one fetch, all waiters get its result."""
    provider = counted(world, [], [])
    await world.playbook(ONE)
    found: list[str] = []

    async def look() -> None:
        found.append(str((await fields(world, "e"))["k"]))

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(look)
        await anyio.wait_all_tasks_blocked()
        provider.gate.set()
    assert provider.asked == 1
    assert found == ["marker-1"] * 200
    outcome = {"outcome": "stampede_collapsed"}
    assert world.metric("noetl_secret_refresh_total", **outcome) == 199


async def test_an_error_is_everybodys_and_not_kept(world: World) -> None:
    """SC-CA-03: all waiters get the error; the next one asks again."""
    errors: list[NoetlError] = [UpstreamError("away")]
    provider = counted(world, [], errors)
    provider.gate.set()
    await world.playbook(ONE)
    failed: list[NoetlError] = []

    async def look() -> None:
        with pytest.raises(UpstreamError) as caught:
            await world.reveal("e")
        failed.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(look)
    assert len(failed) == 5
    errors.clear()
    assert (await fields(world, "e"))["k"].startswith("marker")


async def test_a_waiter_that_goes_away_does_not_end_the_others_fetch(
    world: World,
) -> None:
    """SC-FL-02."""
    provider = counted(world, [], [])
    await world.playbook(ONE)
    found: list[Any] = []

    async def stays() -> None:
        found.append(await fields(world, "e"))

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as gone:
            tasks.start_soon(stays)
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(fields, world, "e")
                await anyio.wait_all_tasks_blocked()
                gone.cancel()
        provider.gate.set()
    assert found == [{"k": "marker-1"}]
    assert provider.asked == 1


async def test_near_its_end_a_value_is_given_and_refreshed_once(world: World) -> None:
    """SC-TE-04, SC-CA-03, SC-CA-01."""
    provider = counted(world, [400.0], [])
    provider.gate.set()
    await world.playbook(ONE)
    await world.reveal("e")
    world.clock.advance(400 - 60 - 30)
    provider.gate = anyio.Event()
    for _ in range(3):
        assert await fields(world, "e") == {"k": "marker-1"}
    await anyio.wait_all_tasks_blocked()
    assert provider.asked == 2
    provider.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert await fields(world, "e") == {"k": "marker-2"}
    assert world.metric("noetl_secret_refresh_total", outcome="succeeded") == 1


async def test_a_failed_refresh_keeps_serving_until_the_end(world: World) -> None:
    """SC-TE-04, SC-CA-03."""
    errors: list[NoetlError] = []
    provider = counted(world, [400.0], errors)
    provider.gate.set()
    await world.playbook(ONE)
    await world.reveal("e")
    errors.append(UpstreamError("away"))
    world.clock.advance(400 - 60 - 30)
    for _ in range(2):
        assert await fields(world, "e") == {"k": "marker-1"}
        await anyio.wait_all_tasks_blocked()
    assert world.metric("noetl_secret_refresh_total", outcome="failed") >= 1
    world.clock.advance(31)
    with pytest.raises(UpstreamError):
        await world.reveal("e")


async def test_a_refresh_does_not_bring_back_a_deleted_row(world: World) -> None:
    """SC-CA-04."""
    provider = counted(world, [400.0], [])
    provider.gate.set()
    catalog = await world.playbook(ONE)
    await world.reveal("e")
    world.clock.advance(400 - 60 - 30)
    provider.gate = anyio.Event()
    await world.reveal("e")
    await world.keeper.drop_entry(Place(catalog, "e", EXECUTION, "local"))
    provider.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert await world.keeper.entries(catalog) == []


@pytest.mark.parametrize(
    ("ends_in", "kept"), [(30, None), (61, 5), (300, 240), (5000, 600)]
)
async def test_how_long_a_value_with_an_end_is_kept(
    world: World, ends_in: float, kept: float | None
) -> None:
    """SC-CA-01: the margin, the floor and the ceiling."""
    counted(world, [ends_in], []).gate.set()
    catalog = await world.playbook(ONE)
    assert await fields(world, "e") == {"k": "marker-1"}
    rows = await world.keeper.entries(catalog)
    if kept is None:
        assert rows == []
        reason = {"reason": "inside_margin"}
        assert world.metric("noetl_secret_cache_skip_total", **reason) == 1
    else:
        assert rows[0].expires_at is not None
        assert rows[0].expires_at.timestamp() - world.clock.now() == pytest.approx(kept)


async def test_a_token_is_renewed_before_its_end_once(
    world: World, web: WebServer
) -> None:
    """SC-KC-13, SC-TE-08: at the threshold; two at once make one call; a renewal that
    fails keeps what is still good."""
    answers = iter(f"marker-{n}" for n in range(1, 9))
    web.answers["/token"] = lambda seen: reply(
        {"access_token": next(answers), "expires_in": 1000}
    )
    await world.playbook(OAUTH.format(url=web.url, more=""))
    assert (await fields(world, "api"))["token"] == "marker-1"
    world.clock.advance(1000 - 60 - 300 - 1)
    assert (await fields(world, "api"))["token"] == "marker-1"
    world.clock.advance(2)
    found: list[str] = []

    async def look() -> None:
        found.append((await fields(world, "api"))["token"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        tasks.start_soon(look)
    assert found == ["marker-2"] * 2
    assert len(web.seen) == 2
    world.clock.advance(700)
    web.answers["/token"] = reply(b"down", 503)
    assert (await fields(world, "api"))["token"] == "marker-2"


async def test_a_damaged_cache_row_is_fetched_anew(world: World) -> None:
    """SC-EN-07: it repairs itself."""
    catalog = await world.playbook("  - {name: e, kind: static, map: {x: y}}")
    await world.reveal("e")
    key = f"e:{catalog}:{EXECUTION}"
    row = await world.rows.entry(key)
    assert row is not None
    await world.rows.swap("keychain", key, row.data_encrypted, "damaged")
    assert await fields(world, "e") == {"x": "y"}
    again = await world.rows.entry(key)
    assert again is not None
    assert again.data_encrypted != "damaged"


@pytest.mark.parametrize("residency", ["none", "advisory", "strict"])
@pytest.mark.parametrize("entry_region", ["", "eu", "us"])
@pytest.mark.parametrize("here", ["", "eu"])
@pytest.mark.parametrize("allowed", [(), ("eu",), ("us",)])
def test_the_residency_matrix(
    residency: Any, entry_region: str, here: str, allowed: tuple[str, ...]
) -> None:
    """SC-RE-01, SC-TE-05."""
    entry = Definition(
        name="e",
        kind="static",
        region=entry_region,
        residency=residency,
        allowed_regions=allowed,
    )
    decision = residency_decision(entry, here)
    if not entry_region:
        assert decision == "allowed_no_policy"
    elif residency == "none" or entry_region == here or (here and here in allowed):
        assert decision == "allowed"
    elif residency == "advisory":
        assert decision == "violation_allowed"
    else:
        assert decision == "denied"


async def test_a_strict_residency_asks_nobody() -> None:
    """SC-RE-01, SC-TE-05: no provider call, no cache read; alias and regions, no value."""
    async with wallet_world(providers=ENV, NOETL_SERVER_REGION="us") as world:
        provider = counted(world, [], [])
        await world.playbook(
            "  - {name: e, kind: secrets, provider: env, region: eu, residency: strict, map: {k: A_KEY}}"
        )
        with pytest.raises(RefusedError, match=r"'e'.*eu.*us.*not available") as caught:
            await world.reveal("e")
        assert caught.value.code == "residency_violation"
        assert provider.asked == 0
        [row] = await world.trail(outcome="residency_violation")
        assert (row.credential, row.server_region) == ("e", "us")
        labels = {"policy": "strict", "decision": "denied"}
        assert world.metric("noetl_secret_residency_check_total", **labels) == 1


async def test_expired_values_and_those_of_ended_runs_are_purged(world: World) -> None:
    """SC-KC-11: every minute."""
    await world.keeper.save_entry(
        Place("1", "e"), NewEntry(data={}, expires_at=world.clock.now() + 10)
    )
    await anyio.wait_all_tasks_blocked()
    world.clock.advance(61)
    await anyio.wait_all_tasks_blocked()
    assert await world.keeper.entries("1") == []


async def test_a_value_stored_by_hand_is_an_entry_of_its_playbook(world: World) -> None:
    """SC-AL-02, SC-KC-12: the nearest scope first; of other playbooks none."""
    catalog = await world.playbook("  []")
    for scope, eid in (("global", ""), ("shared", EXECUTION), ("local", EXECUTION)):
        new = NewEntry(data={"x": f"marker-{scope}"}, expires_at=world.clock.now() + 50)
        await world.keeper.save_entry(Place(catalog, "given", eid, scope), new)
    for scope, eid in (("local", EXECUTION), ("shared", EXECUTION), ("global", "")):
        assert await fields(world, "given") == {"x": f"marker-{scope}"}
        await world.keeper.drop_entry(Place(catalog, "given", eid, scope))
    await world.keeper.save_entry(Place("999", "given"), NewEntry(data={"x": 1}))
    with pytest.raises(NotFoundError):
        await fields(world, "given")


@pytest.mark.parametrize(
    "section", ["  []", OAUTH.format(url="http://127.0.0.1:9", more="")]
)
async def test_a_stored_token_is_renewed_by_the_call_it_came_with(
    world: World, web: WebServer, section: str
) -> None:
    """SC-KC-13: again and again, defined by the playbook or not; the call stays sealed."""
    tokens = iter(range(1, 9))
    web.answers["/token"] = lambda seen: reply(
        {"access_token": f"marker-{next(tokens)}", "expires_in": 3600}
    )
    catalog = await world.playbook(section)
    renew: dict[str, Any] = {
        "endpoint": f"{web.url}/token",
        "data": {"client_secret": "marker"},
    }
    new = NewEntry(
        data={"access_token": "marker-0"},
        expires_at=world.clock.now() + 1000,
        auto_renew=True,
        renew_config=renew,
        credential_type="bearer",
        cache_type="token",
    )
    await world.keeper.save_entry(Place(catalog, "api", EXECUTION, "local"), new)
    for round_number in range(3):
        found = await world.reveal("api", "token")
        assert found.reveal()["access_token"] == f"marker-{round_number}"
        world.clock.advance(3400 if round_number else 800)
    assert b"client_secret=marker" in web.seen[-1].body
    fresh = asker()._replace(fresh=True)
    anew = await world.keeper.reveal("api", fresh, "token")
    assert anew.reveal()["access_token"] == "marker-3", "SC-KC-14: though it is good"
    [row] = await world.rows.entries(catalog)
    assert row.auto_renew and row.renew_config and "marker" not in repr(row)


async def test_a_refused_token_is_minted_anew(world: World, web: WebServer) -> None:
    """SC-KC-14: of an entry and of a stored credential alike."""
    tokens = iter(range(1, 9))
    web.answers["/token"] = lambda seen: reply(
        {"access_token": f"marker-{next(tokens)}", "expires_in": 3600}
    )
    await world.save("stored", "oauth2", token_url=f"{web.url}/token", client_id="c")
    await world.playbook(OAUTH.format(url=web.url, more=""))
    fresh = asker()._replace(fresh=True)
    for name in ("stored", "api"):
        kept = [(await world.reveal(name, "token")).reveal()["token"] for _ in "ab"]
        assert kept[0] == kept[1]
        anew = (await world.keeper.reveal(name, fresh, "token")).reveal()["token"]
        assert anew != kept[0]
        assert (await world.reveal(name, "token")).reveal()["token"] == anew
