"""Playbooks an owner decides by: fetched once, parsed once, kept (RT-DRV-12)."""

from __future__ import annotations

from collections import OrderedDict

import anyio
from msgspec import Struct

from state_builder.arcs import Plan
from state_builder.drive import Child, ChildNeed
from state_builder.errors import UnavailableError
from state_builder.playbook import parse
from state_builder.ports import Catalog, CatalogEntry, Clock
from state_builder.template import check

LATEST_KEPT_S = 1.0
"""How long the answer to "which version is the latest" is believed."""


class Playbooks:
    """Plans by catalog id, and children by what a call asks for.

    An entry is immutable, so a plan is kept until it is pushed out; what a *path* means
    is asked again after a second.
    """

    def __init__(self, catalog: Catalog, clock: Clock, kept_max: int = 512) -> None:
        self._catalog = catalog
        self._clock = clock
        self._kept_max = kept_max
        self._plans: OrderedDict[str, Plan | str] = OrderedDict()
        self._asked: dict[ChildNeed, float] = {}
        self._loading: dict[str, anyio.Event] = {}
        self.children: dict[Struct, Struct] = {}

    def known(self, catalog_id: str) -> Plan | str | None:
        """The plan, why there is none, or None when it was not fetched yet."""
        self._forget_old_answers()
        plan = self._plans.get(catalog_id)
        if plan is not None:
            self._plans.move_to_end(catalog_id)
        return plan

    async def load(self, catalog_id: str) -> None:
        """Fetch and parse an entry, once for all who ask meanwhile.

        Raises UnavailableError.
        """
        loading = self._loading.get(catalog_id)
        if loading is not None:
            await loading.wait()
            if catalog_id not in self._plans:
                raise UnavailableError(f"catalog entry {catalog_id} was not fetched")
            return
        loading = self._loading[catalog_id] = anyio.Event()
        try:
            await self._fetch(catalog_id)
        finally:
            del self._loading[catalog_id]
            loading.set()

    async def _fetch(self, catalog_id: str) -> None:
        entry = await self._catalog.entry(catalog_id)
        if entry is None:
            self._keep(catalog_id, f"no catalog entry {catalog_id}")
        else:
            self._keep(catalog_id, _plan_of(entry))

    async def look_up(self, need: ChildNeed) -> None:
        """Find the playbook a call asks for. Raises UnavailableError."""
        if need.catalog_id:
            entry = await self._catalog.entry(need.catalog_id)
        else:
            entry = await self._catalog.resolve(need.path, need.version)
        self._asked[need] = self._clock.monotonic()
        if entry is None:
            name = need.path or need.catalog_id
            self.children[need] = Child(problem=f"unknown playbook '{name}'")
            return
        plan = self._plans.get(entry.catalog_id)
        if plan is None:
            plan = _plan_of(entry)
            self._keep(entry.catalog_id, plan)
        self.children[need] = Child(
            catalog_id=entry.catalog_id,
            path=entry.path,
            version=entry.version,
            playbook=None if isinstance(plan, str) else plan.playbook,
            problem=plan if isinstance(plan, str) else "",
        )

    def _keep(self, catalog_id: str, plan: Plan | str) -> None:
        self._plans[catalog_id] = plan
        if len(self._plans) > self._kept_max:
            self._plans.popitem(last=False)

    def _forget_old_answers(self) -> None:
        if not self._asked:
            return
        old = self._clock.monotonic() - LATEST_KEPT_S
        for need in [need for need, at in self._asked.items() if at < old]:
            del self._asked[need]
            del self.children[need]


def _plan_of(entry: CatalogEntry) -> Plan | str:
    result = parse(entry.content, check_text=check)
    if result.playbook is None:
        found = "; ".join(finding.message for finding in result.errors)
        return f"playbook '{entry.path}' version {entry.version} is invalid: {found}"
    return Plan(result.playbook)
