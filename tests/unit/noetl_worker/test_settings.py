"""Settings: one reading of the environment, every fault at once (style 3.11)."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from noetl_worker.settings import ROLES, Secret, Settings, load
from state_builder.errors import SettingsError

KEY = {"NOETL_ENCRYPTION_KEY": "a2V5"}


@pytest.mark.parametrize("role", ROLES)
def test_defaults_fit_every_role(role: str) -> None:
    settings = load(KEY, role)
    assert settings.warnings == ()
    assert settings.bus.shard_count == 16
    assert settings.bus.message_bytes_max > settings.bus.payload_bytes_soft


def test_all_faults_come_at_once() -> None:
    given = {
        "NOETL_PORT": "http",
        "NOETL_SHARD_COUNT": "0",
        "LOG_FORMAT": "xml",
        "NOETL_ALLOW_SQL_ENDPOINT": "maybe",
    }
    with pytest.raises(SettingsError) as found:
        load(given, "server")
    text = str(found.value)
    for name in (*given, "NOETL_ENCRYPTION_KEY"):
        assert name in text
    assert "use json or text" in text
    assert "use true or false" in text


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"NOETL_COMMAND_ACK_WAIT_SECS": "9"}, "NOETL_NATS_HEARTBEAT_SECS"),
        ({"NOETL_NATS_PAYLOAD_SOFT_LIMIT": "2000000"}, "NOETL_NATS_MESSAGE_MAX_BYTES"),
        ({"NOETL_TLS_CERT": "c.pem"}, "NOETL_TLS_KEY"),
        ({"NOETL_TLS_CLIENT_CA": "ca.pem"}, "NOETL_TLS_CERT"),
        ({"NOETL_SHARDS": "0-16"}, "NOETL_SHARD_COUNT"),
        ({"WORKER_HEARTBEAT_INTERVAL": "40"}, "NOETL_RUNTIME_OFFLINE_SECONDS"),
        ({"NOETL_WORKLOAD_MAX_BYTES": "950000"}, "NOETL_NATS_PAYLOAD_SOFT_LIMIT"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    given: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        load(given, "worker")


@pytest.mark.parametrize(
    ("alias", "read"),
    [
        ("NOETL_EVENT_PARTITIONS", lambda s: s.bus.shard_count),
        ("WORKER_MAX_CONCURRENT", lambda s: s.worker.slots),
        ("NOETL_CHECKPOINT_EVENTS", lambda s: s.owner.snapshot_every_events),
        ("NOETL_SNOWFLAKE_NODE_ID", lambda s: s.process.machine_id),
    ],
)
def test_older_spellings_still_work(alias: str, read: object) -> None:
    assert callable(read)
    settings = load({alias: "7"}, "worker")
    assert read(settings) == 7
    assert settings.warnings == ()


def test_the_new_spelling_wins_over_the_old_one() -> None:
    given = {"NOETL_SHARD_COUNT": "8", "NOETL_EVENT_PARTITIONS": "4"}
    assert load(given, "worker").bus.shard_count == 8


def test_retired_and_unknown_names_warn_once_each() -> None:
    """RT-ARC-5, §9.4: accepted, without effect, said once."""
    given = {
        "NOETL_STATE_BUILDER": "1",
        "NATS_CONSUMER": "x",
        "NOETL_SHARDCOUNT": "4",
        "NOETL_MCP_KUBERNETES_ENDPOINT": "http://k8s",
        "HOME": "/root",
    }
    warnings = load(given, "worker").warnings
    assert len(warnings) == 3
    assert any("NOETL_SHARDCOUNT is unknown" in text for text in warnings)
    assert any("NATS_CONSUMER does nothing any more" in text for text in warnings)


def test_lists_ranges_and_families_are_read() -> None:
    given = {
        "NOETL_SHARDS": "0-2, 7,1",
        "NOETL_WORKER_POOL": "shared, gpu",
        "NOETL_TOOL_MAX_CONCURRENCY_HTTP": "3",
        "NOETL_KEYCHAIN_ENV_VARS": "API_KEY,ABSENT",
        "API_KEY": "k",
        "VAULT_ADDR": "http://vault",
    }
    settings = load(given, "worker")
    assert settings.process.shards == (0, 1, 2, 7)
    assert settings.worker.pools == ("shared", "gpu")
    assert settings.tools.concurrency_max == {"HTTP": "3"}
    assert settings.keychain == {"API_KEY": "k"}
    assert settings.outside == {"VAULT_ADDR": "http://vault"}


def test_an_empty_value_counts_as_not_set() -> None:
    assert load({"NOETL_PORT": " ", "POSTGRES_DB": ""}, "worker").server.port == 8082


def test_the_server_drains_shorter_than_a_worker_unless_told() -> None:
    assert load(KEY, "server").process.grace_s == 10
    assert load({}, "worker").process.grace_s == 25
    told = load({**KEY, "NOETL_SHUTDOWN_GRACE_SECS": "40"}, "server")
    assert told.process.grace_s == 40


def test_secrets_never_print() -> None:
    given = {
        "NATS_URL": "nats://user:hush@broker:4222",
        "POSTGRES_PASSWORD": "hush",
        "NOETL_ENCRYPTION_KEY": "hush",
        "NOETL_KEYCHAIN_ENV_VARS": "API_KEY",
        "API_KEY": "hush",
        "AWS_SECRET_ACCESS_KEY": "hush",
    }
    settings = load(given, "server")
    assert settings.bus.urls.reveal() == "nats://user:hush@broker:4222"
    assert "hush" not in f"{settings} {settings!r} {settings.postgres.password}"
    assert "hush" not in "".join(variable.default for variable in Settings.variables())


def test_a_bad_secret_is_refused_without_being_shown() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert not Secret()


def test_every_variable_is_documented_once() -> None:
    names = [
        name
        for variable in Settings.variables()
        for name in (variable.name, *variable.aliases)
    ]
    assert len(names) == len(set(names))
    for variable in Settings.variables():
        assert variable.doc and not variable.doc.endswith("."), variable.name
        room = getattr(load(KEY, "server"), variable.room)
        assert hasattr(room, variable.attribute)
        assert variable.attribute in get_type_hints(type(room))
