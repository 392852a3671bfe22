"""Compressed bodies, unpacked no further than they are wanted.

A few kilobytes can unpack to gigabytes; a decoder is told how much room there is and
stops there (TL-LIM-04).
"""

from __future__ import annotations

import zlib
from typing import Final, Protocol

ENCODINGS: Final = "gzip, deflate"
"""What is asked for; what comes in another encoding is given as it is."""


class Decoder(Protocol):
    """Unpacks a body piece by piece."""

    def take(self, chunk: bytes, room: int) -> bytes:
        """At most ``room`` bytes more. Raises zlib.error."""


class Identity:
    """A body that is not packed."""

    def take(self, chunk: bytes, room: int) -> bytes:
        """The piece itself."""
        return chunk[:room]


class Inflate:
    """gzip, also in several members, and both kinds of deflate."""

    _GZIP: Final = 31
    _ZLIB: Final = 15
    _RAW: Final = -15

    def __init__(self, window: int) -> None:
        self._window = window
        self._stream = zlib.decompressobj(window)
        self._began = False

    def take(self, chunk: bytes, room: int) -> bytes:
        """What the piece unpacks to; the rest of it is dropped when room runs out."""
        found = bytearray()
        while chunk and len(found) < room:
            if self._stream.eof:
                self._stream = zlib.decompressobj(self._window)
            found += self._inflated(chunk, room - len(found))
            chunk = self._stream.unused_data
        return bytes(found)

    def _inflated(self, chunk: bytes, room: int) -> bytes:
        try:
            return self._stream.decompress(chunk, room)
        except zlib.error:
            if self._began or self._window != self._ZLIB:
                raise
            # "deflate" is zlib by the book and bare deflate by habit.
            self._window = self._RAW
            self._stream = zlib.decompressobj(self._RAW)
            return self._stream.decompress(chunk, room)
        finally:
            self._began = True


def decoder_of(encoding: str) -> Decoder:
    """The decoder of a ``Content-Encoding``."""
    name = encoding.strip().lower()
    if name in ("gzip", "x-gzip"):
        return Inflate(Inflate._GZIP)
    return Inflate(Inflate._ZLIB) if name == "deflate" else Identity()
