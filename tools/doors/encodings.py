"""Compressed bodies, unpacked no further than they are wanted.

A few kilobytes can unpack to gigabytes; a decoder is told how much room there is and
stops there (TL-LIM-04).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

ENCODINGS: Final = "gzip, deflate"
"""What is asked for; what comes in another encoding is given as it is."""


PIECE_BYTES: Final = 256 * 1024
"""Most that is unpacked at once."""


class Decoder(Protocol):
    """Unpacks a body piece by piece."""

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """What a chunk unpacks to, a little at a time. Raises zlib.error."""


class Identity:
    """A body that is not packed."""

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """The chunk itself."""
        yield chunk


class Inflate:
    """gzip, also in several members, and both kinds of deflate."""

    _GZIP: Final = 31
    _ZLIB: Final = 15
    _RAW: Final = -15

    def __init__(self, window: int) -> None:
        self._window = window
        self._stream = zlib.decompressobj(window)
        self._began = False

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """What a chunk unpacks to; nothing is unpacked before it is asked for."""
        more = True
        while more:
            if self._stream.eof:
                self._stream = zlib.decompressobj(self._window)
            found = self._inflated(chunk)
            if found:
                yield found
            chunk = self._stream.unconsumed_tail or self._stream.unused_data
            # A full piece may have left some inside, with nothing left to feed.
            more = bool(chunk) or len(found) == PIECE_BYTES

    def _inflated(self, chunk: bytes) -> bytes:
        try:
            return self._stream.decompress(chunk, PIECE_BYTES)
        except zlib.error:
            if self._began or self._window != self._ZLIB:
                raise
            # "deflate" is zlib by the book and bare deflate by habit.
            self._window = self._RAW
            self._stream = zlib.decompressobj(self._RAW)
            return self._stream.decompress(chunk, PIECE_BYTES)
        finally:
            self._began = True


def decoder_of(encoding: str) -> Decoder:
    """The decoder of a ``Content-Encoding``."""
    name = encoding.strip().lower()
    if name in ("gzip", "x-gzip"):
        return Inflate(Inflate._GZIP)
    return Inflate(Inflate._ZLIB) if name == "deflate" else Identity()
