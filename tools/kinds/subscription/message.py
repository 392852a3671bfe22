"""What every source gives: one form of message, and how it is acknowledged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from state_builder.records import JSON
from tools.fields import Fields

HOW: Final = ("ack", "nack", "term")
"""What can be said about a message."""

MODES: Final[dict[str, str]] = {
    **dict.fromkeys(("on_success", "true", "auto"), "on_success"),
    **dict.fromkeys(("manual", "false"), "manual"),
    **dict.fromkeys(("defer", "deferred"), "defer"),
    "none": "none",
}
"""Spelling of ``ack`` → mode (TL-SU-01)."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message (TL-SU-02).

    Attributes:
        ack_id: what it is acknowledged by.
        size: bytes of its body.
    """

    id: str
    data: JSON
    ack_id: str
    size: int
    encoding: str = ""
    headers: Fields = field(default_factory=dict)
    attributes: Fields = field(default_factory=dict)
    metadata: Fields = field(default_factory=dict)

    def shown(self, with_ack_id: bool) -> Fields:
        """As the step sees it."""
        return {
            "id": self.id,
            "data": self.data,
            **({"encoding": self.encoding} if self.encoding else {}),
            "headers": self.headers,
            "attributes": self.attributes,
            "metadata": self.metadata,
            **({"ack_id": self.ack_id} if with_ack_id else {}),
        }


class Source(Protocol):
    """Where messages come from. Methods raise ToolCallError."""

    async def poll(self, batch: int, wait_s: float) -> list[Message]:
        """What is there, at most ``batch``; waits for the first one alone."""

    async def say(
        self, how: str, ack_ids: list[str], delay_ms: int = 0
    ) -> dict[str, str]:
        """``ack``, ``nack``, ``term`` or ``hold`` messages; ack id → why it failed."""
