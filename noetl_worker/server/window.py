"""The newest messages of the log, kept as they were read.

A stream that opens on a young execution finds its past here and asks the broker for
nothing: a consumer made for one look costs the broker more than ten steps do.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile

from state_builder.ports import LogMessage


class Window:
    """Bounded by bytes; holds everything read after :attr:`begins`, in order.

    Attributes:
        begins: sequence after which nothing is missing.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._messages: deque[LogMessage] = deque()
        self._bytes = 0
        self.begins = 0

    def restart(self, after: int) -> None:
        """Reading starts anew after this sequence."""
        self._messages.clear()
        self._bytes = 0
        self.begins = after

    def add(self, message: LogMessage) -> None:
        """The next message; the oldest leave where there is no room."""
        self._messages.append(message)
        self._bytes += len(message.data)
        while self._bytes > self._bytes_max:
            oldest = self._messages.popleft()
            self._bytes -= len(oldest.data)
            self.begins = oldest.sequence

    def since(self, after: int) -> list[LogMessage] | None:
        """What was read after a sequence; None when that is no longer all here."""
        if after < self.begins:
            return None
        newer = takewhile(lambda one: one.sequence > after, reversed(self._messages))
        return list(newer)[::-1]
