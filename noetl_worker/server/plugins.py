"""Plug-in modules as the server keeps them: bytes by digest, versions that name them.

The bytes are stored before the version that names them, so a version never points at
nothing; registering the same version again replaces it (TL-WA-01, TL-WA-08).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from msgspec import Struct
from msgspec.json import Decoder, encode

from state_builder.errors import ConflictError, InvalidError, NotFoundError
from state_builder.ports import Blobs

PLUGIN_BUCKET: Final = "noetl_plugins"
MODULE_BYTES_MAX: Final = 32 << 20
VERSION_MAX: Final = 2**31

CAPABILITIES: Final = frozenset(("event_publish", "result_put", "object_put"))
"""Host functions a plug-in may be granted (TL-WA-04)."""

_PATH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?:/[A-Za-z0-9][A-Za-z0-9_.-]*)*")


class PluginVersion(Struct, frozen=True, kw_only=True):
    """A registered version; ``bytes`` is the size of its module."""

    path: str
    version: int
    digest: str
    bytes: int
    media_type: str = "application/wasm"
    capabilities: tuple[str, ...] = ()


_decode = Decoder(PluginVersion).decode


class PluginStore:
    """Versions and modules in one bucket."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def put(
        self, path: str, version: int | None, code: bytes, wanted: PluginVersion
    ) -> PluginVersion:
        """Register a module; without a version as the next one of its path.

        ``wanted`` gives media type, capabilities and, where not empty, the digest the
        bytes must have. Raises InvalidError and ConflictError.
        """
        _check(path, code, wanted)
        digest = hashlib.sha256(code).hexdigest()
        if wanted.digest not in ("", digest):
            raise ConflictError(f"the module has the digest {digest}")
        known = await self._versions(path)
        number = version if version is not None else max(known, default=0) + 1
        if not 0 < number < VERSION_MAX:
            raise InvalidError("version must be a positive number")
        found = PluginVersion(
            path=path,
            version=number,
            digest=digest,
            bytes=len(code),
            media_type=wanted.media_type,
            capabilities=wanted.capabilities,
        )
        await self._blobs.put(f"module/{digest}", code)
        await self._blobs.put(_name(path, number), encode(found))
        return found

    async def find(self, path: str, version: int, digest: str) -> PluginVersion:
        """A version, 0 for the newest. Raises NotFoundError and ConflictError."""
        number = version or max(await self._versions(path), default=0)
        data = await self._blobs.get(_name(path, number)) if number else None
        if data is None:
            which = f" of version {version}" if version else ""
            raise NotFoundError(f"no plug-in '{path}'{which}")
        found = _decode(data)
        if digest not in ("", found.digest):
            text = f"plug-in '{path}' of version {number} has the digest {found.digest}"
            raise ConflictError(text)
        return found

    async def module(self, found: PluginVersion) -> bytes:
        """The bytes of a version."""
        code = await self._blobs.get(f"module/{found.digest}")
        if code is None:
            raise NotFoundError(f"the module of plug-in '{found.path}' is gone")
        return code

    async def _versions(self, path: str) -> list[int]:
        prefix = f"version/{path}@"
        names = await self._blobs.names(prefix)
        return [int(name.removeprefix(prefix)) for name in names]


def _name(path: str, version: int) -> str:
    return f"version/{path}@{version}"


def _check(path: str, code: bytes, wanted: PluginVersion) -> None:
    if len(path) > 200 or not _PATH.fullmatch(path):
        raise InvalidError(f"'{path[:200]}' cannot be the path of a plug-in")
    if not code:
        raise InvalidError("the module is empty")
    if len(code) > MODULE_BYTES_MAX:
        raise InvalidError(f"a module has at most {MODULE_BYTES_MAX:,} bytes")
    unknown = sorted(set(wanted.capabilities) - CAPABILITIES)
    if unknown:
        known = ", ".join(sorted(CAPABILITIES))
        raise InvalidError(f"no capability '{unknown[0]}' (known: {known})")
