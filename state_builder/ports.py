"""What the rooms may ask of the outside, as protocols with their promises.

Every port has a shipped in-memory twin and one contract suite that all adapters pass.
Methods that start work at once and only then return an awaitable say so: a caller may
start many and wait for all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from state_builder.ids import Shard
from state_builder.records import JSON, Record, ToolOutcome


class Clock(Protocol):
    """Time, passed in."""

    def now(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float:
        """Seconds that never go back, of this process alone."""

    async def sleep(self, seconds: float) -> None:
        """Wait; cancellable."""


class LogMessage(NamedTuple):
    """One stored message.

    Attributes:
        sequence: place in the log, from 1.
        shard: which shard's subject it came on.
        kind: ``events``, ``commands`` or ``lease``.
        data: the bytes as appended.
        stored_at: when the broker stored it, Unix seconds.
    """

    sequence: int
    shard: Shard
    kind: str
    data: bytes
    stored_at: float


class Appended(NamedTuple):
    """Where an append was stored; a duplicate is success (RT-NATS-21)."""

    sequence: int
    duplicate: bool


class LogInfo(NamedTuple):
    """The state of the log as its leader knows it now."""

    first_sequence: int
    last_sequence: int
    generation: int
    shard_count: int
    bytes: int
    bytes_max: int
    created_at: str


class EventLog(Protocol):
    """The log: one total order, appended to with message ids and fences.

    Reconnects and lost acknowledgements are the adapter's business: an append is
    repeated with the same bytes under the same id until it is stored or refused.
    """

    def append(
        self,
        shard: Shard,
        records: list[Record],
        *,
        message_id: str,
        epoch: int = 0,
        pool: str = "",
    ) -> Awaitable[Appended]:
        """Start storing records of one shard as one message; await for where.

        The message is on its way in the order of the calls when this returns. With
        ``pool`` it goes to that pool's command subject, else to the events subject.
        ``epoch`` > 0 fences it with that lease. Unfenced records of one shard that
        are ready in the same turn may share a message.

        Raises (when awaited):
            FencedError: the lease of the shard is not ``epoch`` any more.
            LimitExceededError: more bytes than a message may have; nothing is stored.
        Never raises for an unreachable broker or a full log: it waits and repeats.
        """

    async def try_append(
        self, shard: Shard, records: list[Record], *, message_id: str, timeout_s: float
    ) -> Appended:
        """One unfenced append for a caller that cannot wait for ever (RT-API-10).

        Raises:
            LogFullError, UnavailableError: not known to be stored within the time;
                the same call may be made again.
            LimitExceededError: too large.
        """

    def follow(
        self, shards: Sequence[Shard] | None, *, after: int, leases: bool = True
    ) -> AsyncIterator[list[LogMessage]]:
        """Messages of these shards (all when None) after a sequence, in log order.

        Yields what is there, at most a few hundred at a time, without ever ending; a
        reconnect goes on after the last one yielded. Nothing is skipped, nothing comes
        twice. Close the iterator to stop.
        """

    async def read(self, sequence: int) -> LogMessage | None:
        """One message, or None when it is not (or no longer) there."""

    async def info(self) -> LogInfo:
        """What the log's leader says now. Raises UnavailableError."""

    async def take_lease(self, shard: Shard, holder: str, at: str) -> int:
        """Append a lease record and return its sequence: the epoch.

        Raises:
            ConflictError: another one was faster.
            UnavailableError: not known whether it was stored.
        """

    async def lease_sequence(self, shard: Shard) -> int:
        """The sequence of the shard's last lease record; 0 when there is none."""

    async def trim(self, below: int) -> int:
        """Drop all messages with a sequence under ``below``; how many went."""


class Delivery(Protocol):
    """One command as handed out by its pool's consumer."""

    @property
    def sequence(self) -> int:
        """The command's place in the log."""

    @property
    def shard(self) -> Shard:
        """The command's shard."""

    @property
    def count(self) -> int:
        """How often it was delivered, from 1; a hint (design §2 d)."""

    @property
    def pool(self) -> str:
        """The pool it came through."""

    @property
    def data(self) -> bytes:
        """The bytes as appended."""

    def ack(self) -> None:
        """It is done; never delivered again unless the broker loses the ack."""

    def nak(self, delay_s: float) -> None:
        """Not done; deliver it again, no sooner than after the delay."""

    def in_progress(self) -> None:
        """Still at it: start the ack deadline anew."""

    def step_aside(self) -> None:
        """Unfinished, but its slot may serve another one from now on."""

    def term(self) -> None:
        """Can never be done; do not deliver it again."""


class PoolProgress(NamedTuple):
    """How far a pool is with its commands.

    Attributes:
        acknowledged: every command up to this place in the log is finished.
        pending: not yet handed out.
        unfinished: handed out and not finished.
        waiting: requests of workers for more.
    """

    acknowledged: int
    pending: int
    unfinished: int
    waiting: int

    @property
    def served(self) -> bool:
        """Somebody asks for the pool's commands or is at one."""
        return self.waiting > 0 or self.unfinished > 0


class CommandQueue(Protocol):
    """The pools' consumers on the log."""

    def pull(self, pools: Sequence[str], slots: int) -> AsyncIterator[list[Delivery]]:
        """Commands of these pools, at most ``slots`` unfinished at once.

        A delivery is finished by ack, nak or term; that, or stepping aside,
        frees its slot. Consumers are
        created when missing. Close the iterator to stop pulling; what was handed out
        may still be finished.
        """

    async def view_start(self) -> int:
        """The log's last sequence when this process's uninterrupted view began.

        Commands at or before it may already have been finished elsewhere: ask their
        owner first (design §5).
        """

    async def progress(self, pool: str) -> PoolProgress:
        """How far a pool is. Raises UnavailableError."""


class Signals(Protocol):
    """Core messages without persistence: broadcasts and questions."""

    async def cancelled(self, execution_id: str) -> None:
        """Tell every worker that an execution is over (RT-NATS-33)."""

    def on_cancelled(self, callback: Callable[[str], None]) -> Awaitable[None]:
        """Call back for every execution that is over, from now on."""

    def ended(self, execution_id: str, sequence: int) -> None:
        """Tell every server that an execution's end is stored, and in which message."""

    def on_ended(self, callback: Callable[[str, int], None]) -> Awaitable[None]:
        """Call back for every end told from now on."""

    async def ask(
        self, shard: Shard, question: dict[str, JSON], timeout_s: float
    ) -> dict[str, JSON] | None:
        """The answer of the shard's owner, or None when nobody answered in time."""

    def answer(
        self,
        shard: Shard,
        callback: Callable[[dict[str, JSON]], Awaitable[dict[str, JSON] | None]],
    ) -> Awaitable[Callable[[], Awaitable[None]]]:
        """Answer a shard's questions until the returned function is called.

        A callback that gives None stays silent: the asker hears nothing.
        """


class Members(Protocol):
    """Who is alive: heartbeats with a time to live. Never decides who owns."""

    async def beat(self, member: str, value: dict[str, JSON]) -> None:
        """I am alive; repeat well within the time to live."""

    async def leave(self, member: str) -> None:
        """I am gone."""

    async def alive(self) -> dict[str, dict[str, JSON]]:
        """Every member whose heartbeat is younger than the time to live."""


class Blobs(Protocol):
    """Opaque bytes under a name: snapshots and large values."""

    async def put(self, name: str, data: bytes) -> None:
        """Store durably; the same name again replaces."""

    async def get(self, name: str) -> bytes | None:
        """The bytes, or None."""

    async def names(self, prefix: str) -> list[str]:
        """Names that start with the prefix, sorted."""

    async def delete(self, name: str) -> None:
        """Remove; nothing happens when it is not there."""


class CatalogEntry(NamedTuple):
    """One immutable version of a document."""

    catalog_id: str
    path: str
    version: int
    kind: str
    content: str


class Catalog(Protocol):
    """Where playbooks come from."""

    async def entry(self, catalog_id: str) -> CatalogEntry | None:
        """That version, or None. Raises UnavailableError."""

    async def resolve(self, path: str, version: int | None) -> CatalogEntry | None:
        """That version of the path, the latest when None. Raises UnavailableError."""


class Command(NamedTuple):
    """What a tool runner is given.

    Attributes:
        context: raw :class:`state_builder.records.CommandContext` JSON.
        path: of the playbook, for people.
        sequence: the command's place in the log, 0 where it came another way.
    """

    execution_id: str
    command_id: str
    step: str
    kind: str
    visit: int
    iteration: str
    attempt: int
    context: bytes
    path: str
    worker_id: str
    trace: dict[str, str]
    sequence: int = 0


class ToolRunner(Protocol):
    """Runs commands; knows every tool."""

    async def run(self, command: Command) -> ToolOutcome:
        """What it gave: an outcome with or without an error, never an exception
        for what user code, a remote side or a template did. Cancelling stops the tool
        and everything it started."""

    async def hold(self, command_id: str) -> None:
        """Keep what the command took from outside a while longer; never raises."""

    async def settle(self, command_id: str, kept: bool) -> None:
        """Its outcome is stored: acknowledge what it took from outside, or give that
        back where nothing was ``kept``. Never raises (TL-SU-03)."""

    async def close(self) -> None:
        """Stop children, close pools."""


class Observer(Protocol):
    """Counts and times; labels are closed sets, never an id."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Observe a duration in a histogram."""
