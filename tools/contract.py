"""What a tool is given and what it gives back.

A kind is a class registered by name. It gets its configuration fully rendered, with
credentials merged in, and a :class:`CallContext`; it returns a :class:`ToolResult` or
raises :class:`tools.errors.ToolCallError`. It never renders a template, reads the
environment or keeps state between calls other than pools of connections.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple, Protocol

from msgspec import Struct
from msgspec import field as struct_field

from state_builder.ports import Observer
from state_builder.records import JSON, ChildRequest, ToolFailure, ToolOutcome
from state_builder.values import OpenObject
from tools.errors import configuration

METADATA_CIDRS: Final = (
    *("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32"),
)
"""Link-local addresses and those of clouds' metadata services (TL-SEC-05)."""


@dataclass(frozen=True, kw_only=True)
class ToolLimits:
    """Bounds of one worker's tools; every field is a setting.

    Attributes:
        timeout_s: TL-LIM-01, where neither tool nor step name one.
        http_body_bytes_max, output_bytes_max, rows_max, result_bytes_max: TL-LIM-04.
        stream_bytes_max: most bytes that are moved piece by piece.
        provider_error_terminates: TL-RES-07.
        sequence_runs_max: TL-TS-25.
        python_rss_mb_max: address space of a child that runs user code; 0 = none.
        shell_rss_mb_max: address space of each process of a shell command; 0 = none.
        processes_max: processes one call may have at once.
        concurrency_max: by kind, how many calls run at once (TL-LIM-05).
        mcp_endpoints: ``<SERVER>_ENDPOINT`` and ``URL`` → address (TL-MCP-01).
        wasm_fuel: instructions of one plug-in call.
        container_driver: ``docker``, ``podman``, ``kubernetes``, ``process``; empty =
            what the machine offers.
        container_namespaces: those containers may run in; empty = all.
    container_poll: workers watch their containers; else a call-back ends the step.
        python_children_max: warm child processes.
        pg_connections_max: TL-PG-12, of the whole worker.
        data_dir: files of tools live below it (TL-SEC-04).
        file_roots: further roots tools may read and write.
        script_root: where relative scripts are found; empty = the data directory.
        http_deny_cidrs: TL-SEC-05.
        http_allow_cidrs: where given, the only addresses tools may call.
        server_url: this platform's own server; its internal API is closed to tools.
        public_url: what ``server_url`` means in playbooks (TL-TPL-08).
        http_trust_env: TL-HT-13.
        environment: what a tool's process sees beside its own directory: ``PATH``,
            ``LANG``, ``TZ`` and, where they exist, ``KUBERNETES_SERVICE_HOST`` and
            ``KUBERNETES_SERVICE_PORT`` (TL-SEC-06, TL-SH-06).
        python_path: interpreter of user code; empty = this one.
        python_runs_max: runs after which a child is replaced by a fresh one.
        pg_numeric_as_float: TL-PG-10.
        pg_default_host: where ``postgres`` goes that names no host; empty = an error
            (TL-PG-01).
        nats_default_url: where ``nats`` goes that names no server; empty = an error.
        duckdb_allow_install: extensions may be downloaded (TL-DK-06).
        duckdb_memory_limit, duckdb_threads: of each call that names none.
        keychain_strict: a missing entry fails the command (SC-KC-08).
    """

    timeout_s: float = 300.0
    http_body_bytes_max: int = 64 << 20
    output_bytes_max: int = 16 << 20
    rows_max: int = 100_000
    result_bytes_max: int = 64 << 20
    stream_bytes_max: int = 512 << 20
    provider_error_terminates: bool = False
    sequence_runs_max: int = 1_000_000
    python_rss_mb_max: int = 0
    shell_rss_mb_max: int = 0
    processes_max: int = 256
    concurrency_max: Mapping[str, int] = field(default_factory=dict)
    mcp_endpoints: Mapping[str, str] = field(default_factory=dict)
    wasm_fuel: int = 5_000_000_000
    container_driver: str = ""
    container_namespaces: tuple[str, ...] = ()
    container_poll: bool = True
    python_children_max: int = 4
    pg_connections_max: int = 20
    data_dir: str = ".noetl/data"
    file_roots: tuple[str, ...] = ()
    script_root: str = ""
    http_deny_cidrs: tuple[str, ...] = METADATA_CIDRS
    http_allow_cidrs: tuple[str, ...] = ()
    server_url: str = ""
    public_url: str = ""
    http_trust_env: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    python_path: str = ""
    python_runs_max: int = 1_000
    pg_numeric_as_float: bool = False
    pg_default_host: str = ""
    nats_default_url: str = ""
    duckdb_allow_install: bool = False
    duckdb_memory_limit: str = "1GB"
    duckdb_threads: int = 2
    keychain_strict: bool = True


class Plugin(NamedTuple):
    """A registered plug-in module.

    Attributes:
        digest: SHA-256 of ``code`` in hexadecimal.
        capabilities: host functions it was registered with (TL-WA-04).
    """

    path: str
    version: int
    digest: str
    code: bytes
    capabilities: frozenset[str] = frozenset()


class Plugins(Protocol):
    """Where plug-in modules come from."""

    async def fetch(
        self, path: str, version: int, digest: str, have: str
    ) -> Plugin | None:
        """A module; None where the one with the digest ``have`` still is the one.

        ``version`` 0 is the newest, an empty ``digest`` any. Raises NotFoundError and
        UnavailableError.
        """


class Effects(Protocol):
    """What a plug-in may have done in its execution's name (TL-WA-06).

    Every method raises NoetlError.
    """

    async def publish_event(self, call: CallContext, event: bytes) -> None:
        """Append an event of the granted namespace."""

    async def put_result(self, call: CallContext, key: str, data: bytes) -> None:
        """Store a value in the result store."""

    async def put_object(self, call: CallContext, key: str, data: bytes) -> None:
        """Store an object."""


class Values(Protocol):
    """Values behind the platform's own references (TL-AR-02)."""

    async def read(self, call: CallContext, ref: str) -> JSON | bytes:
        """The data as it was stored; bytes where it was no JSON to begin with.

        Raises ToolCallError: ``missing_reference`` when it is gone, ``configuration``
        for what is no reference, ``auth`` for one of somebody else (TL-AR-05).
        """

    async def write(
        self, call: CallContext, name: str, data: bytes, scope: str
    ) -> dict[str, JSON]:
        """Store JSON; ``{ref, uri, store, bytes, sha256}``. Raises ToolCallError."""

    async def open(self, call: CallContext, ref: str) -> OpenObject:
        """Begin to read its bytes. Raises as :meth:`read` does, the chunks too."""

    async def stream(
        self,
        call: CallContext,
        name: str,
        chunks: AsyncIterator[bytes],
        about: Mapping[str, str],
    ) -> dict[str, JSON]:
        """Store bytes that are never all in memory.

        Args:
            about: ``content_type``, ``scope``.

        Returns ``{ref, uri, store, bytes, sha256, content_type}``; raises
        ToolCallError, ``limit`` for more than may be streamed.
        """


class Children(Protocol):
    """Playbooks that a pipeline calls in its middle (PB-185)."""

    async def call(
        self, call: CallContext, request: ChildRequest, *, cancel_late: bool
    ) -> ToolOutcome:
        """Start a child under ``call.key`` and wait, at most ``call.timeout_s``.

        The same key gives the same child, whoever asks again. ``cancel_late``: a child
        that takes too long is cancelled. Never raises but on cancellation.
        """


class Parking(Protocol):
    """Calls that wait for something outside and hold no slot (TL-CTR-02)."""

    async def park(
        self, call: CallContext, job: dict[str, JSON], *, watched: bool
    ) -> None:
        """Report that a job has begun and that its end ends the command.

        ``job`` names it by ``job_name`` and ``job_uid``. ``watched``: the call itself
        waits for that end, and is given to another worker when this one goes; else
        only a call-back ends it (TL-CTR-06).
        """

    def over(self, call: CallContext) -> bool:
        """The execution ended, so a cancelled call ends its job too."""


@dataclass(frozen=True, kw_only=True)
class ToolPorts:
    """What tools may ask of the platform; None where a worker has it not."""

    plugins: Plugins | None = None
    observer: Observer | None = None
    effects: Effects | None = None
    values: Values | None = None
    children: Children | None = None
    parking: Parking | None = None


class CallContext(Struct, frozen=True, kw_only=True):
    """Where a call stands.

    Attributes:
        index: task runs of this command before the first try of this call.
        timeout_s: how long this call may run; the runner also enforces it.
        label: the task's name in a pipeline; empty for a single tool.
        variables: what python code sees as ``variables``/``context`` (TL-PY-04).
        traceparent: W3C context for outgoing calls and children, or empty.
    """

    execution_id: str
    command_id: str
    step: str
    attempt: int
    timeout_s: float
    limits: ToolLimits
    index: int = 0
    label: str = ""
    path: str = ""
    traceparent: str = ""
    variables: dict[str, JSON] = struct_field(default_factory=dict)
    workload: dict[str, JSON] = struct_field(default_factory=dict)
    ports: ToolPorts = ToolPorts()

    @property
    def trace(self) -> dict[str, str]:
        """What a process of the call finds in its environment (RT-OBS-10)."""
        return {"TRACEPARENT": self.traceparent} if self.traceparent else {}

    @property
    def key(self) -> str:
        """What an effect is known by outside: the same when the call is repeated."""
        return f"{self.command_id}.{self.index}" if self.index else self.command_id

    @property
    def values(self) -> Values:
        """What the platform stores. Raises ToolCallError where there is no store."""
        if self.ports.values is None:
            raise configuration("this worker has no result store")
        return self.ports.values


class Held(Protocol):
    """What a call took from outside and answers for until its result is stored.

    A source gives again what nobody acknowledged, so a worker that dies loses nothing.
    """

    async def hold(self) -> None:
        """Keep it a while longer. Raises ToolCallError."""

    async def settle(self, kept: bool) -> None:
        """Acknowledge it, or give it back. Raises ToolCallError."""


class ToolResult(Struct, frozen=True, kw_only=True):
    """What a call gave (TL-RES-01): ``data`` is strict JSON.

    Attributes:
        form: how later texts read ``data``: ``plain`` or ``http``.
        helpers: ``http``, ``pg``, ``py``, ``exit_code``, ``stdout``, ``stderr`` of
            the outcome envelope (TL-OUT-03).
        held: what is to be acknowledged once the command's outcome is stored.
    """

    data: JSON
    form: str = "plain"
    helpers: dict[str, JSON] = struct_field(default_factory=dict)
    held: Held | None = None


class Tool(ABC):
    """One kind (TL-INT-01); one instance serves all calls of a worker.

    Attributes:
        kind: its name, exact and lower-case (TL-IDX-03).
        keeps_time: a call ends in time by itself.
        instant: a call never waits, so nothing watches its time.
        clamped: its time never exceeds the worker's limit (TL-LIM-01).
        timeout_as: error kind and code of a call that ran out of time.
    """

    kind: ClassVar[str]
    instant: ClassVar[bool] = False
    keeps_time: ClassVar[bool] = False
    clamped: ClassVar[bool] = False
    timeout_as: ClassVar[tuple[str, str]] = ("timeout", "timeout")

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits

    @abstractmethod
    def validate(self, config: dict[str, JSON]) -> dict[str, JSON]:
        """Canonical configuration: aliases resolved, numbers and booleans coerced.

        Pure. Raises ToolCallError of kind ``configuration`` that names the field.
        """

    @abstractmethod
    async def run(self, config: dict[str, JSON], call: CallContext) -> ToolResult:
        """Do it; ``config`` is canonical and not written to.

        Raises ToolCallError; cancelling stops all it started.
        """

    def default_timeout_s(self, config: dict[str, JSON]) -> float | None:
        """How long a call may run where nobody says so; None = the worker's limit."""
        return None

    def blank(self, failure: ToolFailure) -> dict[str, JSON]:
        """Helpers of a call that failed without any (TL-OUT-03)."""
        return {}

    def wants(self, config: dict[str, JSON]) -> frozenset[str]:
        """``variables`` and ``workload``, where the call reads them (TL-PY-04)."""
        return frozenset()

    async def warm(  # noqa: B027 - most kinds have nothing to prepare
        self, name: str, ports: ToolPorts
    ) -> None:
        """Get ready for calls of what ``name`` says; a failure is a warning only."""

    async def close(self) -> None:  # noqa: B027 - most kinds keep nothing
        """Give back what is kept between calls."""
