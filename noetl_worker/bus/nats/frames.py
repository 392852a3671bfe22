"""Cutting the bytes of a broker into its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Deliver: TypeAlias = Callable[[int, bytes, bytes, bytes, "bytes | None"], None]
"""Takes subscription id, subject, reply subject, payload and raw header block."""

_HEADED = {b"MSG": False, b"HMSG": True}


class Frames:
    """Cuts what a server says into messages, and everything else.

    ``MSG <subject> <sid> [<reply>] <size>`` and ``HMSG <subject> <sid> [<reply>]
    <size of headers> <size>`` are delivered; any other line, a broken one too, goes to
    ``others`` as it is.
    """

    def __init__(self, deliver: Deliver, others: Callable[[bytes], None]) -> None:
        self._deliver = deliver
        self._others = others
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """The next bytes, cut anywhere."""
        if self._rest:
            data = self._rest + data
        start, size = 0, len(data)
        while start < size:
            line_end = data.find(b"\r\n", start)
            if line_end < 0:
                break
            after = self._message(data, start, line_end, size)
            if after == 0:
                break
            start = after
        self._rest = data[start:]

    def _message(self, data: bytes, start: int, line_end: int, size: int) -> int:
        """Where the next frame begins; 0 while this one is not all there."""
        words = data[start:line_end].split()
        body = line_end + 2
        try:
            headed = _HEADED[words[0]]
            end = body + int(words[-1])
            payload = body + int(words[-2]) if headed else body
            if end + 2 > size:
                return 0
            headers = data[body:payload] if headed else None
            reply = words[3] if len(words) == 5 + headed else b""
            self._deliver(int(words[2]), words[1], reply, data[payload:end], headers)
        except (KeyError, ValueError, IndexError):
            self._others(data[start:body])  # who complains when it is broken
            return body
        return end + 2
