"""What an author says of a result's place is done, or its step fails (TL-OS)."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from typing import Any

import pytest
from doubles import ManualClock
from msgspec import Raw
from structlog.testing import capture_logs

from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.daemons.references import CommandValues
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.values import Values, ValueSettings
from state_builder.errors import UnavailableError
from state_builder.ports import Command
from state_builder.records import ToolOutcome, decode_reference, encode_json
from state_builder.values import StoredObject

pytestmark = pytest.mark.anyio


class Tier(MemoryResults):
    def __init__(self, tier: str) -> None:
        super().__init__()
        self.tier = tier


class Away(Tier):
    async def put(
        self, key: str, chunks: AsyncIterable[bytes], about: Mapping[str, str]
    ) -> StoredObject:
        raise UnavailableError("the store is away")


async def settled(store: dict[str, Any]) -> ToolOutcome:
    """The outcome of a command whose author names a store."""
    fields = {"tool_config": {"kind": "noop"}, "output": {"store": store}}
    context = encode_json({**fields, "render_context": {}})
    command = Command("7", "7.a.1.1", "a", "noop", 1, "", 1, context, "p", "w", {})
    others = {"kv": Away("kv"), "disk": Tier("disk")}
    values = Values(
        Tier("object"),
        ManualClock(),
        PrometheusObserver(),
        ValueSettings(tries=1),
        others,
    )
    return await CommandValues(values).settle(command, ToolOutcome(data=Raw(b"[1]")))


@pytest.mark.parametrize(
    ("store", "kind", "code", "retryable"),
    [
        ({"kind": "kv"}, "io", "unavailable", True),
        ({"kind": "s3"}, "configuration", "invalid", False),
    ],
)
async def test_a_store_that_cannot_be_had_fails_the_step(
    store: dict[str, Any], kind: str, code: str, retryable: bool
) -> None:
    """TL-RR-03, TL-OS-04: no other tier behind the author's back."""
    outcome = await settled(store)
    assert outcome.failed and outcome.error is not None
    error = outcome.error
    assert (error.kind, error.code, error.retryable) == (kind, code, retryable)


@pytest.mark.parametrize("kind", ["kv", "s3"])
async def test_another_store_is_taken_where_the_author_allows_it(kind: str) -> None:
    """TL-OS-04: and the log says so."""
    with capture_logs() as logs:
        outcome = await settled({"kind": kind, "fallback": True})
    assert decode_reference(outcome.reference).store == "object"
    assert [entry["event"] for entry in logs] == ["result.stored_elsewhere"]


async def test_the_tier_asked_for_and_its_time_are_kept() -> None:
    """TL-OS-01, TL-OS-02, TL-RR-50, TL-RR-54: whatever the size."""
    outcome = await settled({"kind": "disk", "ttl_s": 60, "scope": "workflow"})
    reference = decode_reference(outcome.reference)
    assert (reference.store, reference.scope) == ("disk", "workflow")
    assert reference.expires_at == "2027-01-15T08:01:00.000000Z"
