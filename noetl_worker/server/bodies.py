"""What clients send, as tolerant as old clients need it (RT-API-2, RT-API-6).

Unknown fields are ignored, ids come as text or number, older names of a field are
fields of their own. What a body means is decided by who reads it.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

from state_builder.errors import InvalidError, NotFoundError
from state_builder.records import JSON

Value: TypeAlias = Any
"""Any JSON: the decoder cannot follow the recursive alias."""

Id: TypeAlias = int | str | None

ID_MAX = (1 << 63) - 1


def id_text(value: Id, name: str) -> str:
    """An id as decimal text, empty when none was given. Raises InvalidError."""
    if value is None or value == "":
        return ""
    text = str(value).strip()
    if not text.isdecimal() or not text.isascii() or int(text) > ID_MAX:
        raise InvalidError(f"{name} must be a decimal id, not {text[:40]!r}")
    return str(int(text))


def known_id(text: str) -> str:
    """An execution id of a path; what cannot be one is unknown."""
    try:
        return id_text(text, "execution id")
    except InvalidError as error:
        raise NotFoundError(f"execution {text[:40]!r} is not known") from error


def version_number(value: Id) -> int | None:
    """A version; None for the latest. Raises InvalidError."""
    if value is None or str(value).strip().lower() in ("", "latest"):
        return None
    text = str(value).strip()
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise InvalidError(f"version must be a number or 'latest', not {text[:40]!r}")
    return int(text)


def object_or_empty(value: Value, name: str) -> dict[str, JSON]:
    """A JSON object; null counts as an empty one. Raises InvalidError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidError(f"{name} must be an object")
    return value


def tag_list(value: list[str] | str | None) -> tuple[str, ...]:
    """Tags as a list or with commas."""
    if isinstance(value, str):
        value = value.split(",")
    return tuple(tag.strip() for tag in value or () if tag.strip())


class CredentialBody(Struct, kw_only=True):
    """``POST /api/credentials`` (SC-CR-02)."""

    name: str
    data: Value
    type: str = ""
    credential_type: str = ""
    meta: Value = None
    tags: list[str] | str | None = None
    description: str | None = None
    schema: Value = None

    def __repr__(self) -> str:
        return f"<secret:{self.name}>"


class TokenBody(Struct, kw_only=True):
    """``POST /api/gcp/token``."""

    credential: str = ""
    credential_name: str = ""
    name: str = ""


class EntryBody(Struct, kw_only=True):
    """``POST /api/keychain/…`` (SC-KC-12)."""

    data: Value = None
    token_data: Value = None
    scope_type: str = "global"
    execution_id: Id = None
    expires_at: str | float | None = None
    expires_in: float | None = None
    ttl_seconds: float | None = None
    auto_renew: bool = False
    renew_config: Value = None
    credential_type: str = "secret"
    cache_type: Literal["secret", "token"] = "secret"

    def __repr__(self) -> str:
        return "<secret>"


class RotateBody(Struct, kw_only=True):
    """``POST /api/internal/wallet/rotate-kek`` (SC-RO-01)."""

    batch_size: int = 100
    max_batches: int = 1000


class DedupBody(Struct, kw_only=True):
    key: str
    window_secs: float = 300.0


class TraceBody(Struct, kw_only=True):
    traceparent: str = ""
    tracestate: str | None = None
    baggage: str | None = None


class ExecuteBody(Struct, kw_only=True):
    """RT-EXE-1; of the four spellings of the workload the first present wins."""

    path: str | None = None
    catalog_id: Id = None
    version: Id = None
    payload: Value = None
    workload: Value = None
    args: Value = None
    input: Value = None
    parent_execution_id: Id = None
    parent_command_id: str | None = None
    execution_pool: str | None = None
    trace: TraceBody | None = None
    dedup: DedupBody | None = None
    resource_kind: str | None = None

    def data(self) -> dict[str, JSON]:
        """The request's data. Raises InvalidError."""
        for name in ("payload", "workload", "args", "input"):
            value = getattr(self, name)
            if value is not None:
                return object_or_empty(value, name)
        return {}


class BatchBody(Struct, kw_only=True):
    executions: list[Value]


class RerunBody(Struct, kw_only=True):
    workload: Value = None
    payload: Value = None
    resource_kind: str | None = None


class CancelBody(Struct, kw_only=True):
    reason: str | None = None
    cascade: bool = True


class FinalizeBody(Struct, kw_only=True):
    status: str | None = None
    error: str | None = None
    reason: str | None = None


class CleanupBody(Struct, kw_only=True):
    older_than_minutes: float = 5.0
    dry_run: bool = False


class RegisterBody(Struct, kw_only=True):
    content: str
    resource_type: str = "Playbook"


class ContentBody(Struct, kw_only=True):
    content: str


class CatalogListBody(Struct, kw_only=True):
    resource_type: str | None = None
    path: str | None = None
    agent_only: bool = False
    capability: str | None = None
    capabilities: list[str] = field(default_factory=list)


class ResourceBody(Struct, kw_only=True):
    catalog_id: Id = None
    path: str | None = None
    version: Id = None


class EventItem(Struct, kw_only=True):
    """One fact from outside (RT-ING-1)."""

    step: str | None = None
    node_name: str | None = None
    event_type: str | None = None
    name: str | None = None
    payload: Value = None
    context: Value = None
    result: Value = None
    meta: Value = None
    worker_id: str | None = None
    command_id: str | None = None
    result_kind: str | None = None
    result_uri: str | None = None
    actionable: bool = True
    informative: bool = True
    event_id: Id = None
    status: str | None = None
    created_at: str | None = None
    error: str | None = None


class EventBody(EventItem, kw_only=True):
    execution_id: Id = None


class EventBatchBody(Struct, kw_only=True):
    execution_id: Id = None
    worker_id: str | None = None
    events: list[EventItem]


class PoolBody(Struct, kw_only=True):
    """RT-WPL-1."""

    name: str
    kind: str | None = None
    component_type: str | None = None
    status: str | None = None
    uri: str | None = None
    labels: Value = None
    capabilities: Value = None
    capacity: int | None = None
    runtime: Value = None
    hostname: str | None = None
    worker_public_key: str | None = None


class CallbackBody(Struct, kw_only=True):
    """RT-CBK-1."""

    state: str
    job_name: str | None = None
    job_uid: str | None = None
    completed_at: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    stdout_uri: str | None = None
    stderr_uri: str | None = None
    command_id: str | None = None
