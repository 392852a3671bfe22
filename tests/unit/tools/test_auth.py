"""Credentials under a tool's own names: who may use what, and what goes where (SC-TY)."""

from __future__ import annotations

from typing import Any

import pytest

from noetl_worker.wallet.memory import MemoryWallet
from state_builder.credentials import Asker, Credential, Want
from state_builder.errors import (
    DamagedError,
    InvalidError,
    NoetlError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UpstreamError,
)
from tools.auth import (
    authorize,
    http_headers,
    names_credentials,
    secret_values,
    unavailable,
)
from tools.errors import ToolCallError

PG = {
    "db_host": "h",
    "db_port": "6543",
    "db_user": "u",
    "db_password": "p",
    "db_name": "d",
}
PG_CANONICAL = {
    "host": "h",
    "port": 6543,
    "user": "u",
    "password": "p",
    "database": "d",
}
DSN = "postgresql://u:p%40q@h:6543/d?sslmode=require"

STORED: dict[str, tuple[str, dict[str, Any]]] = {
    "pg": ("postgres", PG),
    "pg_aliases": ("postgres", {"host": "h", "port": 6543, "username": "u", "password": "p", "dbname": "d"}),
    "pg_dsn": ("postgres", {"connection_string": DSN}),
    "pg_port": ("postgres", {"host": "h", "port": "many"}),
    "bearer": ("bearer", {"access_token": "t"}),
    "api_key": ("api_key", {"key": "k"}),
    "api_key_own": ("api_key", {"api_key": "k", "header": "X-Own"}),
    "basic": ("basic", {"user": "u", "password": "p"}),
    "nats": ("nats", {"nats_url": "nats://h", "nats_user": "u", "nats_password": "p", "nats_creds": "c", "nats_token": "t"}),
    "snow": ("snowflake", {"sf_account": "a", "user": "u", "sf_private_key": "-----BEGIN X-----\\nk", "role": "r"}),
    "hmac": ("gcs_hmac", {"key_id": "i", "secret_key": "s", "other": "x"}),
    "gcs": ("gcs", {"service_account_json": '{"client_email": "e"}'}),
    "aws": ("aws", {"access_key_id": "i", "secret_access_key": "s", "region": "r", "endpoint": "e"}),
    "oauth": ("oauth2", {"access_token": "minted", "token_url": "x"}),
    "google": ("google_oauth", {"access_token": "minted"}),
    "kafka": ("kafka", {"brokers": "b", "sasl_username": "u"}),
    "secret": ("secret", {"secret": "s"}),
    "any": ("any", {}),
}  # fmt: skip


def wallet() -> MemoryWallet:
    return MemoryWallet(
        {
            name: Credential(name, kind, dict(data))
            for name, (kind, data) in STORED.items()
        }
    )


async def authorized(kind: str, /, **config: Any) -> dict[str, Any]:
    async def lookup(alias: str, want: Want) -> Credential:
        return await wallet().credential(alias, Asker(), want)

    return await authorize(kind, config, lookup)


INJECTED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("postgres", {"auth": "pg"}, PG_CANONICAL),
    ("postgres", {"credential": "pg"}, PG_CANONICAL),
    ("postgres", {"auth": "pg", "credential": "bearer"}, PG_CANONICAL),
    ("postgres", {"auth": "pg_aliases"}, PG_CANONICAL),
    ("postgres", {"auth": "pg_dsn"}, {"connection_string": DSN}),
    ("postgres", {"auth": "pg", "database": "mine"}, {**PG_CANONICAL, "database": "mine"}),
    ("postgres", {"auth": "pg", "db_name": "mine"},
     {**{k: v for k, v in PG_CANONICAL.items() if k != "database"}, "db_name": "mine"}),
    ("postgres", {"auth": "pg", "connection_string": "mine"}, {"connection_string": "mine"}),
    ("postgres", {"auth": "pg_dsn", "database": "mine"},
     {"host": "h", "port": 6543, "user": "u", "password": "p@q", "database": "mine", "sslmode": "require"}),
    ("ducklake", {"auth": "pg"}, PG_CANONICAL),
    ("nats", {"auth": "nats", "operation": "kv_get"},
     {"operation": "kv_get", "url": "nats://h", "user": "u", "password": "p", "token": "t", "creds": "c"}),
    ("subscription", {"auth": "kafka"}, {"brokers": "b", "sasl_username": "u"}),
    ("snowflake", {"auth": "snow"},
     {"account": "a", "user": "u", "private_key": "-----BEGIN X-----\nk", "role": "r"}),
    ("s3", {"credential": "aws"},
     {"access_key_id": "i", "secret_access_key": "s", "region": "r", "endpoint": "e"}),
    ("gcs", {"credential": "gcs"}, {"service_account_json": {"client_email": "e"}}),
    ("own_plugin", {"auth": "bearer"}, {"token": "t"}),
    ("http", {"auth": "bearer"}, {"auth": {"type": "bearer", "token": "t"}}),
    ("mcp", {"auth": "api_key"}, {"auth": {"type": "api_key", "token": "k"}}),
    ("http", {"auth": "basic"}, {"auth": {"type": "basic", "username": "u", "password": "p"}}),
    ("http", {"auth": "oauth"}, {"auth": {"type": "bearer", "token": "minted"}}),
    ("http", {"auth": "google"}, {"auth": {"type": "bearer", "token": "minted"}}),
    ("duckdb", {"auth": "pg"}, {"auth": {"pg": {"type": "postgres", **PG_CANONICAL}}}),
    ("duckdb", {"gcs_credential": "hmac"},
     {"gcs_credential": {"type": "gcs_hmac", "key_id": "i", "secret_key": "s"}}),
    ("python", {"auth": "aws"},
     {"auth": {"aws": {"type": "aws", "access_key_id": "i", "secret_access_key": "s", "region": "r", "endpoint": "e"}}}),
    ("noop", {"auth": "nobody"}, {}),
    ("postgres", {"auth": "any", "host": "h"}, {"host": "h"}),
    ("shell", {"auth": "any"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config", "wanted"), INJECTED)
async def test_a_credential_comes_under_the_tools_own_names(
    kind: str, config: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """SC-TY-01, SC-TY-02, SC-TY-04, TL-AUT-01: the playbook's own values win, port texts
    become numbers, the name itself is gone."""
    assert names_credentials(kind, config)
    assert await authorized(kind, **config) == wanted


BLOCKS: list[tuple[str, Any, dict[str, Any]]] = [
    ("http", {"type": "bearer", "token": "lit"}, {"Authorization": "Bearer lit"}),
    ("http", {"type": "bearer", "credential": "bearer"}, {"Authorization": "Bearer t"}),
    ("http", {"type": "bearer", "credential": "nobody", "token": "lit"}, {"Authorization": "Bearer lit"}),
    ("http", {"type": "basic", "username": "a", "password": "b"}, {"Authorization": "Basic YTpi"}),
    ("http", {"type": "basic", "credential": "basic"}, {"Authorization": "Basic dTpw"}),
    ("http", {"type": "api_key", "token": "lit"}, {"X-API-Key": "lit"}),
    ("http", {"type": "api_key", "credential": "api_key"}, {"X-API-Key": "k"}),
    ("http", {"type": "api_key", "credential": "api_key", "header": "X-Mine"}, {"X-Mine": "k"}),
    ("http", "api_key_own", {"X-Own": "k"}),
    ("http", {"type": "none"}, {}),
    ("http", {"source": "credential", "type": "bearer", "key": "oauth"}, {"Authorization": "Bearer minted"}),
    ("http", {"api": {"source": "credential", "key": "bearer"}}, {"Authorization": "Bearer t"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "auth", "wanted"), BLOCKS)
async def test_a_block_becomes_a_header(
    kind: str, auth: Any, wanted: dict[str, Any]
) -> None:
    """TL-AUT-02, TL-AUT-03: a literal wins over a name; also by the entries of a map."""
    config = await authorized(kind, auth=auth)
    assert http_headers(config.get("auth")) == wanted


async def test_a_map_of_named_credentials_is_filled_entry_by_entry() -> None:
    """TL-AUT-03: each by its ``key``, its own words stay."""
    auth = {
        "shop": {"source": "credential", "tool": "postgres", "key": "pg_dsn"},
        "lake": {
            "source": "credential",
            "type": "hmac",
            "key": "hmac",
            "scope": "gs://b",
        },
    }
    filled = (await authorized("duckdb", auth=auth))["auth"]
    assert filled["shop"]["type"] == "postgres"
    assert (filled["shop"]["host"], filled["shop"]["password"]) == ("h", "p@q")
    assert filled["lake"] == {
        "type": "hmac",
        "key_id": "i",
        "secret_key": "s",
        "scope": "gs://b",
    }


async def test_each_end_of_a_transfer_has_its_own() -> None:
    """SC-AL-01."""
    config = await authorized(
        "transfer",
        source={"type": "http", "url": "http://x", "auth": "bearer"},
        target={"type": "postgres", "auth": "pg", "table": "t"},
    )
    assert config["source"]["auth"] == {"type": "bearer", "token": "t"}
    assert config["target"] == {"type": "postgres", "table": "t", **PG_CANONICAL}


async def test_the_source_of_a_script_has_its_own() -> None:
    """SC-AL-01: ``script.source.auth``."""
    script = {"uri": "s3://b/x.py", "source": {"type": "s3", "auth": "aws"}}
    config = await authorized("python", script=script)
    assert config["script"]["source"]["auth"]["secret_access_key"] == "s"
    for auth in ("oauth", "google", {"type": "bearer", "credential": "bearer"}):
        script = {"uri": "gs://b/x.py", "source": {"type": "gcs", "auth": auth}}
        config = await authorized("python", script=script)
        found = config["script"]["source"]["auth"]
        assert found["type"] == "bearer", auth
        assert found["token"] in ("minted", "t")


@pytest.mark.parametrize(
    ("kind", "auth", "words"),
    [
        (
            "postgres",
            "bearer",
            "'bearer' of type bearer cannot be used by kind 'postgres'",
        ),
        ("http", "pg", "'pg' of type postgres cannot be used by kind 'http'"),
        ("http", "secret", "'secret' of type secret"),
        ("nats", "pg", "kind 'nats'"),
        ("shell", "pg", "kind 'shell'"),
        ("s3", "gcs", "kind 's3'"),
        ("postgres", "pg_port", "'pg_port': port is no number"),
        ("http", 5, "auth must be the name of a credential or a map"),
        ("http", {"source": "credential", "type": "bearer"}, "give 'key'"),
    ],
)
async def test_what_cannot_be_used_is_terminal_and_named(
    kind: str, auth: Any, words: str
) -> None:
    """SC-TY-02, TL-AUT-05: alias, type and kind; the tool does not run."""
    with pytest.raises(ToolCallError, match=words) as caught:
        await authorized(kind, auth=auth)
    failure = caught.value.failure
    assert (failure.kind, failure.retryable) == ("auth", False)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "bearer"}, "'bearer' needs token"),
        ({"type": "basic", "username": "u"}, "needs password"),
        ({"type": "api_key"}, "needs token"),
        ({"type": "magic", "token": "x"}, "'magic' is unknown"),
        ({"source": "adc"}, "'gcp_adc' is not available"),
        ({"type": "gcp_adc"}, "'gcp_adc' is not available"),
        ({"a": {"type": "postgres"}}, "no block of a type that http can use"),
    ],
)
async def test_a_block_without_a_value_is_terminal(block: Any, words: str) -> None:
    """TL-AUT-02: neither literal nor name → kind ``auth``, not retryable."""
    with pytest.raises(ToolCallError, match=words) as caught:
        http_headers((await authorized("http", auth=block))["auth"])
    assert (caught.value.failure.kind, caught.value.failure.retryable) == (
        "auth",
        False,
    )


@pytest.mark.parametrize(
    ("error", "kind", "code", "retryable"),
    [
        (NotFoundError("x"), "auth", "credential_not_found", False),
        (RefusedError("x"), "auth", "credential_refused", False),
        (DamagedError("x"), "auth", "credential_damaged", False),
        (InvalidError("x"), "auth", "credential_invalid", False),
        (UpstreamError("x"), "connection", "credential_unavailable", True),
        (UnavailableError("x"), "connection", "credential_unavailable", True),
    ],
)
def test_a_lookup_that_fails_says_whether_to_try_again(
    error: NoetlError, kind: str, code: str, retryable: bool
) -> None:
    """SC-AL-05, TL-AUT-05."""
    failure = unavailable(error).failure
    assert (failure.kind, failure.code, failure.retryable) == (kind, code, retryable)


def test_what_a_playbook_states_itself_is_known_as_secret() -> None:
    """TL-SCR-05: literals of blocks and fields, passwords within addresses."""
    config: dict[str, Any] = {
        "connection_string": "postgres://u:marker-1@h/d",
        "auth": {
            "type": "bearer",
            "token": "marker-2",
            "deep": {"password": "marker-3"},
        },
        "url": "http://plain",
    }
    found = secret_values(config)
    assert {"marker-1", "marker-2", "marker-3"} <= found
    assert "http://plain" not in found


def test_a_tool_without_credentials_asks_nobody() -> None:
    """The hot path."""
    for kind, config in (
        ("http", {"url": "x"}),
        ("transfer", {}),
        ("python", {"code": "x"}),
    ):
        assert not names_credentials(kind, config)
