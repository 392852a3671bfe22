"""Port: what clients keep beside playbooks and executions.

Nothing is decided from it: variables for people and HTTP-only workers, test suites of
playbooks as their editor keeps them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from msgspec import Raw, Struct


class VariableRow(Struct, frozen=True, kw_only=True):
    """A variable somebody keeps beside an execution.

    Attributes:
        type: ``user_defined``, ``step_result``, ``computed`` or ``iterator_state``.
        access_count: how often it was read alone.
    """

    name: str
    value: Raw
    type: str = "user_defined"
    source_step: str | None = None
    created_at: datetime | None = None
    accessed_at: datetime | None = None
    access_count: int = 0


class SuiteRow(Struct, frozen=True, kw_only=True):
    """A test suite of a playbook, as its editor keeps it."""

    suite_id: str
    playbook_path: str
    tests: Raw
    metadata: Raw
    updated_at: datetime | None = None


class Notes(Protocol):
    """What clients keep."""

    async def set_variables(self, execution_id: str, rows: list[VariableRow]) -> None:
        """Insert, or replace by name."""

    async def variables(self, execution_id: str) -> list[VariableRow]:
        """All of an execution by name."""

    async def read_variable(self, execution_id: str, name: str) -> VariableRow | None:
        """One, counted as read (§1.12)."""

    async def drop_variables(self, execution_id: str, name: str = "") -> int:
        """Remove one, or all without a name; how many there were."""

    async def save_suite(self, row: SuiteRow) -> SuiteRow:
        """Insert, or replace by id."""

    async def suite(self, suite_id: str) -> SuiteRow | None:
        """One."""

    async def drop_suite(self, suite_id: str) -> bool:
        """Remove; False when it was not there."""
