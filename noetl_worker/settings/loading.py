"""Reading all settings at once, and how they relate.

One :class:`SettingsError` names every variable at fault and what would be allowed.
Older names that mean nothing any more, and unknown ones, are warnings: they are
returned, for whoever has a log by then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from noetl_worker.settings.roles import (
    Materializer,
    Owner,
    Server,
    Wallet,
    Worker,
)
from noetl_worker.settings.rooms import Bus, Limits, Logs, Postgres, Process
from noetl_worker.settings.tools import Tools
from noetl_worker.settings.variables import Variable, read_room, variables_of
from state_builder.errors import SettingsError

ROLES: Final = (
    "server", "system", "worker", "materializer", "dev", "client",
)  # fmt: skip

_ROLE_DEFAULTS: Final[dict[str, dict[str, str]]] = {
    "server": {"NOETL_SHUTDOWN_GRACE_SECS": "10"},
    "dev": {"LOG_FORMAT": "text"},
    "client": {"LOG_FORMAT": "text"},
}

_RETIRED: Final[dict[str, str]] = {
    name: reason
    for names, reason in (
        (
            "NOETL_EVENT_INGEST_PUBLISH_ONLY NOETL_EVENT_READ_PATH NOETL_STATE_BUILDER "
            "NOETL_ORCHESTRATE_PLUGIN_DRIVE NOETL_OFFSERVER_SPINE_ORDER "
            "NOETL_STATE_BUILDER_SHADOW NOETL_STATE_BUILDER_DURABLE "
            "NOETL_STATE_BUILD_MODE NOETL_STATE_BUILD_PARITY_CHECK",
            "there is one path: events are appended to the log, state is built from it",
        ),
        (
            "NOETL_EXECUTION_AFFINITY NOETL_PEER_URL_TEMPLATE NOETL_REPLICA_COHERENCE "
            "NOETL_SHARD_INDEX NOETL_SHARD_INDEX_FROM_HOSTNAME",
            "nothing is forwarded; shards follow membership or NOETL_SHARDS",
        ),
        (
            "NOETL_ORCH_RETRIGGER_ON_CLEAR NOETL_RECONCILE_INTERVAL "
            "NOETL_STATE_BUILDER_IDLE_SLEEP_MS NOETL_STATE_BUILDER_DRIVE_RETRIES "
            "NOETL_STATE_BUILDER_DRIVE_RETRY_MS NOETL_PROJECTOR_OWNS_SNAPSHOT",
            "the drive asks what is missing, there is no poller",
        ),
        (
            "NOETL_COMMAND_RETENTION_SECS NATS_CONSUMER NATS_FILTER_SUBJECT "
            "NOETL_EVENT_STREAM_ENABLED NOETL_EVENT_STREAM_BATCH "
            "NOETL_EVENT_STREAM_POLL_MS NOETL_EVENT_STREAM_BACKFILL",
            "commands stay in the log while open; consumers are pool_<pool>",
        ),
        (
            "NOETL_SYSTEM_ROLES NOETL_MATERIALIZER_ENABLED NOETL_SYSTEM_PLUGIN_DIR "
            "NOETL_MATERIALIZER_IDLE_SLEEP_MS NOETL_CLUSTER_DSN",
            "roles are commands of one image",
        ),
        (
            "NOETL_MATERIALIZER_TIMEOUT_MS NOETL_STATE_BUILDER_BATCH "
            "NOETL_STATE_BUILDER_TIMEOUT_MS",
            "the log is followed, nothing is fetched",
        ),
        ("POSTGRES_MIN_CONNECTIONS", "connections are opened when they are needed"),
        (
            "WORKER_MODE NOETL_SUBSCRIPTION_PATH",
            "there is no subscriber; a step of kind 'subscription' takes messages",
        ),
        ("NOETL_AGENT_ALLOWED_MODULES", "call an agent's framework from a python step"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "no spans are exported; the trace id of an execution is in its events",
        ),
        ("NOETL_REFS_IN_STATE NOETL_ATOMIC_ITEM_CONTEXT", "always on"),
        (
            "NOETL_SEALED_CREDENTIALS NOETL_SEALED_ALLOW_PLAINTEXT_FALLBACK",
            "credentials go to workers sealed, and in no other way",
        ),
    )
    for name in names.split()
}

_OUTSIDE: Final = (
    "NOETL_SECRET_", "NOETL_GCP_", "NOETL_K8S_", "NOETL_AWS_", "NOETL_AZURE_",
    "NOETL_VAULT_", "VAULT_", "AWS_", "AZURE_", "GOOGLE_", "GCP_", "KEYCHAIN_CACHE_",
)  # fmt: skip
"""Prefixes of what secret providers and object stores read: handed on as they are."""

_CLIENT: Final = frozenset({"NOETL_SESSION_TOKEN", "NOETL_TEST_NATS", "NOETL_HOME"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a process was told.

    Attributes:
        outside: variables of secret providers and object stores, as given.
        keychain: values of the names :attr:`Wallet.env_names` allows.
        warnings: what was accepted and does nothing, a sentence each.
    """

    role: str
    process: Process
    logs: Logs
    bus: Bus
    postgres: Postgres
    limits: Limits
    server: Server
    owner: Owner
    worker: Worker
    materializer: Materializer
    tools: Tools
    wallet: Wallet
    outside: Mapping[str, str] = field(default_factory=dict, repr=False)
    keychain: Mapping[str, str] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()

    @staticmethod
    def variables() -> list[Variable]:
        """Every variable there is, for help and documentation."""
        return [variable for room in _ROOMS.values() for variable in variables_of(room)]


_ROOMS: Final[dict[str, type]] = {
    room.__name__.lower(): room
    for room in (
        Process, Logs, Bus, Postgres, Limits,
        Server, Owner, Worker, Materializer, Tools, Wallet,
    )
}  # fmt: skip


def environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def load(environ: Mapping[str, str], role: str) -> Settings:
    """Settings of a process in one of :data:`ROLES`.

    Raises:
        SettingsError: names every variable at fault and what is allowed instead.
    """
    given = {**_ROLE_DEFAULTS.get(role, {}), **_set_ones(environ)}
    faults: list[str] = []
    rooms: dict[str, Any] = {
        name: read_room(room, given, faults) for name, room in _ROOMS.items()
    }
    names = rooms["wallet"].env_names
    settings = Settings(
        role=role,
        outside={name: given[name] for name in given if name.startswith(_OUTSIDE)},
        keychain={name: given[name] for name in names if name in given},
        warnings=tuple(_warnings(given)),
        **rooms,
    )
    faults.extend(_relations(settings))
    faults.extend(_missing(settings))
    if faults:
        raise SettingsError("settings: " + "; ".join(faults))
    return settings


def _set_ones(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environ.items() if text.strip()}


def _warnings(given: Mapping[str, str]) -> list[str]:
    known: set[str] = set(_CLIENT)
    prefixes: list[str] = list(_OUTSIDE)
    for variable in Settings.variables():
        if variable.name.endswith("*"):
            prefixes.append(variable.name[:-1])
        known.update((variable.name, *variable.aliases))
    found = []
    for name in sorted(given):
        if name in _RETIRED:
            found.append(f"{name} does nothing any more: {_RETIRED[name]}")
        elif (
            name.startswith("NOETL_")
            and name not in known
            and not name.startswith(tuple(prefixes))
        ):
            found.append(f"{name} is unknown to this release and ignored")
    return found


def _relations(settings: Settings) -> list[str]:
    """What must hold between settings, as faults where it does not."""
    bus, limits = settings.bus, settings.limits
    server, worker = settings.server, settings.worker
    rules = (
        (
            bus.ack_wait_s > 2 * bus.heartbeat_s,
            "NOETL_COMMAND_ACK_WAIT_SECS must be more than twice "
            "NOETL_NATS_HEARTBEAT_SECS",
        ),
        (
            bus.payload_bytes_soft < bus.message_bytes_max,
            "NOETL_NATS_PAYLOAD_SOFT_LIMIT must be below NOETL_NATS_MESSAGE_MAX_BYTES",
        ),
        (
            limits.command_context_bytes_max <= bus.payload_bytes_soft,
            "NOETL_COMMAND_CONTEXT_MAX_BYTES must not exceed "
            "NOETL_NATS_PAYLOAD_SOFT_LIMIT",
        ),
        (
            limits.result_inline_bytes_max <= bus.payload_bytes_soft,
            "NOETL_EVENT_RESULT_CONTEXT_MAX_BYTES must not exceed "
            "NOETL_NATS_PAYLOAD_SOFT_LIMIT",
        ),
        (
            limits.workload_bytes_max <= bus.payload_bytes_soft,
            "NOETL_WORKLOAD_MAX_BYTES must not exceed NOETL_NATS_PAYLOAD_SOFT_LIMIT",
        ),
        (
            server.runtime_offline_s > 2 * worker.heartbeat_s,
            "NOETL_RUNTIME_OFFLINE_SECONDS must be more than twice "
            "WORKER_HEARTBEAT_INTERVAL",
        ),
        (
            bool(server.tls_cert) == bool(server.tls_key),
            "NOETL_TLS_CERT and NOETL_TLS_KEY go together",
        ),
        (
            bool(server.tls_cert) or not server.tls_client_ca,
            "NOETL_TLS_CLIENT_CA needs NOETL_TLS_CERT",
        ),
        (
            bool(worker.tls_client_cert) == bool(worker.tls_client_key),
            "NOETL_TLS_CLIENT_CERT and NOETL_TLS_CLIENT_KEY go together",
        ),
        (
            all(shard < bus.shard_count for shard in settings.process.shards),
            "NOETL_SHARDS must be below NOETL_SHARD_COUNT",
        ),
    )
    return [text for holds, text in rules if not holds]


def _missing(settings: Settings) -> list[str]:
    """What this role cannot do without."""
    found = []
    wallet = settings.wallet
    keyless = wallet.kms == "local" and not wallet.key and not wallet.insecure_key
    if settings.role == "server" and keyless:
        found.append(
            "NOETL_ENCRYPTION_KEY: give base64 of 32 bytes, or set "
            "NOETL_ALLOW_INSECURE_DEFAULT_KEY=true for development"
        )
    return found
