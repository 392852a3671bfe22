"""What the owner of an execution says about whoever asks for a secret (SC-SE-06)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from msgspec import Raw, Struct, ValidationError, convert, field
from msgspec.json import Decoder

from noetl_worker.wallet.keychain import Definition, definitions
from state_builder.credentials import Asker
from state_builder.errors import NotFoundError, RefusedError, UnavailableError
from state_builder.ids import shard_of
from state_builder.playbook.source import read
from state_builder.ports import Signals
from state_builder.records import JSON
from state_builder.stores import Tables

ASK_S: Final = 3.0
"""An owner waits up to 2 s for the log to reach what the asker saw."""

SECTIONS_MAX: Final = 512


class Ancestor(Struct, frozen=True):
    """An execution and the playbook version it runs."""

    execution_id: str
    catalog_id: str


class Circumstances(Struct, frozen=True, kw_only=True):
    """An execution as its owner knows it.

    Attributes:
        lineage: itself, its parent, … the root.
        pool: of the command that asks; empty when it is not open.
        worker: who said that it runs that command; empty before that.
    """

    lineage: tuple[Ancestor, ...]
    workload: dict[str, JSON] = field(default_factory=dict)
    pool: str = ""
    worker: str = ""

    @property
    def root(self) -> str:
        """Execution id of the root."""
        return self.lineage[-1].execution_id


class Executions:
    """Asks owners, and reads the keychains of playbooks."""

    def __init__(self, signals: Signals, tables: Tables, shard_count: int) -> None:
        self._signals = signals
        self._tables = tables
        self._shard_count = shard_count
        self._sections: OrderedDict[str, dict[str, Definition]] = OrderedDict()

    async def about(self, asker: Asker) -> Circumstances:
        """What is known of the asking execution.

        Raises NotFoundError for an unknown one, UnavailableError without an answer.
        """
        eid = asker.execution_id
        answer = await self._signals.ask(
            shard_of(eid, self._shard_count),
            {
                "kind": "circumstances",
                "execution_id": eid,
                "command_id": asker.command_id,
                "sequence": asker.sequence,
            },
            ASK_S,
        )
        if answer is None:
            raise UnavailableError(f"the owner of execution {eid} does not answer")
        if not answer.get("lineage"):
            raise NotFoundError(f"execution {eid} is not running")
        try:
            return convert(answer, Circumstances)
        except ValidationError as error:
            raise UnavailableError(
                f"the owner of execution {eid} answers in another form: {error}"
            ) from error

    async def keychain(self, catalog_id: str) -> dict[str, Definition]:
        """The entries a playbook version defines. Raises InvalidError."""
        known = self._sections.get(catalog_id)
        if known is None:
            row = await self._tables.catalog_entry(catalog_id)
            if row is None:
                raise NotFoundError(f"catalog entry {catalog_id} is not known")
            known = definitions(read(row.content).value.get("keychain"))
            self._sections[catalog_id] = known
            if len(self._sections) > SECTIONS_MAX:
                self._sections.popitem(last=False)
        self._sections.move_to_end(catalog_id)
        return known

    async def public_key(self, asker: Asker) -> str:
        """The key of a worker that is there and serves the asking command's pool.

        Raises NotFoundError, and RefusedError where the command is not its own.
        """
        rows = await self._tables.runtimes(kind="worker_pool", name=asker.worker_id)
        if not rows or rows[0].status == "offline":
            raise NotFoundError(f"worker '{asker.worker_id[:128]}' is not registered")
        about = await self.about(asker)
        if not about.pool:
            raise RefusedError(
                f"command {asker.command_id[:200]!r} is not open in execution "
                f"{asker.execution_id}"
            )
        pools = _pools(rows[0].capabilities)
        if about.pool not in pools:
            raise RefusedError(
                f"worker '{asker.worker_id}' does not serve pool '{about.pool}'"
            )
        return rows[0].worker_public_key or ""


class _Capabilities(Struct):
    pools: tuple[str, ...] = ()


_decode_capabilities = Decoder(_Capabilities).decode


def _pools(raw: Raw | None) -> tuple[str, ...]:
    """Pools out of what a worker said it can do."""
    try:
        return _decode_capabilities(raw).pools if raw else ()
    except ValidationError:
        return ()
