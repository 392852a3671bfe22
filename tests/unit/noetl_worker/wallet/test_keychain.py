"""Keychain entries: kinds, order of resolution, cache, renewal, residency (SC-KC, SC-CA)."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from urllib.parse import parse_qs

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from keychain_cases import OAUTH, fields
from wallet_world import EXECUTION, World, asker
from web_server import Seen, WebServer, reply

from noetl_worker.wallet.keychain import cache_key, definitions
from state_builder.credentials import Asker, NewEntry, Place
from state_builder.errors import (
    DamagedError,
    InvalidError,
    NoetlError,
    NotFoundError,
    RefusedError,
    TemplateError,
    UnavailableError,
    UpstreamError,
)


async def test_a_static_entry_is_a_map_of_values(world: World) -> None:
    """SC-KC-01, SC-KC-03: rendered against the workload."""
    await world.playbook(
        "  - {name: api, kind: static, map: {url: 'http://{{ workload.host }}', key: marker}}",
        workload={"host": "shop"},
    )
    assert await fields(world, "api") == {"url": "http://shop", "key": "marker"}


async def test_a_credential_entry_has_the_fields_of_the_record(world: World) -> None:
    """SC-KC-03: ``credential`` or ``ref``."""
    await world.save("db", "postgres", db_host="h", db_password="marker")
    await world.playbook(
        "  - {name: a, kind: credential, credential: db}\n"
        "  - {name: b, kind: credential, ref: '{{ workload.which }}'}",
        workload={"which": "db"},
    )
    for name in ("a", "b"):
        found = await world.reveal(name)
        assert found.type == "postgres"
        assert found.reveal() == {"db_host": "h", "db_password": "marker"}


async def test_a_bearer_entry_is_a_token(world: World) -> None:
    """SC-KC-03; it may read an entry before it (SC-KC-04)."""
    await world.playbook(
        "  - {name: raw, kind: static, map: {t: marker}}\n"
        "  - {name: api, kind: bearer, token: '{{ keychain.raw.t }}'}"
    )
    assert await fields(world, "api") == {"token": "marker", "access_token": "marker"}


async def test_a_secrets_entry_is_fetched_from_its_provider(world: World) -> None:
    """SC-KC-02: with a map, and one secret by its name; the older kind's name too."""
    await world.playbook(
        "  - {name: m, kind: secrets, provider: env, map: {k: '{{ workload.v }}'}}\n"
        "  - {name: A_KEY, type: secret_manager, provider: env}",
        workload={"v": "A_KEY"},
    )
    assert await fields(world, "m") == {"k": "marker-env"}
    assert await fields(world, "A_KEY") == {"value": "marker-env"}


async def test_an_oauth2_entry_mints_a_token(world: World, web: WebServer) -> None:
    """SC-KC-04, SC-TE-08: a form by default, its data may read earlier entries."""
    web.answers["/token"] = reply({"access_token": "marker-token", "expires_in": 3600})
    await world.playbook(OAUTH.format(url=web.url, more=""))
    found = await world.reveal("api")
    assert found.type == "bearer"
    assert found.reveal()["token"] == found.reveal()["access_token"] == "marker-token"
    assert found.reveal()["expires_at"] == world.clock.now() + 3600
    assert parse_qs(web.seen[0].body.decode())["client_secret"] == ["marker-client"]
    await world.reveal("api")
    assert len(web.seen) == 1


async def test_an_oauth2_entry_speaks_json_where_it_says_so(
    world: World, web: WebServer
) -> None:
    """SC-KC-04: ``token_field`` and ``ttl_field`` too."""
    web.answers["/token"] = reply({"jwt": "marker", "life": "120"})
    more = "headers: {Content-Type: application/json}\n    token_field: jwt\n    ttl_field: life"
    await world.playbook(OAUTH.format(url=web.url, more=more))
    found = await world.reveal("api")
    assert found.expires_at == world.clock.now() + 120
    assert json.loads(web.seen[0].body)["grant_type"] == "client_credentials"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidError),
        (401, RefusedError),
        (403, RefusedError),
        (429, UpstreamError),
        (500, UpstreamError),
        (503, UpstreamError),
        (302, InvalidError),
    ],
)
async def test_a_token_endpoint_that_refuses_is_told_apart(
    world: World, web: WebServer, status: int, kind: type[NoetlError]
) -> None:
    """SC-KC-04, SC-PR-01, SC-PR-04: 4xx are terminal, 429 and 5xx are not; redirects
    are not followed, the answer's words are cut and hold no secret."""
    body = ("the client said Bearer marker-client-token " + "x" * 500).encode()
    web.answers["/token"] = reply(body, status, location="/elsewhere")
    await world.playbook(OAUTH.format(url=web.url, more=""))
    with pytest.raises(kind) as caught:
        await world.reveal("api")
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind is UpstreamError)
    assert f"answers {status}" in str(caught.value)
    assert "marker" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert len(web.seen) == 1


KEY = generate_private_key(65537, 2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def claims(seen: Seen) -> dict[str, Any]:
    """Of the assertion, after its signature was checked."""
    assertion = parse_qs(seen.body.decode())["assertion"][0]
    head, payload, signature = assertion.split(".")
    KEY.public_key().verify(
        unpad(signature), f"{head}.{payload}".encode(), PKCS1v15(), SHA256()
    )
    found: dict[str, Any] = json.loads(unpad(payload))
    return found


def unpad(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def account(web: WebServer) -> dict[str, Any]:
    # Line ends written out, as they stand in many environments (SC-TY-04).
    return {
        "client_email": "robot@shop",
        "private_key": PEM.replace("\n", "\\n"),
        "token_uri": f"{web.url}/google",
    }


async def test_a_google_id_token_is_asked_for_an_audience(
    world: World, web: WebServer
) -> None:
    """SC-KC-05, SC-TE-08: the account as stored, the end from ``exp``."""
    end = int(world.clock.now()) + 1800
    payload = urlsafe_b64encode(json.dumps({"exp": end}).encode()).decode().rstrip("=")
    web.answers["/google"] = reply({"id_token": f"h.{payload}.s"})
    await world.save("robot", "gcs", service_account_json=json.dumps(account(web)))
    await world.playbook(
        "  - {name: run, kind: google_id_token, target_audience: 'https://{{ workload.h }}',"
        " service_account_credential: robot}",
        workload={"h": "shop"},
    )
    found = await world.reveal("run")
    assert found.expires_at == end
    assert found.reveal()["id_token"] == found.reveal()["token"] == f"h.{payload}.s"
    said = claims(web.seen[0])
    assert said["target_audience"] == "https://shop"
    assert (said["iss"], said["aud"]) == ("robot@shop", f"{web.url}/google")


async def test_google_credentials_give_access_tokens(
    world: World, web: WebServer
) -> None:
    """SC-TY-03: a service account's assertion, an authorized user's refresh grant."""
    web.answers["/google"] = reply({"access_token": "marker", "expires_in": 100})
    await world.save("robot", "google_oauth", **account(web))
    await world.save(
        "person",
        "google_oauth",
        authorized_user={
            "client_id": "c",
            "client_secret": "s",
            "refresh_token": "r",
            "token_uri": f"{web.url}/google",
        },
    )
    for name in ("robot", "person"):
        found = await world.reveal(name, "token")
        assert found.reveal()["access_token"] == "marker"
        assert found.expires_at == world.clock.now() + 100
    assert claims(web.seen[0])["scope"].endswith("/cloud-platform")
    assert parse_qs(web.seen[1].body.decode())["grant_type"] == ["refresh_token"]
    await world.save("i", "google_oauth", impersonate_service_account="x")
    with pytest.raises(InvalidError, match="not available in this build"):
        await world.reveal("i", "token")


async def test_a_token_of_a_credential_is_kept_until_near_its_end(
    world: World, web: WebServer
) -> None:
    """SC-TY-03: until a minute before, and not past a replaced record; two at once make
    one call."""
    tokens = iter(f"marker-{n}" for n in range(9))
    web.answers["/token"] = lambda seen: reply(
        {"access_token": next(tokens), "expires_in": 100}
    )
    stored = {"token_url": f"{web.url}/token", "client_id": "c", "client_secret": "s"}
    await world.save("o", "oauth2", **stored)

    async def get() -> str:
        return str((await world.reveal("o", "token")).reveal()["access_token"])

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(get)
    assert await get() == "marker-0"
    world.clock.advance(39)
    assert await get() == "marker-0"
    world.clock.advance(2)
    assert await get() == "marker-1"
    await world.save("o", "oauth2", **stored, scope="more")
    assert await get() == "marker-2"
    assert len(web.seen) == 3


async def test_other_credentials_give_tokens_too(world: World, web: WebServer) -> None:
    """``token('alias')`` (TL-TPL-09): bearer, and oauth2 as a stored credential."""
    web.answers["/token"] = reply({"access_token": "marker-2", "expires_in": 100})
    await world.save("b", "bearer_token", token="marker-1")
    await world.save(
        "o", "oauth2", token_url=f"{web.url}/token", client_id="c", client_secret="s"
    )
    await world.save("p", "postgres", db_password="x")
    assert (await world.reveal("b", "token")).reveal()["access_token"] == "marker-1"
    assert (await world.reveal("o", "token")).reveal()["access_token"] == "marker-2"
    assert parse_qs(web.seen[0].body.decode())["client_id"] == ["c"]
    with pytest.raises(InvalidError, match="'p' of type postgres gives no token"):
        await world.reveal("p", "token")


async def test_the_order_of_resolution_is_record_then_entry_then_environment(
    world: World,
) -> None:
    """SC-AL-02, SC-AL-04: the first hit wins; a keychain text asks its entry first."""
    await world.save("x", "secret", secret="record")
    await world.playbook(
        "  - {name: x, kind: static, map: {secret: entry}}\n"
        "  - {name: A_KEY, kind: static, map: {secret: entry}}"
    )
    assert await fields(world, "x", want="credential") == {"secret": "record"}
    assert await fields(world, "x", want="entry") == {"secret": "entry"}
    assert await fields(world, "A_KEY", want="credential") == {"secret": "entry"}
    seeded = await world.keeper.reveal("A_KEY", Asker(), "credential")
    assert seeded.reveal() == {"secret": "marker-env", "value": "marker-env"}
    with pytest.raises(NotFoundError, match="noetl credential add"):
        await world.keeper.reveal("PATH", Asker(), "credential")


async def test_a_child_reads_its_parents_entries_and_nobody_else_does(
    world: World,
) -> None:
    """SC-AL-03: by the lineage the owner knows, whatever the asker says."""
    parent = await world.playbook(
        "  - {name: p, kind: static, map: {x: '{{ workload.v }}'}}", "7000",
        workload={"v": "marker-parent"},
    )  # fmt: skip
    above = [{"execution_id": "7000", "catalog_id": parent}]
    await world.playbook(
        "  - {name: c, kind: static, map: {x: y}}", "7001", above=above
    )
    await world.playbook("  - {name: u, kind: static, map: {x: y}}", "7002")
    assert await fields(world, "p", execution_id="7001") == {"x": "marker-parent"}
    stranger = asker("7002")._replace(parent_execution_id="7000")
    with pytest.raises(NotFoundError):
        await world.keeper.reveal("p", stranger, "entry")


async def test_values_are_kept_for_whom_their_scope_says(world: World) -> None:
    """SC-KC-10, RT-SEC-2: local to an execution, shared by a tree, global."""
    catalog = await world.playbook(
        "  - {name: l, kind: static, map: {x: y}}\n"
        "  - {name: s, kind: static, scope: shared, map: {x: y}}\n"
        "  - {name: g, kind: static, scope: catalog, map: {x: y}}",
        above=[{"execution_id": "6000", "catalog_id": "1"}],
    )
    for name in ("l", "s", "g"):
        await world.reveal(name)
    keys = {row.cache_key for row in await world.keeper.entries(catalog)}
    assert keys == {
        f"l:{catalog}:{EXECUTION}",
        f"s:{catalog}:shared:6000",
        f"g:{catalog}:global",
    }
    times = {
        row.keychain_name: row.expires_at.timestamp() - world.clock.now()
        for row in await world.keeper.entries(catalog)
        if row.expires_at
    }
    assert times == {"l": 3600, "s": 86_400, "g": 86_400}


def test_names_cannot_run_into_scopes() -> None:
    """SC-KC-10: ``:`` is encoded."""
    one = cache_key(Place("1", "a:2", scope="global"))
    assert one == "a%3A2:1:global"
    with pytest.raises(InvalidError, match="needs an execution_id"):
        cache_key(Place("1", "a", scope="local"))
    with pytest.raises(InvalidError, match="use local, shared, global"):
        cache_key(Place("1", "a", scope="everywhere"))


async def test_nothing_is_kept_in_the_clear(world: World) -> None:
    """SC-CA-02, SC-KC-09: values and renew_config are envelopes."""
    catalog = await world.playbook("  - {name: e, kind: static, map: {x: marker-1}}")
    await world.reveal("e")
    new = NewEntry(data={"x": "marker-2"}, renew_config={"client_secret": "marker-3"})
    await world.keeper.save_entry(Place(catalog, "f"), new)
    for row in await world.rows.entries(catalog):
        assert "marker" not in repr(row)
        assert '"alg":"AES-256-GCM"' in row.data_encrypted
    assert "marker" not in repr(new)


async def test_a_keychain_value_given_by_hand_can_be_read_until_its_end(
    world: World,
) -> None:
    """SC-KC-12."""
    place = Place("1", "e")
    end = world.clock.now() + 100
    await world.keeper.save_entry(place, NewEntry(data={"x": "marker"}, expires_at=end))
    _, found = await world.keeper.entry(place)
    assert found is not None
    assert found.reveal() == {"x": "marker"}
    world.clock.advance(101)
    assert (await world.keeper.entry(place))[1] is None
    assert await world.keeper.drop_entry(place)
    with pytest.raises(NotFoundError):
        await world.keeper.entry(place)


@pytest.mark.parametrize(
    ("keychain", "words"),
    [
        ("  - {name: e}", "keychain 'e': kind '' is unknown"),
        ("  - {kind: static}", r"keychain\[0\] needs a name"),
        ("  - {name: e, kind: magic}", "'magic' is unknown"),
        ("  - {name: e, kind: static, scope: mine}", "keychain 'e'"),
        ("  - {name: e, kind: static, map: []}", "keychain 'e'"),
        ("  - {name: e, kind: static}\n  - {name: e, kind: static}", "two entries 'e'"),
        ("  - {name: e, kind: bearer, token: '{{ keychain.f.t }}'}\n  - {name: f, kind: static}", "reads 'f', which is not an entry before it"),
        ("  - {name: e, kind: bearer, token: '{{ keychain.e.t }}'}", "reads 'e'"),
        ("  - {name: e, kind: bearer, token: ''}", "has no token"),
        ("  - {name: e, kind: google_id_token}", "give service_account_credential"),
        ("  - {name: e, kind: oauth2}", "endpoint is required"),
        ("  - {name: e, kind: secrets, provider: gcp, map: {a: b}}", "'gcp' is not available in this build"),
        ("  - {name: e, kind: secrets, provider: nowhere, map: {a: b}}", "'nowhere' is unknown"),
    ],
)  # fmt: skip
async def test_an_entry_that_cannot_work_says_which_and_why(
    world: World, keychain: str, words: str
) -> None:
    """SC-KC-01, SC-KC-04 (order, no cycles), SC-AL-05: terminal, named."""
    await world.playbook(keychain)
    with pytest.raises(InvalidError, match=words) as caught:
        await world.reveal("e")
    assert not caught.value.retryable


async def test_a_text_of_an_entry_that_fails_names_the_entry(world: World) -> None:
    await world.playbook("  - {name: e, kind: static, map: {x: '{{ 1 // 0 }}'}}")
    with pytest.raises(TemplateError, match="keychain 'e'"):
        await world.reveal("e")
    [row] = await world.trail(credential="e")
    assert row.outcome == "template_error"


async def test_an_owner_that_is_silent_is_asked_again_later(world: World) -> None:
    world.owners.silent = True
    with pytest.raises(UnavailableError, match="does not answer"):
        await world.reveal("e")


async def test_an_execution_nobody_knows_has_no_keychain(world: World) -> None:
    with pytest.raises(NotFoundError, match="is not running"):
        await world.reveal("e", execution_id="42")


def test_an_entry_may_say_its_credential_type() -> None:
    found = definitions(
        [{"name": "e", "kind": "static", "type": "postgres", "map": {}}]
    )
    assert (found["e"].kind, found["e"].type) == ("static", "postgres")
    assert DamagedError("x").retryable is False
