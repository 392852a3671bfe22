"""Kinds by name: those there are, those that are missing, and how many run at once."""

from __future__ import annotations

import anyio
import pytest

from noetl_worker.settings.tools import Tools
from state_builder.errors import SettingsError
from state_builder.playbook.toolspec import KINDS
from tools.contract import ToolLimits
from tools.errors import ToolCallError
from tools.registry import ALIASES, BUILT_IN, NOT_BUILT, Registry

pytestmark = pytest.mark.anyio


def refusal(kind: str) -> ToolCallError:
    with pytest.raises(ToolCallError) as caught:
        Registry(ToolLimits()).get(kind)
    return caught.value


def test_every_kind_of_the_language_is_built_or_named_as_missing() -> None:
    known = {*BUILT_IN, *NOT_BUILT, *ALIASES, "task_sequence"}
    assert known >= KINDS
    assert not BUILT_IN.keys() & NOT_BUILT.keys()


@pytest.mark.parametrize("kind", ["Http", "HTTP", "htp", "iterator", ""])
def test_kinds_match_exactly(kind: str) -> None:
    """TL-IDX-01, TL-IDX-03."""
    failure = refusal(kind).failure
    assert (failure.kind, failure.retryable) == ("not_found", False)
    assert failure.message == f"Tool not found: {kind}"


@pytest.mark.parametrize("kind", NOT_BUILT)
def test_a_kind_that_is_not_built_says_what_to_use(kind: str) -> None:
    """TL-IDX-02, TL-RH-01."""
    failure = refusal(kind).failure
    assert failure.kind == "configuration"
    assert failure.message == (
        f"{kind} is not available in this build; {NOT_BUILT[kind]}"
    )


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """TL-IDX-02: never as not found."""
    monkeypatch.setitem(BUILT_IN, "noop", "no_such_package.kinds:Tool")
    failure = refusal("noop").failure
    assert failure.kind == "configuration"
    assert "needs the package 'no_such_package'" in failure.message


async def test_calls_of_a_kind_may_be_bounded() -> None:
    """TL-LIM-05: the others are not."""
    registry = Registry(ToolLimits(concurrency_max={"http": 2}))
    inside = most = 0

    async def call(kind: str) -> None:
        nonlocal inside, most
        async with registry.room(kind):
            inside += 1
            most = max(most, inside)
            await anyio.sleep(0)
            inside -= 1

    for kind, expected in (("http", 2), ("shell", 6)):
        most = 0
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(call, kind)
        assert most == expected


def test_a_bound_is_a_number() -> None:
    assert Tools(concurrency_max={"HTTP": "5"}).concurrency == {"http": 5}
    with pytest.raises(SettingsError, match="NOETL_TOOL_MAX_CONCURRENCY_HTTP='x'"):
        _ = Tools(concurrency_max={"HTTP": "x"}).concurrency
