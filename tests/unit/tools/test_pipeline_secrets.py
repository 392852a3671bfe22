"""Secrets within one command: found when a text asks, masked in all that leaves."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import anyio
import pytest
import structlog
from calls import command_of

from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.lifecycle import SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.values import Values
from noetl_worker.wallet.memory import MemoryWallet
from state_builder.credentials import Asker, Credential, Want
from state_builder.errors import UnavailableError, UpstreamError
from state_builder.records import ToolFailure, ToolOutcome, encode_json
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.errors import ToolCallError
from tools.pipeline import Runner
from tools.registry import Registry

MARKER = "marker-of-a-secret"


class Echo(Tool):
    """Gives back what it was given, or fails with it."""

    kind: ClassVar[str] = "echo"
    seen: ClassVar[list[dict[str, Any]]] = []

    def validate(self, config: dict[str, Any]) -> dict[str, Any]:
        return config

    async def run(self, config: dict[str, Any], call: CallContext) -> ToolResult:
        del call
        self.seen.append(config)
        if config.get("fail") == "crash":
            raise ValueError(f"broken by {config}")
        if config.get("fail"):
            failure = ToolFailure(kind=str(config["fail"]), message=f"refused {config}")
            raise ToolCallError(failure, data=dict(config))
        return ToolResult(data=dict(config), helpers={"stdout": f"said {config}"})


class Only(Registry):
    """One kind and no more."""

    def get(self, kind: str) -> Tool:
        del kind
        return Echo(ToolLimits())


def wallet() -> MemoryWallet:
    api = Credential("api", "bearer", {"token": MARKER})
    pg = Credential("pg", "postgres", {"db_host": "h", "db_password": MARKER})
    entry = Credential("shop", "secret", {"key": MARKER, "pin": 12345678})
    return MemoryWallet({"api": api, "pg": pg}, {"shop": entry, "api": entry})


async def run(
    tool: dict[str, Any], *, given: Any = None, strict: bool = True, names: Any = None
) -> ToolOutcome:
    Echo.seen.clear()
    limits = ToolLimits(keychain_strict=strict)
    clock, observer = SystemClock(), PrometheusObserver()
    values = Values(MemoryResults(), clock, observer)
    runner = Runner(Only(limits), limits, clock, observer, given or wallet(), values)
    command = command_of(tool, render_context=names or {})
    return await runner.run(command)


def shown(outcome: ToolOutcome) -> str:
    """Everything of an outcome that is reported."""
    return encode_json(outcome).decode()


USES = [
    {"kind": "echo", "auth": "pg"},
    {"kind": "echo", "text": "{{ keychain.shop.key }}"},
    {"kind": "echo", "text": "{{ keychain['shop'].key }} and {{ keychain.shop.pin }}"},
    {"kind": "echo", "text": "Bearer {{ token('api') }}"},
    {
        "kind": "echo",
        "input": {"a": {"b": ["x{{ keychain.shop.key | upper | lower }}"]}},
    },
    {"kind": "echo", "auth": "{{ 'p' + 'g' }}"},
    {"kind": "echo", "text": "{{ token(workload.which) }}"},
]
NAMES = {"workload": {"which": "api"}}


@pytest.mark.parametrize("tool", USES)
@pytest.mark.parametrize("fail", [None, "exception", "crash", "auth"])
async def test_a_secret_reaches_the_tool_and_leaves_in_nothing(
    tool: dict[str, Any], fail: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """TL-SCR-01, TL-SCR-05, RT-EVT-31, RT-WRK-18, PB-009, SC-KC-06, TL-AUT-06: in
    results, helpers, errors, data of errors and log lines; whatever happens."""
    with structlog.testing.capture_logs() as lines:
        outcome = await run({**tool, **({"fail": fail} if fail else {})}, names=NAMES)
    assert MARKER in json.dumps(Echo.seen)
    assert outcome.failed == bool(fail)
    assert MARKER not in shown(outcome)
    assert "[REDACTED]" in shown(outcome)
    assert MARKER not in repr(lines)
    assert MARKER not in "".join(capsys.readouterr())


async def test_only_entries_that_are_named_are_asked_for_and_once() -> None:
    """SC-KC-07, SC-AL-07."""
    given = wallet()
    text = "{{ keychain.shop.key }} {{ keychain.shop.pin }}"
    await run({"kind": "echo", "a": text, "b": text, "auth": "pg"}, given=given)
    assert given.asked == ["shop", "pg"]
    await run({"kind": "echo", "a": "plain"}, given=given)
    assert len(given.asked) == 2


async def test_members_of_a_sequence_see_secrets_and_the_outside_does_not() -> None:
    """TL-SCR-06, TL-AUT-04: unscrubbed between members, scrubbed when it leaves; each
    member has its own credential."""
    tool = {
        "kind": "task_sequence",
        "tasks": [
            {"label": "a", "kind": "echo", "auth": "pg"},
            {"label": "b", "kind": "echo", "got": "{{ a.password }}", "auth": "api"},
        ],
    }
    outcome = await run(tool)
    assert Echo.seen[1]["got"] == MARKER
    assert Echo.seen[1]["token"] == MARKER
    assert MARKER not in shown(outcome)


async def test_rules_and_sets_may_read_the_keychain_and_give_nothing_away() -> None:
    """PB-009: on the worker; what is kept of it is masked."""
    rules = [
        {"when": "{{ keychain.shop.key == output.data.text }}", "set": {"ctx.x": "{{ output.data.text }}"}},
    ]  # fmt: skip
    tool = {
        "kind": "echo",
        "text": MARKER,
        "policy": rules,
        "set": {"y": "{{ keychain.shop.key }}"},
    }
    outcome = await run(tool)
    assert not outcome.failed, outcome.error
    assert json.loads(bytes(outcome.updates))["x"] == "[REDACTED]"
    assert MARKER not in shown(outcome)


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ({"auth": "nobody"}, "'nobody' is not known"),
        ({"x": "{{ keychain.none.y }}"}, "'none' is not known"),
        ({"x": "{{ token('none') }}"}, "'none' is not known"),
        ({"x": "{{ keychain.shop.nothing }}"}, "entry 'shop' has no field 'nothing'"),
        ({"x": "{{ token('pg') }}"}, "'pg' of type postgres gives no token"),
    ],
)
async def test_what_cannot_be_had_fails_the_command_by_name(
    tool: dict[str, Any], words: str
) -> None:
    """SC-KC-08, TL-AUT-05: strict is the default; entry and field are named."""
    outcome = await run({"kind": "echo", **tool})
    assert outcome.failed
    assert outcome.error is not None
    assert words in outcome.error.message
    assert not outcome.error.retryable
    assert Echo.seen == []


async def test_where_the_keychain_is_not_strict_the_missing_is_empty() -> None:
    """SC-KC-08: off → a warning and an empty text."""
    with structlog.testing.capture_logs() as lines:
        outcome = await run(
            {"kind": "echo", "x": "<{{ keychain.none.y }}{{ keychain.shop.nothing }}>"},
            strict=False,
        )
    assert not outcome.failed, outcome.error
    assert Echo.seen[0]["x"] == "<>"
    assert [line["event"] for line in lines] == ["keychain.entry_missing"]


class Away(MemoryWallet):
    """A source that does not answer."""

    def __init__(self) -> None:
        super().__init__({})
        self.forgotten: list[str] = []

    async def credential(
        self, alias: str, asker: Asker, want: Want = "credential"
    ) -> Credential:
        assert (asker.execution_id, asker.worker_id, asker.sequence) == ("7", "w1", 12)
        raise UpstreamError(f"credential '{alias}': provider vault answers 503")

    def forget(self, alias: str) -> None:
        self.forgotten.append(alias)


async def test_a_source_that_is_away_is_a_failure_to_try_again() -> None:
    """SC-AL-05: terminal for this command, retryable for the playbook's policy."""
    outcome = await run({"kind": "echo", "auth": "pg"}, given=Away())
    assert outcome.error is not None
    assert (outcome.error.kind, outcome.error.retryable) == ("connection", True)


async def test_a_credential_the_other_side_refuses_is_fetched_anew() -> None:
    """SC-FL-03: dropped when a tool reports kind ``auth``."""

    class Forgetting(MemoryWallet):
        forgotten: ClassVar[list[str]] = []

        def forget(self, alias: str) -> None:
            self.forgotten.append(alias)

    pg = Credential("pg", "postgres", {"db_password": MARKER})
    given = Forgetting({"pg": pg})
    await run({"kind": "echo", "auth": "pg"}, given=given)
    assert given.forgotten == []
    await run({"kind": "echo", "auth": "pg", "fail": "auth"}, given=given)
    assert given.forgotten == ["pg"]


async def test_a_secret_cut_in_two_by_the_length_of_an_error_is_masked() -> None:
    """TL-ERR-03: texts are cut after they are masked."""
    pad = "x " * ((4096 - 40) // 2)
    outcome = await run({"kind": "echo", "fail": "exception", "a": pad, "auth": "pg"})
    assert outcome.error is not None
    assert "marker" not in outcome.error.message


async def test_plans_keep_no_secret() -> None:
    """TL-AUT-06: what is kept between commands holds no value of a credential."""
    given = wallet()
    tool = {"kind": "echo", "auth": "pg", "host": "mine"}
    await run(tool, given=given)
    await run(tool, given=given)
    assert given.asked == ["pg", "pg"]


def test_a_credential_cannot_be_written_out() -> None:
    """SC-LG-03, TL-AUT-06."""
    import pickle

    import msgspec

    found = Credential("db", "postgres", {"db_password": MARKER})
    assert repr(found) == str(found) == f"{found}" == "<secret:db>"
    with pytest.raises(TypeError):
        pickle.dumps(found)
    with pytest.raises(TypeError):
        msgspec.json.encode(found)
    assert not hasattr(found, "__dict__")


async def test_commands_side_by_side_share_nothing() -> None:
    outcomes: list[ToolOutcome] = []

    async def one(number: int) -> None:
        key = Credential("k", "secret", {"key": f"marker-{number}-abc"})
        text = "{{ keychain.k.key }}"
        outcomes.append(
            await run({"kind": "echo", "x": text}, given=MemoryWallet({}, {"k": key}))
        )

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(one, number)
    assert all("marker" not in shown(outcome) for outcome in outcomes)


class Aging(MemoryWallet):
    """Its tokens are refused until somebody asks for a fresh one."""

    async def credential(
        self, alias: str, asker: Asker, want: Want = "credential"
    ) -> Credential:
        self.asked.append(alias)
        token = "new-" + MARKER if asker.fresh else "old-" + MARKER
        return Credential(alias, "bearer", {"token": token, "access_token": token})


SIGNS_IN = [
    {"kind": "door", "auth": "api"},
    {"kind": "door", "text": "{{ token('api') }}"},
    {"kind": "door", "text": "{{ keychain.api.token }}"},
]


class Door(Echo):
    """Knows new tokens alone."""

    async def run(self, config: dict[str, Any], call: CallContext) -> ToolResult:
        self.seen.append(config)
        if "new-" in str(config):
            return ToolResult(data=1)
        failure = ToolFailure(kind="auth", message="no", status_code=401)
        raise ToolCallError(failure)


@pytest.mark.parametrize("tool", SIGNS_IN)
@pytest.mark.parametrize("retry", [True, False, None])
async def test_a_refused_token_is_got_anew_once_where_the_tool_says_so(
    monkeypatch: pytest.MonkeyPatch, tool: dict[str, Any], retry: bool | None
) -> None:
    """SC-KC-14: otherwise there is no hidden repeat."""
    monkeypatch.setattr(Only, "get", lambda self, kind: Door(ToolLimits()))
    given = Aging({})
    outcome = await run({**tool, "auth_retry": retry}, given=given)
    assert outcome.failed is not bool(retry)
    assert len(Echo.seen) == (2 if retry else 1)
    assert given.asked == ["api"] * (2 if retry else 1)
    unsigned = await run({"kind": "door", "text": "x", "auth_retry": True}, given=given)
    assert unsigned.failed and len(Echo.seen) == 1, "nothing there to be renewed"


class PlatformAway(MemoryWallet):
    """The server does not answer."""

    async def credential(
        self, alias: str, asker: Asker, want: Want = "credential"
    ) -> Credential:
        raise UnavailableError("the server does not answer")


NEEDS = {"kind": "echo", "auth": "api"}


@pytest.mark.parametrize("tool", [NEEDS, USES[1], USES[3]])
async def test_a_command_that_cannot_begin_is_given_back(tool: dict[str, Any]) -> None:
    """RT-WRK-11: the platform being away is no failure of the command."""
    with pytest.raises(UnavailableError):
        await run(tool, given=PlatformAway({}))
    with pytest.raises(UnavailableError):
        await run(
            {"kind": "task_sequence", "tasks": [{**tool, "label": "a"}]},
            given=PlatformAway({}),
        )


async def test_one_that_has_begun_fails_instead_of_running_twice() -> None:
    """TL-TS-33: and a rule may look at it."""
    tasks = [{"kind": "echo", "label": "one"}, {**NEEDS, "label": "two"}]
    outcome = await run(
        {"kind": "task_sequence", "tasks": tasks}, given=PlatformAway({})
    )
    assert outcome.failed and outcome.error is not None
    assert outcome.error.code == "credential_unavailable"
    assert outcome.error.retryable
