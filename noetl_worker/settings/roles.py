"""Settings of single roles, beside the fields they fill: one dataclass for each room.

The same rules as in ``rooms``: defaults of the specification, one line on the meaning.
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
class Server:
    """The HTTP edge."""

    host: str = env("NOETL_HOST", "0.0.0.0", "address to listen on")
    port: int = env(
        "NOETL_PORT", 8082, "port to listen on; 0 takes a free one", "", PORT
    )
    disable_metrics: bool = env(
        "NOETL_DISABLE_METRICS", False, "answer 404 on /metrics"
    )
    cors_origins: tuple[str, ...] = env(
        "NOETL_CORS_ORIGINS", ("*",), "origins a browser may call from"
    )
    body_bytes_max: int = env(
        "NOETL_BODY_MAX_BYTES", 10_000_000, "largest request body", "bytes", SOME
    )
    blob_bytes_max: int = env(
        "NOETL_BLOB_MAX_BYTES",
        64_000_000,
        "largest request body that puts a result or object",
        "bytes",
        SOME,
    )
    append_s: float = env(
        "NOETL_APPEND_TIMEOUT_SECS",
        5.0,
        "wait for the log before a 503",
        "s",
        ABOVE_ZERO,
    )
    ask_s: float = env(
        "NOETL_ASK_TIMEOUT_SECS", 0.5, "wait for an owner's answer", "s", ABOVE_ZERO
    )
    end_wait_s: float = env(
        "NOETL_CANCEL_WAIT_SECS",
        2.0,
        "wait for the end after cancel or finalize",
        "s",
        NOT_NEGATIVE,
    )
    stream_heartbeat_s: float = env(
        "NOETL_STREAM_HEARTBEAT_SECS",
        15.0,
        "comment on a quiet live stream",
        "s",
        ABOVE_ZERO,
    )
    stream_events_max: int = env(
        "NOETL_STREAM_BUFFER_EVENTS",
        2000,
        "events a slow reader may be behind before it is dropped",
        "",
        SOME,
    )
    stream_window_bytes: int = env(
        "NOETL_STREAM_WINDOW_BYTES",
        8 * 1024 * 1024,
        "newest part of the log kept for streams that open while others are open",
        "bytes",
        SOME,
    )
    pending_commands_max: int = env(
        "NOETL_MAX_PENDING_COMMANDS",
        0,
        "pool backlog that answers 429; 0 = no limit",
        "",
        NOT_NEGATIVE,
    )
    runtime_sweep_s: float = env(
        "NOETL_RUNTIME_SWEEP_INTERVAL", 30.0, "look for silent workers", "s", SOME
    )
    runtime_offline_s: float = env(
        "NOETL_RUNTIME_OFFLINE_SECONDS", 60.0, "a silent worker is offline", "s", SOME
    )
    allow_sql: bool = env(
        "NOETL_ALLOW_SQL_ENDPOINT", False, "open /api/postgres/execute without token"
    )
    feed_bind: str = env("NOETL_FEED_BIND", "", "address of the lifecycle feed")
    tls_cert: str = env("NOETL_TLS_CERT", "", "certificate file of the server")
    tls_key: str = env("NOETL_TLS_KEY", "", "its key file")
    tls_client_ca: str = env(
        "NOETL_TLS_CLIENT_CA", "", "clients must have a certificate of this authority"
    )


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A system worker."""

    snapshot_every_events: int = env(
        "NOETL_SNAPSHOT_EVERY_EVENTS NOETL_CHECKPOINT_EVENTS",
        5000,
        "events between snapshots of a shard",
        "",
        SOME,
    )
    snapshot_every_s: float = env(
        "NOETL_SNAPSHOT_EVERY_S NOETL_CHECKPOINT_INTERVAL",
        30.0,
        "time between snapshots of a shard",
        "s",
        ABOVE_ZERO,
    )
    index_bytes_max: int = env(
        "NOETL_INDEX_MAX_BYTES",
        512 * MIB,
        "memory for states of open executions; above it idle ones are packed",
        "bytes",
        SOME,
    )
    playbooks_max: int = env(
        "NOETL_PLAYBOOK_CACHE", 512, "parsed playbooks kept", "", SOME
    )
    command_start_timeout_s: float = env(
        "NOETL_COMMAND_START_TIMEOUT_SECS",
        86_400.0,
        "a command nobody starts fails with no_worker",
        "s",
        SOME,
    )
    backstop_s: float = env(
        "NOETL_BACKSTOP_INTERVAL_SECS",
        10.0,
        "between looks at commands that wait",
        "s",
        ABOVE_ZERO,
    )
    command_lost_after_s: float = env(
        "NOETL_COMMAND_LOST_AFTER_SECS",
        60.0,
        "a vanished command is issued again",
        "s",
        SOME,
    )


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A tool worker."""

    worker_id: str = env("WORKER_ID", "", "name of this worker; else one per boot")
    pools: tuple[str, ...] = env(
        "NOETL_WORKER_POOL WORKER_POOL_NAME", ("shared",), "pools it serves"
    )
    slots: int = env(
        "NOETL_WORKER_SLOTS WORKER_MAX_CONCURRENT", 4, "commands at once", "", SOME
    )
    heartbeat_s: float = env(
        "WORKER_HEARTBEAT_INTERVAL",
        15.0,
        "between reports to the server",
        "s",
        ABOVE_ZERO,
    )
    predispatch_deadline_s: float = env(
        "NOETL_PREDISPATCH_DEADLINE_SECS",
        300.0,
        "how long a command waits for a platform that is away",
        "s",
        ABOVE_ZERO,
    )
    predispatch_attempts_max: int = env(
        "MAX_PREDISPATCH_ATTEMPTS",
        3,
        "tries against a third party that is away",
        "",
        SOME,
    )
    lag_poll_s: float = env(
        "WORKER_NATS_LAG_POLL_INTERVAL", 5.0, "between looks at the lag", "s", SOME
    )
    result_store: str = env(
        "NOETL_RESULT_STORE",
        "object",
        "where large results go",
        "",
        Allow(words=("object", "s3", "gcs", "azure", "disk")),
    )
    result_store_url: str = env(
        "NOETL_RESULT_STORE_URL", "", "bucket of an s3, gcs or azure result store"
    )
    result_cache_bytes: int = env(
        "NOETL_RESULT_CACHE_BYTES NOETL_IPC_CACHE_BUDGET_BYTES",
        256 * MIB,
        "resolved results kept in memory",
        "bytes",
        NOT_NEGATIVE,
    )
    stream_bytes_max: int = env(
        "NOETL_RESULT_STREAM_MAX_BYTES",
        512 * MIB,
        "largest body or file streamed into the result store",
        "bytes",
        SOME,
    )
    tls_client_cert: str = env(
        "NOETL_TLS_CLIENT_CERT", "", "certificate for the server"
    )
    tls_client_key: str = env("NOETL_TLS_CLIENT_KEY", "", "its key file")
    tls_ca: str = env("NOETL_TLS_CA NOETL_TLS_CLIENT_CA_FILE", "", "server's authority")


@dataclass(frozen=True, kw_only=True)
class Materializer:
    """The writer of rows, and the janitor."""

    batch: int = env(
        "NOETL_MATERIALIZER_BATCH",
        200,
        "messages in one transaction",
        "",
        Allow(low=1, high=1000),
    )
    pause_ms: int = env(
        "NOETL_MATERIALIZER_PAUSE_MS",
        100,
        "rest after a read that gave less than a batch",
        "ms",
        NOT_NEGATIVE,
    )
    backoff_ms: int = env(
        "NOETL_MATERIALIZER_ERROR_BACKOFF_MS",
        2000,
        "first pause after an error",
        "ms",
        SOME,
    )
    fail_first: int = env(
        "NOETL_MATERIALIZER_FAULT_FAIL_FIRST",
        0,
        "batches to fail, for drills",
        "",
        NOT_NEGATIVE,
    )
    retention_s: float = env(
        "NOETL_EVENT_STREAM_RETENTION_SECS",
        86_400.0,
        "least time a message stays in the log",
        "s",
        NOT_NEGATIVE,
    )
    housekeeping_s: float = env(
        "NOETL_HOUSEKEEPING_INTERVAL_SECS",
        30.0,
        "between looks at what may be dropped",
        "s",
        ABOVE_ZERO,
    )
    result_purge_s: float = env(
        "NOETL_RESULT_PURGE_INTERVAL_SECS",
        3600.0,
        "between looks at stored results nobody needs",
        "s",
        ABOVE_ZERO,
    )
    result_keep_s: float = env(
        "NOETL_RESULT_KEEP_SECS",
        86_400.0,
        "stored results of scope step or execution, after its end",
        "s",
        NOT_NEGATIVE,
    )
    result_workflow_keep_s: float = env(
        "NOETL_RESULT_WORKFLOW_KEEP_SECS",
        7 * 86_400.0,
        "stored results of scope workflow, after its execution's end",
        "s",
        NOT_NEGATIVE,
    )


@dataclass(frozen=True, kw_only=True)
class Wallet:
    """Keys and providers of secrets; the server's alone."""

    key: Secret = env("NOETL_ENCRYPTION_KEY", Secret(), "base64 of 32 bytes")
    key_version: str = env("NOETL_ENCRYPTION_KEY_VERSION", "v1", "its version")
    keys_previous: Secret = env(
        "NOETL_ENCRYPTION_KEY_PREVIOUS",
        Secret(),
        "older keys, version:base64 by commas",
    )
    insecure_key: bool = env(
        "NOETL_ALLOW_INSECURE_DEFAULT_KEY", False, "a key of this process alone"
    )
    kms: str = env(
        "NOETL_KMS_PROVIDER",
        "local",
        "who wraps data keys",
        "",
        Allow(words=("local", "gcp-kms")),
    )
    region: str = env("NOETL_SERVER_REGION", "", "where this server stands")
    strict: bool = env(
        "NOETL_KEYCHAIN_STRICT", True, "an unresolvable entry fails the command"
    )
    env_names: tuple[str, ...] = env(
        "NOETL_KEYCHAIN_ENV_VARS", (), "environment names a keychain may read"
    )
    refresh_s: float = env(
        "NOETL_AUTH_REFRESH_THRESHOLD_SECONDS",
        300.0,
        "renew tokens this early",
        "s",
        NOT_NEGATIVE,
    )
    refresh_window_s: float = env(
        "KEYCHAIN_CACHE_REFRESH_WINDOW_SECS",
        60.0,
        "refresh cached secrets this early",
        "s",
        NOT_NEGATIVE,
    )
    safety_margin_s: float = env(
        "KEYCHAIN_CACHE_DYNAMIC_SAFETY_MARGIN_SECS",
        60.0,
        "keep no secret closer to its end",
        "s",
        NOT_NEGATIVE,
    )
    provider_ttl_s: float = env(
        "NOETL_SECRET_PROVIDER_TTL_SECONDS",
        3600.0,
        "build providers of secrets anew",
        "s",
        SOME,
    )
    secrets_dir: str = env("NOETL_SECRETS_DIR", "", "files of the file provider")
    allowed_refs: tuple[str, ...] = env(
        "NOETL_SECRET_ALLOWED_REFS",
        (),
        "globs of refs playbooks may read; all if empty",
    )
    audit_required: bool = env(
        "NOETL_SECRET_AUDIT_REQUIRED", False, "no audit row, no secret"
    )
