"""Providers of secrets: what they ask, what they answer, what they refuse (SC-PR)."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from wallet_world import HandClock
from web_server import WebServer, reply, web_server

from noetl_worker.metrics import PrometheusObserver
from noetl_worker.wallet.providers import (
    Providers,
    ProviderSettings,
    SecretRef,
    Web,
    WebCall,
)
from state_builder.errors import (
    InvalidError,
    NoetlError,
    NotFoundError,
    RefusedError,
    UpstreamError,
)

MARKER = "marker-of-a-provider"


@pytest.fixture
async def server() -> AsyncIterator[WebServer]:
    async with web_server() as found:
        yield found


class Asked:
    """Providers set for a fake server."""

    def __init__(self, url: str, folder: Path, **more: Any) -> None:
        self.web = Web(timeout_s=0.5)
        self.observer = PrometheusObserver()
        self.clock = HandClock()
        outside = {
            "VAULT_ADDR": url,
            "VAULT_TOKEN": "marker-vault-token",
            "VAULT_NAMESPACE": "team",
            "NOETL_K8S_API_URL": url,
            "NOETL_K8S_TOKEN": "marker-k8s-token",
            "NOETL_K8S_NAMESPACE": "shop",
            **more.pop("outside", {}),
        }
        settings = ProviderSettings(
            env_names=("A_KEY", "GONE"),
            env_values={"A_KEY": MARKER, "PATH_LIKE": "never"},
            secrets_dir=str(folder),
            outside=outside,
            **more,
        )
        self.providers = Providers(settings, self.web, self.clock, self.observer)

    async def fetch(self, provider: str, ref: str, **more: Any) -> str:
        value = await self.providers.fetch(provider, SecretRef(ref, **more))
        return value.value

    def count(self, name: str, **labels: str) -> float:
        return self.observer.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def asked(server: WebServer, tmp_path: Path) -> AsyncIterator[Asked]:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "password").write_text(MARKER + "\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_text("x" * 70_000)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_text(MARKER)
    (tmp_path / "link").symlink_to(outside)
    found = Asked(server.url, tmp_path)
    yield found
    await found.web.close()


async def test_variables_of_the_allow_list_and_files_of_the_folder(
    asked: Asked,
) -> None:
    """SC-PR-01, SC-AL-04."""
    assert await asked.fetch("env", "A_KEY") == MARKER
    assert await asked.fetch("file", "db/password") == MARKER


VAULT_PATH = "/v1/secret/data/app/db"


async def test_vault_gives_one_key_or_all_of_a_secret(
    asked: Asked, server: WebServer
) -> None:
    """SC-PR-02 table: ``[mount/]path#key``, version, namespace, other values as JSON."""
    data = {"password": MARKER, "port": 5432}
    server.answers[VAULT_PATH] = reply(
        {"data": {"data": data, "metadata": {"version": 3}}}
    )
    assert await asked.fetch("vault", "app/db#password") == MARKER
    assert await asked.fetch("hashicorp", "secret/app/db#password") == MARKER
    assert await asked.fetch("vault", "app/db#port") == "5432"
    assert MARKER in await asked.fetch("vault", "app/db", version="3")
    seen = server.seen
    assert seen[0].headers["x-vault-token"] == "marker-vault-token"
    assert seen[0].headers["x-vault-namespace"] == "team"
    assert seen[3].target == f"{VAULT_PATH}?version=3"


async def test_kubernetes_gives_one_key_of_a_secret(
    asked: Asked, server: WebServer
) -> None:
    """SC-PR-02 table: ``[ns/]secret/key``, or the only key."""
    encoded = b64encode(MARKER.encode()).decode()
    one = reply({"data": {"password": encoded}, "metadata": {"resourceVersion": "9"}})
    server.answers["/api/v1/namespaces/shop/secrets/db"] = one
    server.answers["/api/v1/namespaces/other/secrets/db"] = one
    for ref in ("db", "db/password", "other/db/password"):
        assert await asked.fetch("k8s", ref) == MARKER
    assert server.seen[0].headers["authorization"] == "Bearer marker-k8s-token"


async def test_the_cluster_may_renew_the_token_file(
    server: WebServer, tmp_path: Path
) -> None:
    """SC-PR-02 table: it is read for every call."""
    token = tmp_path / "token"
    outside = {"NOETL_K8S_TOKEN": "", "NOETL_K8S_TOKEN_FILE": str(token)}
    asked = Asked(server.url, tmp_path, outside=outside)
    encoded = b64encode(b"x").decode()
    server.answers["/api/v1/namespaces/shop/secrets/db"] = reply(
        {"data": {"k": encoded}}
    )
    for text in ("first\n", "second\n"):
        token.write_text(text)
        await asked.fetch("k8s", "db")
    bearers = [seen.headers["authorization"] for seen in server.seen]
    assert bearers == ["Bearer first", "Bearer second"]
    await asked.web.close()


K8S_PATH = "/api/v1/namespaces/shop/secrets/db"

STATUSES: list[tuple[int, type[NoetlError]]] = [
    (404, NotFoundError),
    (401, RefusedError),
    (403, RefusedError),
    (400, InvalidError),
    (301, InvalidError),
    (429, UpstreamError),
    (500, UpstreamError),
    (503, UpstreamError),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
@pytest.mark.parametrize(
    ("provider", "ref", "path"),
    [("vault", "app/db#k", VAULT_PATH), ("k8s", "db/k", K8S_PATH)],
)
async def test_what_a_provider_refuses_is_told_apart(
    asked: Asked,
    server: WebServer,
    provider: str,
    ref: str,
    path: str,
    status: int,
    kind: type[NoetlError],
) -> None:
    """SC-TE-03, SC-PR-01, SC-PR-04: classes, no redirects, cut and scrubbed words."""
    words = ("token Bearer marker-vault-token " + "y" * 400).encode()
    server.answers[path] = reply(words, status, location="/v1/elsewhere")
    with pytest.raises(kind) as caught:
        await asked.fetch(provider, ref)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert provider in text
    assert str(status) in text
    assert "marker" not in text
    assert len(text) < 280
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"data": {}}',
        b'{"data": {"data": {"other": "x"}}}',
        b'{"data": {"k": 5}}',
        b'{"data": {"k": "%%%"}}',
        b'{"data": {"k": "/w=="}}',
    ],
)
@pytest.mark.parametrize(
    ("provider", "ref", "path"),
    [("vault", "app/db#k", VAULT_PATH), ("k8s", "db/k", K8S_PATH)],
)
async def test_a_malformed_answer_is_terminal(
    asked: Asked, server: WebServer, provider: str, ref: str, path: str, body: bytes
) -> None:
    """SC-TE-03, SC-AL-05."""
    server.answers[path] = reply(body)
    with pytest.raises(InvalidError, match=f"provider {provider}"):
        await asked.fetch(provider, ref)


async def test_a_provider_that_is_slow_or_away_may_be_asked_again(
    asked: Asked, server: WebServer, tmp_path: Path
) -> None:
    """SC-TE-03, SC-PR-01: a timeout and a refused connection are retryable."""

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    server.answers[VAULT_PATH] = silent
    with pytest.raises(
        UpstreamError, match="provider vault cannot be reached: ReadTimeout"
    ):
        await asked.fetch("vault", "app/db#k")
    away = Asked("http://127.0.0.1:9", tmp_path)
    with pytest.raises(UpstreamError, match="ConnectError"):
        await away.fetch("vault", "app/db#k")
    await away.web.close()


ATTACKS = [
    "../x", "a/../b", "a//b", "/a", "a/", "..", "a\r\nX: y", "a\nb", "a%2e%2e/b",
    "a?list=true", "http://evil/x", "a@evil", "a b", "", "a" * 600, "a\\b", "ä",
]  # fmt: skip


@pytest.mark.parametrize("ref", ATTACKS)
@pytest.mark.parametrize("provider", ["env", "file", "vault", "k8s"])
async def test_a_ref_out_of_its_grammar_asks_nobody(
    asked: Asked, server: WebServer, provider: str, ref: str
) -> None:
    """SC-PR-03, SC-TE-03: path escapes, other hosts, line ends; the ref is not told."""
    with pytest.raises((InvalidError, RefusedError)) as caught:
        await asked.fetch(provider, ref)
    assert server.seen == []
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("ref", ["a#b#c", "a#", "a#b\n"])
async def test_vault_takes_one_key(asked: Asked, server: WebServer, ref: str) -> None:
    """SC-PR-03: no ``#`` beyond the defined one."""
    with pytest.raises(InvalidError, match="malformed"):
        await asked.fetch("vault", ref)
    with pytest.raises(InvalidError, match="version is a number"):
        await asked.fetch("vault", "a#b", version="1&x=y")
    assert server.seen == []


@pytest.mark.parametrize(
    ("provider", "ref", "kind"),
    [
        ("env", "PATH", RefusedError),
        ("env", "PATH_LIKE", RefusedError),
        ("env", "GONE", NotFoundError),
        ("file", "nothing", NotFoundError),
        ("file", "db/password/x", NotFoundError),
        ("file", "link", RefusedError),
        ("file", "binary", InvalidError),
        ("file", "large", InvalidError),
    ],
)
async def test_what_is_not_meant_to_be_read_is_not(
    asked: Asked, provider: str, ref: str, kind: type[NoetlError]
) -> None:
    """SC-PR-01, TL-SEC-04: a link that leads out of the folder, sizes, other names."""
    with pytest.raises(kind) as caught:
        await asked.fetch(provider, ref)
    assert MARKER not in str(caught.value)


@pytest.mark.parametrize(
    ("provider", "outside", "words"),
    [
        ("vault", {"VAULT_ADDR": ""}, "VAULT_ADDR is not set"),
        ("vault", {"VAULT_TOKEN": ""}, "give VAULT_TOKEN"),
        (
            "vault",
            {"VAULT_TOKEN": "", "NOETL_VAULT_TOKEN_FILE": "/nowhere"},
            "token file",
        ),
        (
            "k8s",
            {"NOETL_K8S_TOKEN": "", "NOETL_K8S_TOKEN_FILE": "/nowhere"},
            "token file",
        ),
        ("k8s", {"NOETL_K8S_CA_FILE": "/nowhere"}, "authority file"),
        ("file", {}, "NOETL_SECRETS_DIR is not set"),
    ],
)
async def test_a_provider_that_is_not_set_up_says_what_to_set(
    server: WebServer, provider: str, outside: dict[str, str], words: str
) -> None:
    """SC-PR-01: Config, terminal."""
    folder = Path() if provider != "file" else Path("/nowhere")
    asked = Asked(server.url, folder, outside=outside)
    if provider == "file":
        settings = ProviderSettings()
        asked.providers = Providers(settings, asked.web, asked.clock, asked.observer)
    with pytest.raises(InvalidError, match=words):
        await asked.fetch(provider, "a/b")


CLOUD = [
    "gcp",
    "gcp_sm",
    "google",
    "aws",
    "azure_kv",
    "aws_iam",
    "gcp_iam",
    "azure_oauth",
]


@pytest.mark.parametrize("provider", CLOUD)
async def test_a_cloud_provider_says_that_it_is_to_come(
    asked: Asked, provider: str
) -> None:
    with pytest.raises(
        InvalidError, match=r"not available in this build \(use env, file"
    ):
        await asked.fetch(provider, "a")
    with pytest.raises(InvalidError, match="'magic' is unknown"):
        await asked.fetch("magic", "a")


async def test_refs_can_be_restricted(server: WebServer, tmp_path: Path) -> None:
    """SC-PR-05: off by default; a deny is 403."""
    asked = Asked(server.url, tmp_path, allowed_refs=("env:A_*", "db/*"))
    assert await asked.fetch("env", "A_KEY") == MARKER
    with pytest.raises(RefusedError, match="NOETL_SECRET_ALLOWED_REFS"):
        await asked.fetch("vault", "app/db#k")
    assert server.seen == []


async def test_a_provider_is_built_once_for_a_while(asked: Asked) -> None:
    """SC-PR-02, SC-ME-01: and counted."""
    for _ in range(3):
        await asked.fetch("env", "A_KEY")
    labels = {"provider": "env", "region": "-"}
    built = "noetl_secret_provider_build_total"
    assert asked.count(built, status="ok", **labels) == 1
    assert asked.count(built, status="cache_hit", **labels) == 2
    asked.clock.advance(3601)
    await asked.fetch("env", "A_KEY")
    assert asked.count(built, status="ok", **labels) == 2
    with pytest.raises(NotFoundError):
        await asked.fetch("env", "GONE")
    resolved = "noetl_secret_resolve_total"
    assert asked.count(resolved, status="ok", **labels) == 4
    assert asked.count(resolved, status="not_found", **labels) == 1


async def test_a_call_shows_nothing_of_what_it_sends() -> None:
    """SC-LG-03."""
    call = WebCall(
        who="x", url="http://x", headers={"a": MARKER}, form={"b": MARKER}, json=MARKER
    )
    assert MARKER not in repr(call)
    assert MARKER not in repr(ProviderSettings(env_values={"A": MARKER}))
