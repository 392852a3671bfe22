"""Results with rows are stored by columns (TL-RR-51), and read as the JSON they were.

Arrow is loaded when the first table comes: roles that meet none do without its 60 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import anyio
from msgspec.json import decode as decode_json

from state_builder.records import encode_json

ARROW_TYPE: Final = "application/vnd.apache.arrow.file"
"""Media type of what is stored so."""

_INLINE_BYTES: Final = 256 * 1024
"""Up to here the work takes a few milliseconds and no thread of its own."""

T = TypeVar("T")


async def columnar(
    data: bytes, about: Mapping[str, str]
) -> tuple[bytes, Mapping[str, str]]:
    """The value by columns where it has rows and comes back byte for byte; and what
    its writer notes of it."""
    if b'"columns"' not in data or b'"rows"' not in data:
        return data, about
    packed = await _aside(_packed, data)
    if packed is None:
        return data, about
    noted = {"media_type": ARROW_TYPE, "value_bytes": str(len(data))}
    return packed, {**about, **noted}


async def from_columns(data: bytes) -> bytes:
    """The JSON that was stored by columns."""
    return await _aside(_unpacked, data)


async def _aside(work: Callable[[bytes], T], data: bytes) -> T:
    if len(data) <= _INLINE_BYTES:
        return work(data)
    return await anyio.to_thread.run_sync(work, data)


def _packed(data: bytes) -> bytes | None:
    from tools.arrow import pack

    return pack(decode_json(data))


def _unpacked(data: bytes) -> bytes:
    from tools.arrow import unpack

    return encode_json(unpack(data))
