"""Files of tools: below the data directory and the configured roots, nowhere else."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tools.contract import ToolLimits
from tools.errors import ToolCallError, configuration


def roots(limits: ToolLimits) -> list[Path]:
    """Directories tools may read and write, symlinks resolved (TL-SEC-04)."""
    given = (limits.data_dir, limits.script_root, *limits.file_roots)
    return [Path(root).resolve() for root in given if root]


def confined(path: str, limits: ToolLimits, *, field: str, base: str = "") -> Path:
    """The real place of a path; a relative one is below ``base``, else the data.

    Raises ToolCallError of ``configuration`` naming ``field`` when it is outside.
    """
    if "\0" in path:
        raise configuration(f"{field}: a path cannot contain NUL")
    allowed = roots(limits)
    place = (Path(base or allowed[0]) / path).resolve()
    if not any(place.is_relative_to(root) for root in allowed):
        raise _outside(path, field)
    return place


def _outside(path: str, field: str) -> ToolCallError:
    return configuration(
        f"{field}: '{path}' is outside the directories tools may use; "
        "add its directory to the file roots"
    )


def directory(path: str, limits: ToolLimits, *, field: str) -> str:
    """A confined path that is a directory."""
    place = confined(path, limits, field=field)
    if not place.is_dir():
        raise configuration(f"{field}: '{path}' is not a directory")
    return str(place)


def make_scratch(limits: ToolLimits, name: str) -> str:
    """A fresh directory that only this process enters."""
    parent = roots(limits)[0] / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=f"{name}-", dir=parent)


def remove_scratch(path: str) -> None:
    """Remove a scratch directory and all in it; what cannot be removed stays."""
    shutil.rmtree(path, ignore_errors=True)
