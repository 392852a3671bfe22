"""A wallet on the twins in memory, with owners that answer and a clock set by hand."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from materializer.memory import MemoryDatabase, MemorySecrets, MemoryTables
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.settings import Wallet, load
from noetl_worker.wallet import Keeper, KeeperPorts, Keyring, ProviderSettings
from noetl_worker.wallet.keys import LocalKeys
from state_builder.credentials import Asker, Credential, NewCredential, Want
from state_builder.records import JSON
from state_builder.sealed import AuditFilter, AuditRow, SealedRows
from state_builder.stores import CatalogDocument

SHARDS = 4
KEY_1, KEY_2 = b"1" * 32, b"2" * 32
EXECUTION = "7001"
WORKER = "w1"

HEAD = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {{name: p, path: {path}}}
keychain:
{keychain}
workflow:
  - {{step: start, tool: {{kind: noop}}}}
"""


def keyring(current: str = "v1", **keys: bytes) -> Keyring:
    """Local keys; of version v1 alone unless others are named."""
    return Keyring(LocalKeys(keys or {"v1": KEY_1}, current))


class HandClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.time = 1_750_000_000.0
        self._waiting: list[tuple[float, anyio.Event]] = []

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        woken = anyio.Event()
        self._waiting.append((self.time + seconds, woken))
        await woken.wait()

    def advance(self, seconds: float) -> None:
        self.time += seconds
        due = [one for one in self._waiting if one[0] <= self.time]
        self._waiting = [one for one in self._waiting if one[0] > self.time]
        for _, woken in due:
            woken.set()


class Owners:
    """The ``Signals`` of a shard's owners: they answer what a test told them."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, JSON]] = {}
        self.silent = False

    async def ask(
        self, shard: int, question: dict[str, JSON], timeout_s: float
    ) -> dict[str, JSON] | None:
        del shard, timeout_s
        if self.silent:
            return None
        return self.answers.get(str(question["execution_id"]), {})


@dataclass
class World:
    """The wallet and what stands around it."""

    keeper: Keeper
    database: MemoryDatabase
    rows: SealedRows
    tables: MemoryTables
    owners: Owners
    clock: HandClock
    observer: PrometheusObserver
    ids: Any = field(default_factory=lambda: itertools.count(100))

    async def save(self, name: str, kind: str, **data: JSON) -> str:
        """Store a credential; its id."""
        new = NewCredential(name=name, type=kind, data=data)
        return (await self.keeper.save(new)).id

    async def playbook(
        self, keychain: str, execution_id: str = EXECUTION, **more: Any
    ) -> str:
        """Register a playbook with these entries, run by an execution; its id."""
        catalog_id = str(next(self.ids))
        text = HEAD.format(path=f"t/{catalog_id}", keychain=keychain)
        await self.tables.register(
            CatalogDocument(
                catalog_id=catalog_id,
                path=f"t/{catalog_id}",
                kind="playbook",
                content=text,
            )
        )
        above = more.pop("above", [])
        self.owners.answers[execution_id] = {
            "lineage": [
                {"execution_id": execution_id, "catalog_id": catalog_id},
                *above,
            ],
            "workload": more.pop("workload", {}),
            "pool": more.pop("pool", "shared"),
            **more,
        }
        return catalog_id

    async def reveal(
        self, name: str, want: Want = "entry", execution_id: str = EXECUTION
    ) -> Credential:
        """What the server would give for this execution."""
        return await self.keeper.reveal(name, asker(execution_id), want)

    async def trail(self, **wanted: Any) -> list[AuditRow]:
        """Audit rows, oldest first."""
        return [*reversed(await self.keeper.audit(AuditFilter(**wanted)))]

    def metric(self, name: str, **labels: str) -> float:
        return self.observer.registry.get_sample_value(name, labels) or 0.0


def asker(execution_id: str = EXECUTION, worker_id: str = WORKER) -> Asker:
    return Asker(execution_id, f"{execution_id}.start.1.1", worker_id, 5)


def wallet_settings(**environ: str) -> Wallet:
    return load(environ, "worker").wallet


@asynccontextmanager
async def wallet_world(
    *,
    keys: Keyring | None = None,
    providers: ProviderSettings | None = None,
    database: MemoryDatabase | None = None,
    **environ: str,
) -> AsyncIterator[World]:
    """A running wallet; ``environ`` are settings of it."""
    clock = HandClock()
    database = database or MemoryDatabase(clock)
    rows, tables = MemorySecrets(database), MemoryTables(database)
    owners, observer = Owners(), PrometheusObserver()
    ids = itertools.count(1)
    ports = KeeperPorts(
        rows=rows,
        tables=tables,
        signals=owners,  # type: ignore[arg-type]
        clock=clock,
        observer=observer,
        mint_id=lambda: str(next(ids)),
    )
    keeper = Keeper(
        ports,
        wallet_settings(**environ),
        keys or keyring(),
        providers or ProviderSettings(),
        SHARDS,
    )
    async with keeper:
        yield World(keeper, database, rows, tables, owners, clock, observer)
