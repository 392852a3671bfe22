"""Settings of the tools of a worker, beside the fields they fill.

The same rules as in ``rooms``: defaults of the specification, one line on the meaning.
"""

# ruff: noqa: RUF009 - env() makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass

from noetl_worker.settings.variables import (
    ABOVE_ZERO,
    MIB,
    NOT_NEGATIVE,
    SOME,
    Allow,
    env,
)
from state_builder.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Bounds of one worker's tools (TL-LIM, TL-SEC)."""

    timeout_s: float = env(
        "NOETL_WORKER_COMMAND_TIMEOUT_SECONDS",
        300.0,
        "where nobody names one",
        "s",
        ABOVE_ZERO,
    )
    http_body_bytes_max: int = env(
        "NOETL_HTTP_MAX_BODY_BYTES", 64 * MIB, "largest response body", "bytes", SOME
    )
    output_bytes_max: int = env(
        "NOETL_OUTPUT_MAX_BYTES",
        16 * MIB,
        "captured stdout and stderr, each",
        "bytes",
        SOME,
    )
    rows_max: int = env("NOETL_PG_MAX_ROWS", 100_000, "rows of one query", "", SOME)
    result_bytes_max: int = env(
        "NOETL_RESULT_MAX_BYTES", 64 * MIB, "largest result of a tool", "bytes", SOME
    )
    provider_error_terminates: bool = env(
        "NOETL_PROVIDER_ERROR_TERMINATES",
        False,
        "a result that says isError: true fails its step",
    )
    sequence_runs_max: int = env(
        "NOETL_TASK_SEQUENCE_MAX_ITERATIONS",
        1_000_000,
        "task runs of one pipeline",
        "",
        SOME,
    )
    python_rss_mb_max: int = env(
        "NOETL_PYTHON_MAX_RSS_MB",
        0,
        "memory of user Python; 0 = no limit",
        "MB",
        NOT_NEGATIVE,
    )
    python_children_max: int = env(
        "NOETL_PYTHON_CHILDREN", 4, "warm child processes for user Python", "", SOME
    )
    python_runs_max: int = env(
        "NOETL_PYTHON_CHILD_RUNS",
        1_000,
        "runs after which a child is replaced",
        "",
        SOME,
    )
    python_path: str = env(
        "PYTHON_PATH", "", "interpreter of user Python; else the worker's"
    )
    shell_rss_mb_max: int = env(
        "NOETL_SHELL_MAX_RSS_MB",
        0,
        "memory of each process of a shell command; 0 = no limit",
        "MB",
        NOT_NEGATIVE,
    )
    processes_max: int = env(
        "NOETL_TOOL_MAX_PROCESSES", 256, "processes of one tool call", "", SOME
    )
    path: str = env("PATH", "", "search path of a tool's process")
    locale: str = env("LANG", "C.UTF-8", "locale of a tool's process")
    timezone: str = env("TZ", "UTC", "time zone of a tool's process")
    kubernetes: dict[str, str] = env(
        "KUBERNETES_SERVICE_*", {}, "where a shell command finds the cluster"
    )
    pg_connections_max: int = env(
        "NOETL_PG_MAX_CONNECTIONS", 20, "connections of all postgres tools", "", SOME
    )
    pg_numeric_as: str = env(
        "NOETL_PG_NUMERIC_AS",
        "text",
        "how numeric columns come back",
        "",
        Allow(words=("text", "float")),
    )
    pg_default_localhost: bool = env(
        "NOETL_PG_ALLOW_DEFAULT_LOCALHOST",
        False,
        "postgres steps without a host go to localhost",
    )
    nats_worker_connection: bool = env(
        "NOETL_NATS_TOOL_USE_WORKER_CONN",
        False,
        "nats steps without a server use the worker's own",
    )
    duckdb_allow_install: bool = env(
        "NOETL_DUCKDB_ALLOW_INSTALL", False, "workers may download DuckDB's extensions"
    )
    duckdb_memory_limit: str = env(
        "NOETL_DUCKDB_MEMORY_LIMIT", "1GB", "memory of one duckdb step"
    )
    duckdb_threads: int = env(
        "NOETL_DUCKDB_THREADS", 2, "threads of one step", "", SOME
    )
    data_dir: str = env("NOETL_DATA_DIR", ".noetl/data", "files of tools live below it")
    file_roots: tuple[str, ...] = env("NOETL_FILE_ROOTS", (), "further roots for files")
    script_root: str = env("NOETL_SCRIPT_ROOT", "", "where relative scripts are found")
    http_deny_cidrs: tuple[str, ...] = env(
        "NOETL_HTTP_DENY_CIDRS",
        ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32"),
        "addresses tools may not call",
    )
    http_allow_cidrs: tuple[str, ...] = env(
        "NOETL_HTTP_ALLOW_CIDRS", (), "where given, the only addresses tools may call"
    )
    http_trust_env: bool = env(
        "NOETL_HTTP_TRUST_ENV", False, "honour proxy variables in tools"
    )
    container_driver: str = env(
        "NOETL_CONTAINER_DRIVER",
        "",
        "who runs containers; else what the machine offers",
        "",
        Allow(words=("", "docker", "podman", "kubernetes", "process")),
    )
    container_namespaces: tuple[str, ...] = env(
        "NOETL_CONTAINER_ALLOWED_NAMESPACES", (), "namespaces of containers; else all"
    )
    container_poll: bool = env(
        "NOETL_CONTAINER_COMPLETION_POLL",
        True,
        "watch containers; off: only a call-back ends their steps",
    )
    wasm_fuel: int = env(
        "NOETL_WASM_FUEL", 5_000_000_000, "instructions of one plug-in call", "", SOME
    )
    plugins_warm: tuple[str, ...] = env(
        "NOETL_PLUGINS_WARM", (), "plug-ins compiled at boot"
    )
    concurrency_max: dict[str, str] = env(
        "NOETL_TOOL_MAX_CONCURRENCY_*", {}, "most calls at once, by kind"
    )
    mcp: dict[str, str] = env("NOETL_MCP_*", {}, "endpoints of mcp servers, TL-MCP-01")

    @property
    def concurrency(self) -> dict[str, int]:
        """Calls at once by kind. Raises SettingsError naming the variable."""
        found: dict[str, int] = {}
        for kind, text in self.concurrency_max.items():
            if not text.isdecimal() or int(text) < 1:
                name = f"NOETL_TOOL_MAX_CONCURRENCY_{kind}"
                raise SettingsError(f"{name}={text!r}: not a number above zero")
            found[kind.lower()] = int(text)
        return found

    @property
    def environment(self) -> dict[str, str]:
        """What a tool's process sees of this one's environment (TL-SEC-06)."""
        cluster = {
            f"KUBERNETES_SERVICE_{name}": value
            for name, value in self.kubernetes.items()
            if name in ("HOST", "PORT")
        }
        named = {"PATH": self.path, "LANG": self.locale, "TZ": self.timezone}
        return {name: text for name, text in named.items() if text} | cluster
