"""Where an execution stands right now (RT-NATS-30, RT-PRJ-5).

The owner of its shard is asked first, naming the last place in the log this server
knows of; without an answer the row and the log after it tell. An end once seen is
remembered, so no later answer takes it back (RT-EXN-5).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeVar

from msgspec import DecodeError, Struct, ValidationError, convert
from msgspec.json import Decoder

from noetl_worker.server.history import History
from noetl_worker.server.hub import Logged
from noetl_worker.server.shapes import Facts, Status, moment
from state_builder.errors import NotFoundError, UnavailableError
from state_builder.ids import shard_of
from state_builder.ports import Observer, Signals
from state_builder.records import GENESIS, JSON, TERMINAL_STATUS, Genesis
from state_builder.stores import RowReader

ENDED_KEPT: Final = 5000
FACTS_KEPT: Final = 20_000

_genesis = Decoder(Genesis)
T = TypeVar("T")


class LiveSettings(Struct, frozen=True):
    """How live status is asked for."""

    shard_count: int
    ask_s: float


class Live:
    """Answers for single executions."""

    def __init__(
        self,
        signals: Signals,
        rows: RowReader,
        history: History,
        observer: Observer,
        settings: LiveSettings,
    ) -> None:
        self._signals = signals
        self._rows = rows
        self._history = history
        self._observer = observer
        self._settings = settings
        self._ended: OrderedDict[str, Status] = OrderedDict()
        self._facts: OrderedDict[str, Facts] = OrderedDict()

    async def status(self, execution_id: str, site: str = "status") -> Status:
        """Where it stands.

        Raises:
            NotFoundError: owner, row and log know nothing of it.
            UnavailableError: none of them can be asked.
        """
        ended = self._ended.get(execution_id)
        if ended is not None:
            return ended
        status = await self._ask(execution_id)
        outcome = "served_owner"
        if status is None:
            status = await self._told(execution_id)
            outcome = "served_log"
            if status is None:
                raise NotFoundError(f"execution {execution_id} is not known")
        self._observer.count(
            "noetl_event_hotpath_reads_total", site=site, outcome=outcome
        )
        if status.over:
            _keep(self._ended, execution_id, status, ENDED_KEPT)
        return status

    def note_start(self, execution_id: str, facts: Facts) -> None:
        """This server started it."""
        self._history.note_start(execution_id, facts.sequence)
        _keep(self._facts, execution_id, facts, FACTS_KEPT)

    async def facts(self, execution_id: str) -> Facts:
        """What its events do not say themselves. Raises as :meth:`status` does."""
        facts = self._facts.get(execution_id)
        if facts is None:
            status = await self.status(execution_id, "events")
            facts = Facts(
                catalog_id=status.catalog_id,
                path=status.path,
                version=status.version,
                parent_execution_id=status.parent_execution_id,
            )
            _keep(self._facts, execution_id, facts, FACTS_KEPT)
        return facts

    async def ask(
        self, execution_id: str, kind: str, **more: JSON
    ) -> dict[str, JSON] | None:
        """What the owner answers; None when none does, or it does not know it."""
        question: dict[str, JSON] = {
            "kind": kind,
            "execution_id": execution_id,
            "sequence": self._history.latest(execution_id),
            **more,
        }
        shard = shard_of(execution_id, self._settings.shard_count)
        return await self._signals.ask(shard, question, self._settings.ask_s)

    async def open_commands(self, execution_id: str, step: str) -> list[str] | None:
        """Open commands of a step; None when no owner can say."""
        return _names(await self.ask(execution_id, "open", step=step))

    async def parked_commands(
        self, execution_id: str, step: str, job: str
    ) -> list[str] | None:
        """Those of a step that may wait for this job; None when no owner can say."""
        return _names(await self.ask(execution_id, "parked", step=step, job=job))

    async def _ask(self, execution_id: str) -> Status | None:
        answer = await self.ask(execution_id, "status")
        if answer is None:
            return None
        try:
            return convert(answer, Status, strict=False)
        except ValidationError as error:
            raise UnavailableError(
                f"an owner answers in no known form: {error}"
            ) from error

    async def _told(self, execution_id: str) -> Status | None:
        """Row and log in place of the owner."""
        known = await self._history.known(execution_id)
        row = known.row
        steps: dict[str, str] = {}
        if row is None:
            status = _born(execution_id, known.tail)
            if status is None:
                return None
        else:
            status = Status(
                execution_id=row.execution_id,
                status=row.status,
                path=row.path,
                catalog_id=row.catalog_id,
                version=row.version,
                parent_execution_id=row.parent_execution_id,
                start_time=moment(row.start_time),
                end_time=moment(row.end_time),
                error=row.error,
                last_event_type=row.last_event_type,
                last_event_id=row.head_event_id,
                event_count=row.event_count,
                current_step=row.last_node_name,
            )
            views = await self._rows.steps(row.execution_id)
            steps = {view.step: view.status for view in views}
        for logged in known.tail:
            _advance(status, steps, logged)
        status.completed_steps = [name for name in steps if steps[name] == "completed"]
        status.failed_steps = [name for name in steps if steps[name] == "failed"]
        status.running_steps = [name for name in steps if steps[name] == "running"]
        status.total_steps = len(steps)
        if status.running_steps:
            status.current_step = status.running_steps[0]
        return status


def _born(execution_id: str, tail: list[Logged]) -> Status | None:
    """The status of an execution whose genesis is in the log and nowhere else yet."""
    for logged in tail:
        if logged.event.type != GENESIS:
            continue
        try:
            genesis = _genesis.decode(logged.event.context)
        except (ValidationError, DecodeError):
            return None
        return Status(
            execution_id=execution_id,
            status="RUNNING",
            path=genesis.path,
            catalog_id=genesis.catalog_id,
            version=genesis.version,
            parent_execution_id=genesis.parent_execution_id or None,
            start_time=logged.event.at,
        )
    return None


def _names(answer: dict[str, JSON] | None) -> list[str] | None:
    found = (answer or {}).get("commands")
    return [str(one) for one in found] if isinstance(found, list) else None


def _advance(status: Status, steps: dict[str, str], logged: Logged) -> None:
    """One more event; after the end none counts."""
    if status.over:
        return
    event = logged.event
    status.last_event_type = event.type
    status.last_event_id = str(logged.event_id)
    status.event_count += 1
    if event.step:
        status.current_step = event.step
    if event.type == "step.enter":
        steps[event.step] = "running"
    elif event.type == "step.exit":
        steps[event.step] = "failed" if event.status == "FAILED" else "completed"
    elif event.type == "step.skipped":
        steps[event.step] = "skipped"
    elif event.type in TERMINAL_STATUS:
        status.status = TERMINAL_STATUS[event.type]
        status.end_time = event.at
        status.error = event.error or None


def _keep(kept: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
