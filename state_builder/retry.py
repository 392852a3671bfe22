"""How long to wait before trying again, and whether a failure is worth it.

Pure arithmetic over numbers and names: no clock, no dice. Texts of playbooks
(PB-150, PB-151, PB-156) and the platform's own repetitions use the same functions.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, TypeAlias

from msgspec import Struct

BackoffKind: TypeAlias = Literal["fixed", "linear", "exponential"]

DELAY_S: Final = 1.0
DELAY_MAX_S: Final = 60.0

_EXPONENT_MAX: Final = 64
"""Doubling more often than this passes any cap; it also keeps the power finite."""


class Backoff(Struct, frozen=True, kw_only=True):
    """Waits between runs.

    Attributes:
        delay_s: the base.
        kind: ``fixed`` → base; ``linear`` → base × k; ``exponential`` →
            base × multiplier^(k−1).
        max_delay_s: upper bound of what the kind gives.
    """

    delay_s: float = DELAY_S
    kind: BackoffKind = "fixed"
    max_delay_s: float = DELAY_MAX_S
    multiplier: float = 2.0

    def wait_s(self, repetition: int, retry_after_s: float | None = None) -> float:
        """The wait before the k-th repetition, from 1 (PB-151, TL-TS-22).

        What the other side asked for (``retry_after_s``) is a lower bound, also above
        ``max_delay_s``.
        """
        wait = self.delay_s
        if self.kind == "linear":
            wait *= repetition
        elif self.kind == "exponential":
            wait *= self.multiplier ** min(repetition - 1, _EXPONENT_MAX)
        return max(0.0, min(wait, self.max_delay_s), retry_after_s or 0.0)


class RetryRule(Struct, frozen=True, kw_only=True):
    """The ``retry`` shorthand in its one form (PB-156).

    Attributes:
        max_attempts: total number of runs, the first included.
        retry_on: error kinds worth another run; None = no such list.
        retry_on_status: http statuses worth another run; None = no such list.
    """

    max_attempts: int = 3
    retry_on: tuple[str, ...] | None = None
    retry_on_status: tuple[int, ...] | None = None
    delay_s: float = DELAY_S
    backoff: BackoffKind = "fixed"
    max_delay_s: float = DELAY_MAX_S
    multiplier: float = 2.0

    def applies(self, kind: str, status: int | None, *, retryable: bool) -> bool:
        """Whether a failure is worth another run: named, or retryable without lists."""
        if self.retry_on is None and self.retry_on_status is None:
            return retryable
        return _named(kind, self.retry_on) or _named(status, self.retry_on_status)

    def wait_s(self, repetition: int, retry_after_s: float | None = None) -> float:
        """The wait before the k-th repetition, from 1."""
        waits = Backoff(
            delay_s=self.delay_s,
            kind=self.backoff,
            max_delay_s=self.max_delay_s,
            multiplier=self.multiplier,
        )
        return waits.wait_s(repetition, retry_after_s)


def _named(value: object, names: Collection[object] | None) -> bool:
    return names is not None and value in names
