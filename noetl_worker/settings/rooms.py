"""Settings every role shares, beside the fields they fill: one dataclass for each room.

Defaults are those of the specification (runtime §9, tools §1); what a value means is
said here once and shown by ``noetl settings``. A room never looks at another one: how
settings relate is checked in ``loading``.
"""

# ruff: noqa: RUF009 - env() makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass

from noetl_worker.settings.variables import (
    ABOVE_ZERO,
    MIB,
    NOT_NEGATIVE,
    PORT,
    SOME,
    Allow,
    Secret,
    env,
)


@dataclass(frozen=True, kw_only=True)
class Process:
    """What every role is told about itself and its neighbours."""

    grace_s: float = env(
        "NOETL_SHUTDOWN_GRACE_SECS",
        25.0,
        "work may go on after SIGTERM (server: 10)",
        "s",
        NOT_NEGATIVE,
    )
    machine_id: int | None = env(
        "NOETL_SERVER_MACHINE_ID NOETL_SNOWFLAKE_NODE_ID",
        None,
        "machine part of snowflake ids; else a hash of the host name",
        allow=Allow(low=0, high=1023),
    )
    server_url: str = env(
        "NOETL_SERVER_URL", "http://localhost:8082", "where other roles find the server"
    )
    public_server_url: str = env(
        "NOETL_PUBLIC_SERVER_URL",
        "",
        "what server_url means in playbooks; else the above",
    )
    metrics_bind: str = env(
        "WORKER_METRICS_BIND", "", "address of /metrics, /healthz, /readyz (not server)"
    )
    port: int = env(
        "PORT", 9090, "port of that page where no address is given", "", PORT
    )
    shards: tuple[int, ...] = env(
        "NOETL_SHARDS", (), "shards of this system worker or materializer, like 0-7,9"
    )
    internal_token: Secret = env(
        "NOETL_INTERNAL_API_TOKEN", Secret(), "bearer token of internal routes"
    )


@dataclass(frozen=True, kw_only=True)
class Logs:
    """How log lines look."""

    level: str = env(
        "LOG_LEVEL",
        "INFO",
        "least severe line that is written",
        "",
        Allow(words=("DEBUG", "INFO", "WARNING", "ERROR")),
    )
    format: str = env(
        "LOG_FORMAT",
        "json",
        "json for machines, text for people",
        "",
        Allow(words=("json", "text")),
    )


@dataclass(frozen=True, kw_only=True)
class Bus:
    """The broker, and the log on it."""

    urls: Secret = env(
        "NATS_URL NOETL_NATS_URL",
        Secret("nats://localhost:4222"),
        "broker addresses with commas; may hold user:password",
    )
    user: str = env("NATS_USER", "", "overrides the user in the address")
    password: Secret = env("NATS_PASSWORD", Secret(), "overrides that password")
    event_stream: str = env(
        "NOETL_EVENT_STREAM NATS_STREAM", "noetl_events", "stream that is the log"
    )
    command_subject: str = env(
        "NATS_SUBJECT", "noetl.commands", "root of the command subjects"
    )
    shard_count: int = env(
        "NOETL_SHARD_COUNT NOETL_EVENT_PARTITIONS",
        16,
        "shards; fixed when the stream is made",
        "",
        Allow(low=1, high=1024),
    )
    replicas: int = env(
        "NOETL_NATS_REPLICAS",
        1,
        "replicas of what is created",
        "",
        Allow(low=1, high=5),
    )
    log_bytes_max: int = env(
        "NOETL_LOG_MAX_BYTES", 2048 * MIB, "room of the log on disk", "bytes", SOME
    )
    bucket_bytes_max: int = env(
        "NOETL_BUCKET_MAX_BYTES",
        1024 * MIB,
        "room of each object bucket",
        "bytes",
        SOME,
    )
    message_bytes_max: int = env(
        "NOETL_NATS_MESSAGE_MAX_BYTES",
        MIB,
        "largest message, as the broker is set",
        "bytes",
        Allow(low=65536),
    )
    payload_bytes_soft: int = env(
        "NOETL_NATS_PAYLOAD_SOFT_LIMIT",
        921_600,
        "above it values go by reference",
        "bytes",
        SOME,
    )
    duplicate_window_s: float = env(
        "NOETL_EVENT_STREAM_DEDUP_SECS",
        300.0,
        "how long message ids are remembered",
        "s",
        SOME,
    )
    ack_wait_s: float = env(
        "NOETL_COMMAND_ACK_WAIT_SECS",
        30.0,
        "a silent worker's command is given to another after this",
        "s",
        SOME,
    )
    member_ttl_s: float = env(
        "NOETL_LEASE_TTL", 15.0, "a silent member counts as gone after this", "s", SOME
    )
    heartbeat_s: float = env(
        "NOETL_NATS_HEARTBEAT_SECS",
        5.0,
        "how often the broker shows it is there",
        "s",
        ABOVE_ZERO,
    )


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """The database; task workers have none."""

    url: Secret = env(
        "NOETL_DATABASE_URL", Secret(), "postgresql://…; instead of the parts below"
    )
    host: str = env("POSTGRES_HOST", "localhost", "host, or directory of the socket")
    port: int = env("POSTGRES_PORT", 5432, "port", "", PORT)
    user: str = env("POSTGRES_USER", "noetl", "user")
    password: Secret = env("POSTGRES_PASSWORD", Secret("noetl"), "password")
    database: str = env("POSTGRES_DATABASE POSTGRES_DB", "noetl", "database")
    schema: str = env("NOETL_SCHEMA", "noetl", "schema of our tables")
    connections_max: int = env(
        "POSTGRES_MAX_CONNECTIONS", 20, "most connections of one process", "", SOME
    )
    acquire_s: float = env(
        "POSTGRES_ACQUIRE_TIMEOUT", 5.0, "wait for a free connection", "s", ABOVE_ZERO
    )
    statement_cache: int = env(
        "NOETL_PG_STATEMENT_CACHE_CAPACITY",
        100,
        "prepared statements kept; 0 behind a transaction pooler",
        "",
        NOT_NEGATIVE,
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Named limits of design §9; each counts in ``noetl_limit_hits_total``."""

    command_context_bytes_max: int = env(
        "NOETL_COMMAND_CONTEXT_MAX_BYTES",
        524_288,
        "larger contexts go by reference",
        "bytes",
        SOME,
    )
    result_inline_bytes_max: int = env(
        "NOETL_EVENT_RESULT_CONTEXT_MAX_BYTES",
        102_400,
        "larger results by reference",
        "bytes",
        SOME,
    )
    workload_bytes_max: int = env(
        "NOETL_WORKLOAD_MAX_BYTES",
        524_288,
        "larger workloads go by reference",
        "bytes",
        SOME,
    )
    playbook_bytes_max: int = env(
        "NOETL_PLAYBOOK_MAX_BYTES", MIB, "largest playbook source", "bytes", SOME
    )
    open_commands_max: int = env(
        "NOETL_OPEN_COMMANDS_MAX", 10_000, "open commands of one execution", "", SOME
    )
    steps_max: int = env(
        "NOETL_STEPS_MAX", 100_000, "step entries of one execution", "", SOME
    )
    visits_max: int = env("NOETL_VISITS_MAX", 10_000, "visits of one step", "", SOME)
    depth_max: int = env("NOETL_DEPTH_MAX", 32, "nesting of playbooks", "", SOME)
    tree_executions_max: int = env(
        "NOETL_TREE_EXECUTIONS_MAX",
        100_000,
        "executions that one may lead to by calling playbooks",
        "",
        SOME,
    )
