"""The port Wallet: what a tool worker may count on, from its twin and from the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from server_edge import TOKEN, running_edge
from wallet_world import HandClock

from noetl_worker.client import ClientOptions, NoetlClient
from noetl_worker.daemons.registration import Presence, Registration
from noetl_worker.lifecycle import SystemClock
from noetl_worker.wallet import RemoteSettings, RemoteWallet, WorkerKey
from noetl_worker.wallet.delivery import Use, seal
from noetl_worker.wallet.memory import MemoryWallet
from state_builder.credentials import Asker, Credential, Wallet, Want
from state_builder.errors import (
    DamagedError,
    InvalidError,
    NoetlError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UpstreamError,
)
from state_builder.records import JSON, encode_json

WORKER = "w1"
ASKER = Asker("7001", "7001.start.1.1", WORKER, 1)
MARKER = "marker-of-a-secret"
PLAYBOOK = f"""\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {{name: p, path: t/p}}
keychain:
  - {{name: both, kind: static, map: {{key: from-entry}}}}
  - {{name: only, kind: bearer, token: {MARKER}}}
workflow:
  - {{step: start, tool: {{kind: noop}}}}
"""


@dataclass
class Given:
    """A wallet, and how its credentials are replaced."""

    wallet: Wallet
    save: Callable[[str, str, dict[str, JSON]], Awaitable[None]]


async def in_memory() -> AsyncIterator[Given]:
    stored: dict[str, Credential] = {}
    entries = {
        "both": Credential("both", "secret", {"key": "from-entry"}),
        "only": Credential("only", "bearer", {"token": MARKER, "access_token": MARKER}),
    }

    async def save(name: str, kind: str, data: dict[str, JSON]) -> None:
        stored[name] = Credential(name, kind, data)

    yield Given(MemoryWallet(stored, entries), save)


async def from_a_server() -> AsyncIterator[Given]:
    async with running_edge() as fleet:
        made = await fleet.http.post(
            "/api/catalog/register", json={"content": PLAYBOOK}
        )
        place = {"execution_id": "7001", "catalog_id": made.json()["catalog_id"]}
        await fleet.own("7001", lineage=[place], workload={}, pool="shared")

        async def save(name: str, kind: str, data: dict[str, JSON]) -> None:
            body = {"name": name, "type": kind, "data": data}
            (await fleet.http.post("/api/credentials", json=body)).raise_for_status()

        transport = fleet.http._transport
        options = ClientOptions(url="http://t", token=TOKEN)
        client = NoetlClient(options, transport)
        key = WorkerKey()
        presence = Presence(
            worker_id=WORKER, public_key=key.public, pools=("shared",), slots=1
        )
        registration = Registration(client, presence, SystemClock())
        settings = RemoteSettings(worker_id=WORKER)
        # Nobody registered this worker: the first answer says so, and it does.
        yield Given(
            RemoteWallet(client, key, registration.register, SystemClock(), settings),
            save,
        )


@pytest.fixture(params=[in_memory, from_a_server])
async def given(request: pytest.FixtureRequest) -> AsyncIterator[Given]:
    async for found in request.param():
        await found.save("db", "postgres", {"db_password": MARKER})
        await found.save("both", "secret", {"key": "from-record"})
        yield found


async def test_a_credential_has_its_type_and_fields(given: Given) -> None:
    """SC-FL-01, SC-AL-02."""
    found = await given.wallet.credential("db", ASKER)
    assert (found.alias, found.type) == ("db", "postgres")
    assert found.reveal() == {"db_password": MARKER}
    assert MARKER not in repr(found)


@pytest.mark.parametrize(
    ("want", "key"), [("credential", "from-record"), ("entry", "from-entry")]
)
async def test_a_name_may_be_a_record_and_an_entry(
    given: Given, want: Want, key: str
) -> None:
    """SC-AL-02, SC-KC-06."""
    assert (await given.wallet.credential("both", ASKER, want)).reveal() == {"key": key}


async def test_a_token_is_got_with_a_credential(given: Given) -> None:
    """TL-TPL-09."""
    found = await given.wallet.credential("only", ASKER, "token")
    assert found.reveal()["access_token"] == MARKER
    with pytest.raises(InvalidError, match=r"'db'.*gives no token"):
        await given.wallet.credential("db", ASKER, "token")


async def test_an_unknown_name_is_told_and_final(given: Given) -> None:
    """SC-AL-05, SC-AL-06."""
    with pytest.raises(NotFoundError, match="'nobody'") as caught:
        await given.wallet.credential("nobody", ASKER)
    assert not caught.value.retryable


async def test_what_was_forgotten_is_fetched_anew(given: Given) -> None:
    """SC-CR-05, SC-FL-03."""
    before = await given.wallet.credential("db", ASKER)
    await given.save("db", "postgres", {"db_password": "replaced"})
    given.wallet.forget("db")
    after = await given.wallet.credential("db", ASKER)
    assert after.reveal() == {"db_password": "replaced"}
    assert before.reveal() == {"db_password": MARKER}


class Server:
    """Answers what a test says, in order; the last one again and again."""

    def __init__(self, key: WorkerKey, *answers: Any) -> None:
        self.key = key
        self.answers = list(answers)
        self.asked = 0

    async def exchange(
        self, method: str, path: str, body: JSON = None, query: Any = None
    ) -> tuple[int, JSON]:
        assert (method, path) == ("GET", "/api/credentials/db/sealed")
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer == 200:
            return 200, self.sealed()
        if isinstance(answer, tuple):
            return answer  # type: ignore[return-value]
        return answer, {"message": f"because {answer}", "code": "x"}

    def sealed(self, expires_at: float | None = None, alias: str = "db") -> JSON:
        fields = {"type": "postgres", "data": {"db_password": MARKER}, "version": "1"}
        plaintext = encode_json({**fields, "expires_at": expires_at})
        return seal(plaintext, self.key.public, Use(WORKER, alias, "7001"), 2)


class Remote:
    """A worker's wallet before such a server; waits pass when they are asked for."""

    def __init__(self, *answers: Any) -> None:
        self.key = WorkerKey()
        self.server = Server(self.key, *answers)
        self.clock = HandClock()
        self.slept: list[float] = []
        self.registered = 0
        self.wallet = RemoteWallet(
            self.server,
            self.key,
            self._register,
            self,
            RemoteSettings(worker_id=WORKER),
        )

    async def _register(self) -> None:
        self.registered += 1

    def now(self) -> float:
        return self.clock.time

    def monotonic(self) -> float:
        return self.clock.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.time += seconds

    async def get(self) -> Credential:
        return await self.wallet.credential("db", ASKER)


TERMINAL: list[tuple[int, type[NoetlError]]] = [
    (400, InvalidError),
    (401, RefusedError),
    (403, RefusedError),
    (404, NotFoundError),
    (409, InvalidError),
    (422, InvalidError),
    (500, DamagedError),
]


@pytest.mark.parametrize(("status", "kind"), TERMINAL)
async def test_an_answer_that_will_not_change_is_asked_for_once(
    status: int, kind: type[NoetlError]
) -> None:
    """SC-AL-05, SC-TE-09, SC-AL-06: one attempt; alias, reason and status in the text."""
    remote = Remote(status)
    with pytest.raises(
        kind, match=rf"'db'.*because {status}.*status {status}"
    ) as caught:
        await remote.get()
    assert not caught.value.retryable
    assert (remote.server.asked, remote.slept) == (1, [])


@pytest.mark.parametrize("status", [408, 429, 502, 504])
async def test_a_third_party_that_is_away_is_asked_three_times(status: int) -> None:
    """SC-AL-05, SC-TE-09, TL-DSP-03: half a second, a second, then it is a failure."""
    remote = Remote(status)
    with pytest.raises(UpstreamError) as caught:
        await remote.get()
    assert caught.value.retryable
    assert (remote.server.asked, remote.slept) == (3, [0.5, 1.0])
    again = Remote(status, status, 200)
    assert (await again.get()).reveal() == {"db_password": MARKER}


@pytest.mark.parametrize("answer", [503, UnavailableError("server cannot be reached")])
async def test_a_server_that_is_away_is_waited_for(answer: Any) -> None:
    """RT-WRK-11: with growing pauses, up to the deadline."""
    back = Remote(*[answer] * 8, 200)
    assert (await back.get()).reveal() == {"db_password": MARKER}
    remote = Remote(answer)
    with pytest.raises(UnavailableError):
        await remote.get()
    assert 290 < sum(remote.slept) <= 300
    assert max(remote.slept) <= 8


async def test_a_worker_the_server_lost_registers_again() -> None:
    """SC-SE-01: once, then the answer counts."""
    lost = (
        404,
        {"message": "worker 'w1' is not registered", "code": "worker_not_found"},
    )
    remote = Remote(lost, 200)
    assert (await remote.get()).type == "postgres"
    assert remote.registered == 1
    never = Remote(lost)
    with pytest.raises(NotFoundError):
        await never.get()
    assert never.server.asked == 2


@pytest.mark.parametrize(
    "body",
    [
        {"type": "postgres", "data": {"db_password": MARKER}},
        {"alg": "none", "v": 2, "eph_pub": "", "ciphertext": ""},
        None,
    ],
)
async def test_a_value_in_the_clear_is_never_taken(body: Any) -> None:
    """SC-SE-04: no silent fallback."""
    remote = Remote((200, body))
    with pytest.raises(DamagedError, match="'db'") as caught:
        await remote.get()
    assert MARKER not in str(caught.value)


async def test_a_message_for_another_name_is_not_taken() -> None:
    """SC-SE-03."""
    remote = Remote(200)
    remote.server.answers = [(200, remote.server.sealed(alias="other"))]
    with pytest.raises(DamagedError):
        await remote.get()


async def test_a_value_is_kept_for_half_a_minute_and_not_past_its_end() -> None:
    """SC-FL-03, SC-CR-05."""
    remote = Remote(200)
    first = await remote.get()
    remote.clock.time += 29
    assert await remote.get() is first
    remote.clock.time += 2
    assert await remote.get() is not first
    ending = Remote(200)
    ending.server.answers = [(200, ending.server.sealed(ending.now() + 10))]
    await ending.get()
    ending.clock.time += 11
    await ending.get()
    assert ending.server.asked == 2


async def test_another_execution_asks_for_itself() -> None:
    """SC-FL-03: keyed by execution."""
    remote = Remote(200)
    await remote.get()
    with pytest.raises(DamagedError):
        await remote.wallet.credential("db", ASKER._replace(execution_id="7002"))
    assert remote.server.asked == 2


async def test_many_at_once_ask_once() -> None:
    remote = Remote(200)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(remote.get)
    assert remote.server.asked == 1


async def test_what_was_seen_is_known_to_be_secret() -> None:
    """SC-LG-03: for the process's log lines."""
    remote = Remote(200)
    assert remote.wallet.masked == ()
    await remote.get()
    assert MARKER in remote.wallet.masked


async def test_a_worker_is_there_for_as_long_as_it_runs() -> None:
    """SC-SE-01, RT-WPL: registers, beats, comes back after it was lost, says good-bye."""
    seen: list[str] = []
    statuses = {"register": 200, "heartbeat": 404, "deregister": 200}

    class Quiet:
        async def exchange(
            self, method: str, path: str, body: JSON = None, query: Any = None
        ) -> tuple[int, JSON]:
            word = path.rpartition("/")[2]
            seen.append(word)
            if len(seen) == 1:
                raise UnavailableError("away")
            return statuses[word], {}

    clock = HandClock()
    presence = Presence(worker_id=WORKER, public_key="k", pools=("shared",), slots=1)
    registration = Registration(Quiet(), presence, clock)
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registration.run, stop)
        for _ in range(4):
            await anyio.wait_all_tasks_blocked()
            clock.advance(presence.heartbeat_s)
        await anyio.wait_all_tasks_blocked()
        stop.set()
    assert seen[:4] == ["register", "register", "heartbeat", "register"]
    assert seen[-1] == "deregister"
    statuses["register"] = 403
    with pytest.raises(UnavailableError, match="NOETL_INTERNAL_API_TOKEN"):
        await registration.register()
