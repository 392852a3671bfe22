"""``env`` and ``file``: secrets this server was given, for local use and mounts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio.to_thread

from noetl_worker.wallet.providers.source import (
    SecretRef,
    SecretValue,
    segments,
)
from state_builder.errors import InvalidError, NotFoundError, RefusedError

FILE_BYTES_MAX: Final = 64 * 1024
DEPTH_MAX: Final = 8


class EnvProvider:
    """Variables of an allow-list, NOETL_KEYCHAIN_ENV_VARS (SC-AL-04)."""

    def __init__(self, allowed: tuple[str, ...], values: Mapping[str, str]) -> None:
        self._allowed = allowed
        self._values = values

    async def fetch(self, ref: SecretRef) -> SecretValue:
        """The variable of that name."""
        (name,) = segments("env", ref.name, 1)
        if name not in self._allowed:
            raise RefusedError(
                f"provider env: {name} is not in NOETL_KEYCHAIN_ENV_VARS"
            )
        if name not in self._values:
            raise NotFoundError(f"provider env: {name} is not set on this server")
        return SecretValue(self._values[name])


class FileProvider:
    """Files below NOETL_SECRETS_DIR; read anew each time, so mounts may change."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    async def fetch(self, ref: SecretRef) -> SecretValue:
        """The file's text without the newline at its end."""
        if not self._folder:
            raise InvalidError("provider file: NOETL_SECRETS_DIR is not set")
        parts = segments("file", ref.name, DEPTH_MAX)
        return SecretValue(await anyio.to_thread.run_sync(self._read, parts))

    def _read(self, parts: list[str]) -> str:
        root = Path(self._folder).resolve()
        path = root.joinpath(*parts).resolve()
        # A link may lead out of the folder (TL-SEC-04).
        if not path.is_relative_to(root):
            raise RefusedError("provider file: the file lies outside of its folder")
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                raise InvalidError("provider file: the file is too large")
            return path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError("provider file: there is no such file") from error
        except OSError as error:
            raise RefusedError(f"provider file: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidError("provider file: the file is no UTF-8 text") from error
