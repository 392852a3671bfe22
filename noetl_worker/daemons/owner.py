"""The owner of shards: read the log, fold, decide, append (design §4).

Per batch read: fold every event into the state of its execution, then decide each
execution touched, once. State changes only by what is read back. Correctness rests on
the fence alone; who should own which shard is :mod:`noetl_worker.daemons.ownership`'s
business, and a broker that refuses an append is how an owner learns that it is none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from heapq import heappop, heappush

import anyio
import structlog
from anyio.abc import TaskGroup

from noetl_worker.daemons.given_up import given_up_event
from noetl_worker.daemons.owned import OwnedShard
from noetl_worker.daemons.playbooks import Playbooks
from noetl_worker.daemons.references import see_to
from state_builder.arcs import Plan
from state_builder.drive import (
    Bulk,
    ChildNeed,
    Decision,
    DriveLimits,
    FetchNeed,
    KeepNeed,
    Turn,
    decide,
    give_up,
)
from state_builder.errors import (
    FencedError,
    InvalidError,
    LimitExceededError,
    UnavailableError,
)
from state_builder.index import Entry
from state_builder.ports import Clock, EventLog, LogMessage, Observer, Signals
from state_builder.records import Event, Record, timestamp
from state_builder.state import State
from state_builder.values import ValueStore

log = structlog.get_logger(__name__)

RETRY_FIRST_S = 0.2
RETRY_MAX_S = 5.0
TIMER_AGAIN_S = 0.02
"""Back-off for one execution whose playbook cannot be had right now (RT-DRV-11)."""


@dataclass(frozen=True, kw_only=True)
class OwnerPorts:
    """What an owner may touch."""

    log: EventLog
    signals: Signals
    clock: Clock
    observer: Observer
    playbooks: Playbooks
    values: ValueStore


class Owner:
    """Folds and decides for the shards it is given."""

    def __init__(
        self, ports: OwnerPorts, tasks: TaskGroup, limits: DriveLimits, shard_count: int
    ) -> None:
        self._ports = ports
        self._tasks = tasks
        self._limits = limits
        self._shard_count = shard_count
        self._sent: deque[tuple[OwnedShard, Entry, Awaitable[object]]] = deque()
        self._sent_any = anyio.Event()
        self._timers: list[tuple[float, int, str, OwnedShard]] = []
        self._armed = 0
        self._timers_changed = anyio.Event()
        self._moved = anyio.Event()
        self.watchers = 0
        self.hold_loops = False

    async def run(self) -> None:
        """Watch acknowledgements and timers for as long as the process lives."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch_appends)
            group.start_soon(self._watch_timers)

    def read(self, shards: dict[int, OwnedShard], batch: list[LogMessage]) -> None:
        """Fold one batch, then decide every execution it touched, once."""
        touched: dict[str, tuple[OwnedShard, Entry]] = {}
        for message in batch:
            owned = shards.get(message.shard)
            if owned is None or owned.lost:
                continue
            if message.sequence <= owned.index.position:
                continue
            if message.kind == "lease":
                self._read_lease(owned, message)
                continue
            damaged = owned.index.damaged
            for entry in owned.index.apply(message):
                eid = entry.state.execution_id
                touched[eid] = (owned, entry)
                if entry.retired and owned.ready:
                    self._ports.signals.ended(eid, message.sequence)
            owned.since_snapshot += 1
            if owned.index.damaged > damaged:
                # Its bytes are kept by the materializer (RT-NATS-46).
                log.error("log.damaged", shard=owned.shard, sequence=message.sequence)
                self._ports.observer.count("noetl_log_damaged_total", kind="message")
        for owned, entry in touched.values():
            if owned.ready and not entry.retired:
                self._arm(owned, entry)
                if entry.due and not entry.unread:
                    self.drive(owned, entry)
        self._has_moved()

    async def moved(self) -> None:
        """Return once something was read, or a shard was lost."""
        self.watchers += 1
        try:
            await self._moved.wait()
        finally:
            self.watchers -= 1

    def _has_moved(self) -> None:
        """Wake who waits for a shard to be read, or to be lost."""
        if self.watchers:
            self._moved.set()
            self._moved = anyio.Event()

    def _read_lease(self, owned: OwnedShard, message: LogMessage) -> None:
        owned.index.position = message.sequence
        if message.sequence > owned.epoch:
            if owned.renewing and owned.is_ours(message.data):
                owned.epoch = message.sequence
            else:
                self.lose(owned, "another lease was read")
        elif message.sequence == owned.epoch and not owned.ready:
            owned.ready = True
            log.info(
                "index.rehydrated",
                shard=owned.shard,
                executions=len(owned.index.open),
                events=owned.index.events,
                position=owned.index.position,
            )
            self.drive_all(owned)

    def drive_all(self, owned: OwnedShard) -> None:
        """Look at every open execution of a shard: after boot, after a renewal."""
        for entry in list(owned.index.open.values()):
            if entry.packed:  # armed, and decided as far as it can be
                continue
            self._arm(owned, entry)
            if not entry.unread:
                self.drive(owned, entry)

    def plan_of(self, state: State) -> Plan | None:
        """The graph of an execution's playbook, where it is at hand."""
        catalog_id = "" if state.genesis is None else state.genesis.catalog_id
        plan = self._ports.playbooks.known(catalog_id)
        return plan if isinstance(plan, Plan) else None

    def lose(self, owned: OwnedShard, reason: str) -> None:
        """Drop the shard's state and say nothing more for it."""
        if owned.lost:
            return
        owned.lost = True
        owned.index.open.clear()
        self._has_moved()
        log.warning("shard.lost", shard=owned.shard, epoch=owned.epoch, reason=reason)
        self._ports.observer.count(
            "noetl_lease_transitions_total", kind="lost", outcome="ok"
        )

    def drive(self, owned: OwnedShard, entry: Entry) -> None:
        """Decide one execution now, and send what is decided."""
        genesis = entry.state.genesis
        if owned.lost or owned.renewing:
            return
        if entry.state.damaged:
            self._ports.observer.count("noetl_log_damaged_total", kind="event")
            self._fail(owned, entry, "damaged", entry.state.damaged)
            return
        if genesis is None:
            return
        plan = self._ports.playbooks.known(genesis.catalog_id)
        if plan is None:
            self._later(owned, entry, self._ports.playbooks.load, genesis.catalog_id)
            return
        if isinstance(plan, str):
            self._fail(owned, entry, "playbook_missing", plan)
            return
        # In whole microseconds, as the log keeps it: a replay decides by the same time.
        now = round(self._ports.clock.now(), 6)
        turn = Turn(
            plan=plan,
            state=entry.state,
            now=now,
            at=timestamp(now),
            limits=self._limits,
            shard=owned.shard,
            shard_count=self._shard_count,
            children=self._ports.playbooks.children,
            hold_loops=self.hold_loops,
            tree_size=owned.index.tree_size(entry.state),
            memo=owned.memos.setdefault(entry.state.execution_id, {}),
            bulk=owned.bulks.get(entry.state.execution_id) or Bulk(),
        )
        try:
            decision = decide(turn)
        except Exception as error:  # noqa: BLE001 - told there
            self._broke(owned, entry, error)
            return
        entry.due = decision is not None and decision.partial
        if decision is None:
            return
        if decision.needs:
            self._later(owned, entry, self._look_up, owned, entry, decision)
            return
        owned.bulks.pop(entry.state.execution_id, None)
        self._send(owned, entry, decision)

    def _later(
        self,
        owned: OwnedShard,
        entry: Entry,
        work: Callable[..., Awaitable[None]],
        *args: object,
    ) -> None:
        """Do something slow for one execution; it is not decided meanwhile."""
        entry.unread += 1
        self._tasks.start_soon(self._finish_later, owned, entry, work, args)

    async def _finish_later(
        self,
        owned: OwnedShard,
        entry: Entry,
        work: Callable[..., Awaitable[None]],
        args: tuple[object, ...],
    ) -> None:
        wait_s = RETRY_FIRST_S
        while not owned.lost:
            try:
                await work(*args)
                break
            except UnavailableError as error:
                log.warning(
                    "execution.waits",
                    execution_id=entry.state.execution_id,
                    shard=owned.shard,
                    reason=str(error),
                    retry_in_s=wait_s,
                )
                await self._ports.clock.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
            except Exception as error:  # noqa: BLE001 - told there
                entry.unread -= 1
                self._broke(owned, entry, error)
                return
        entry.unread -= 1
        if not entry.retired and not entry.unread:
            self.drive(owned, entry)

    async def _look_up(
        self, owned: OwnedShard, entry: Entry, decision: Decision
    ) -> None:
        for need in decision.needs:
            if isinstance(need, FetchNeed | KeepNeed):
                bulk = owned.bulks.setdefault(entry.state.execution_id, Bulk())
                await see_to(need, bulk, self._ports.values, self._ports.observer)
                continue
            assert isinstance(need, ChildNeed)
            await self._ports.playbooks.look_up(need)

    def _send(self, owned: OwnedShard, entry: Entry, decision: Decision) -> None:
        """Append a pass: one message when it fits in one (RT-DRV-6)."""
        eid = entry.state.execution_id
        for step in decision.unmatched:
            log.warning("step.unmatched", execution_id=eid, step=step)
        for limit in decision.limits:
            self._ports.observer.count("noetl_limit_hits_total", limit=limit)
        if decision.terminal:
            owned.memos.pop(eid, None)
            owned.bulks.pop(eid, None)
        if len(decision.commands) == 1 and not decision.others:
            only = decision.commands[0]
            record = Record(execution_id=eid, events=[*decision.events, only.event])
            self._append(owned, entry, [record], only.event.command_id, only.pool)
            return
        if not decision.events:
            for issued in decision.commands:
                record = Record(execution_id=eid, events=[issued.event])
                self._append(
                    owned, entry, [record], issued.event.command_id, issued.pool
                )
            return
        record = Record(execution_id=eid, events=decision.events)
        stored = self._append(
            owned, entry, [record, *decision.others], decision.key, "", watch=False
        )
        entry.unread += len(decision.commands)
        # Told once the end is stored: workers drop what they do for the execution.
        over = decision.terminal and bool(entry.state.commands)
        self._tasks.start_soon(self._send_rest, owned, entry, decision, stored, over)

    async def _send_rest(
        self,
        owned: OwnedShard,
        entry: Entry,
        decision: Decision,
        stored: Awaitable[object],
        tell_workers: bool,
    ) -> None:
        """Commands follow once their record is stored: never one without the other."""
        settled = await self._settled(owned, entry, stored)
        entry.unread -= len(decision.commands)
        if not settled:
            return
        if tell_workers:
            await self._ports.signals.cancelled(entry.state.execution_id)
        for issued in decision.commands:
            record = Record(
                execution_id=entry.state.execution_id, events=[issued.event]
            )
            self._append(owned, entry, [record], issued.event.command_id, issued.pool)
        if entry.due and not entry.unread and not entry.retired:
            self.drive(owned, entry)

    def _append(
        self,
        owned: OwnedShard,
        entry: Entry,
        records: list[Record],
        message_id: str,
        pool: str,
        *,
        watch: bool = True,
    ) -> Awaitable[object]:
        entry.unread += 1
        owned.in_flight += 1
        stored = self._ports.log.append(
            owned.shard,
            records,
            message_id=message_id,
            epoch=owned.epoch,
            pool=pool,
        )
        if watch:
            if not self._sent:
                self._sent_any.set()
            self._sent.append((owned, entry, stored))
        return stored

    async def append_beside(
        self,
        owned: OwnedShard,
        execution_id: str,
        events: list[Event],
        *,
        message_id: str,
        pool: str = "",
    ) -> bool:
        """Store events that are no pass of the drive; False when we may not."""
        if owned.lost or owned.renewing:
            return False
        owned.in_flight += 1
        try:
            await self._ports.log.append(
                owned.shard,
                [Record(execution_id=execution_id, events=events)],
                message_id=message_id,
                epoch=owned.epoch,
                pool=pool,
            )
        except FencedError as error:
            self.lose(owned, str(error))
            return False
        finally:
            owned.in_flight -= 1
        return True

    async def fail_command(
        self,
        owned: OwnedShard,
        command_id: str,
        code: str,
        text: str,
        *,
        due: float = 0.0,
    ) -> bool:
        """End a command no worker will answer; False when we may not.

        With ``due`` its next attempt is issued then.
        """
        eid = command_id.partition(".")[0]
        entry = owned.index.open.get(eid)
        command = None if entry is None else entry.state.commands.get(command_id)
        if command is None:
            return False
        log.error(
            "command.given_up",
            execution_id=eid,
            command_id=command_id,
            step=command.step,
            pool=command.pool,
            code=code,
            reason=text,
            again=due > 0,
        )
        self._ports.observer.count("noetl_commands_given_up_total", code=code)
        at = timestamp(self._ports.clock.now())
        event = given_up_event(command, command_id, at, code, text, due)
        return await self.append_beside(
            owned, eid, [event], message_id=f"{command_id}:{code}"
        )

    async def _watch_appends(self) -> None:
        while True:
            await self._sent_any.wait()
            self._sent_any = anyio.Event()
            while self._sent:
                await self._settled(*self._sent.popleft())

    async def _settled(
        self, owned: OwnedShard, entry: Entry, stored: Awaitable[object]
    ) -> bool:
        """Wait for one append; False when it was refused."""
        try:
            await stored
        except FencedError as error:
            self.lose(owned, str(error))
            return False
        except (LimitExceededError, InvalidError) as error:
            entry.unread -= 1
            self._fail(owned, entry, error.code, str(error))
            return False
        finally:
            owned.in_flight -= 1
        return True

    def _broke(self, owned: OwnedShard, entry: Entry, error: Exception) -> None:
        """A fault in one execution must not stop the others of its shard."""
        if owned.lost or entry.retired:
            return
        log.exception("execution.broke", execution_id=entry.state.execution_id)
        text = f"it cannot be decided: {type(error).__name__}: {error}"
        self._fail(owned, entry, "internal", text)

    def _fail(self, owned: OwnedShard, entry: Entry, reason: str, text: str) -> None:
        """End an execution that cannot go on, whatever its state."""
        self._ports.observer.count("noetl_orchestrate_drive_total", stage=reason)
        log.error(
            "execution.given_up",
            execution_id=entry.state.execution_id,
            reason=reason,
            error=text[:2000],
        )
        text = text[:2000].encode(errors="replace").decode()
        at = timestamp(self._ports.clock.now())
        self._send(owned, entry, give_up(entry.state, at, reason, text))

    def _arm(self, owned: OwnedShard, entry: Entry) -> None:
        """Wake up for the execution's next timer, once."""
        due = entry.state.due[0][0] if entry.state.due else 0.0
        if due and due != entry.armed:
            self._push_timer(due, entry.state.execution_id, owned)
        entry.armed = due

    def _push_timer(self, due: float, execution_id: str, owned: OwnedShard) -> None:
        self._armed += 1
        heappush(self._timers, (due, self._armed, execution_id, owned))
        self._timers_changed.set()

    async def _watch_timers(self) -> None:
        """Drive executions whose timers are due (RT-DRV-20)."""
        while True:
            self._timers_changed = anyio.Event()
            now = self._ports.clock.now()
            while self._timers and self._timers[0][0] <= now:
                _, _, execution_id, owned = heappop(self._timers)
                entry = owned.index.open.get(execution_id)
                if entry is None or owned.lost:
                    continue
                if not entry.unread:
                    self.drive(owned, entry)
                # Its last pass is still on the way, or the clock was rounded.
                if entry.state.due and entry.state.due[0][0] <= now:
                    self._push_timer(now + TIMER_AGAIN_S, execution_id, owned)
            if self._timers:
                with anyio.move_on_after(max(0.0, self._timers[0][0] - now)):
                    await self._timers_changed.wait()
            else:
                await self._timers_changed.wait()
