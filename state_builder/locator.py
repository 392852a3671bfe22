"""``noetl://`` references: parse, format, derive, and the object key behind one.

A reference names one immutable value. Its last part carries a version (``@…``) told
from the content or the run that made it, so that a worker that comes back late can
never put other bytes under a name that is in the log.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from state_builder.errors import InvalidError
from state_builder.ids import digest_of, snowflake_unix_ms

SCHEME: Final = "noetl://"
TENANT: Final = "default"
PROJECT: Final = "default"
_LEGACY: Final = "execution"
_PLACE: Final = 3
"""Segments behind the step of a result: frame, row, attempt."""

_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3


class Locator(NamedTuple):
    """A canonical reference (TL-RR-10).

    Attributes:
        kind: ``results``, ``contexts``, ``workloads``, ``collections``, ``objects`` …
        path: decoded segments; of execution data the execution id comes first.
    """

    kind: str
    path: tuple[str, ...]
    version: str = ""
    tenant: str = TENANT
    project: str = PROJECT

    def __str__(self) -> str:
        parts = (self.tenant, self.project, self.kind, *self.path)
        text = SCHEME + "/".join(quote(part, safe="") for part in parts)
        return f"{text}@{quote(self.version, safe='')}" if self.version else text

    @property
    def execution_id(self) -> str:
        """Whose data it is; empty when it belongs to no execution."""
        first = self.path[0]
        return first if first.isdecimal() and self.kind != "objects" else ""


class ResultPlace(NamedTuple):
    """The parts of a result's path, read from the right: a step may hold a slash."""

    execution_id: str
    step: str
    frame: str
    row: str
    attempt: str


class LegacyLocator(NamedTuple):
    """``noetl://execution/<eid>/result/<name>/<id>``."""

    execution_id: str
    name: str
    result_id: str

    def __str__(self) -> str:
        name = quote(self.name, safe="/")
        return f"{SCHEME}{_LEGACY}/{self.execution_id}/result/{name}/{self.result_id}"


class KeyRoot(NamedTuple):
    """Where a fleet's objects lie in a store it may share (TL-RR-12)."""

    env: str = "local"
    region: str = "local"
    cell: str = "local"


def parse(text: str) -> Locator | LegacyLocator:
    """A reference of either form. Raises InvalidError that says what is wrong."""
    if not text.startswith(SCHEME):
        raise InvalidError(f"'{text[:80]}' is no noetl:// reference")
    body, _, version = text[len(SCHEME) :].partition("@")
    segments = [_segment(part, text) for part in body.split("/")]
    if segments[0] == _LEGACY:
        return _legacy(segments, text)
    if len(segments) < 4:
        raise InvalidError(
            f"reference '{text[:80]}': wanted noetl://tenant/project/kind/path"
        )
    tenant, project, kind, *path = segments
    found = _segment(version, text) if version else ""
    return Locator(kind, tuple(path), found, tenant, project)


def _segment(part: str, text: str) -> str:
    found = unquote(part, errors="strict") if "%" in part else part
    control = any(ord(letter) < 32 or ord(letter) == 127 for letter in found)
    if found in ("", ".", "..") or control:
        raise InvalidError(f"reference '{text[:80]}' has a part that is not allowed")
    return found


def _legacy(segments: list[str], text: str) -> LegacyLocator:
    whole = len(segments) >= 5 and segments[2] == "result"
    if not whole or not segments[1].isdecimal() or not segments[-1].isdecimal():
        raise InvalidError(
            f"reference '{text[:80]}': wanted noetl://execution/<id>/result/<name>/<id>"
        )
    return LegacyLocator(segments[1], "/".join(segments[3:-1]), segments[-1])


def result_place(locator: Locator) -> ResultPlace:
    """Step, frame, row and attempt of a result. Raises InvalidError."""
    if locator.kind != "results" or len(locator.path) < _PLACE + 2:
        raise InvalidError(f"'{locator}' names no result of a step")
    frame, row, attempt = locator.path[-_PLACE:]
    step = "/".join(locator.path[1:-_PLACE])
    return ResultPlace(locator.path[0], step, frame, row, attempt)


def result_locator(place: ResultPlace, version: str) -> Locator:
    """The canonical name of a step's result."""
    return Locator("results", (*place._replace(step=safe(place.step)),), version)


def place_of(
    execution_id: str, step: str, visit: int, iteration: str, attempt: int
) -> ResultPlace:
    """Where the result of a command belongs.

    The frame tells the visit of the step, and the claimed frame of a cursor loop
    (``2-f7``); the row the iteration.
    """
    frame, row = str(visit), iteration or "0"
    if iteration.startswith("f"):
        claimed, _, row = iteration.partition("r")
        frame = f"{visit}-{claimed}"
        row = row or "claim"
    return ResultPlace(execution_id, step, frame, row, str(attempt))


def data_locator(kind: str, execution_id: str, name: str, data: bytes) -> Locator:
    """A name for other data of an execution, told by its content."""
    return Locator(kind, (execution_id, safe(name)), digest_of(data))


def safe(segment: str) -> str:
    """The segment itself, or its digest where it may not stand in a reference."""
    control = any(ord(letter) < 32 or ord(letter) == 127 for letter in segment)
    if segment in ("", ".", "..") or control:
        return digest_of(segment)
    return segment


def key_shard(locator: Locator) -> str:
    """The label that spreads keys: FNV-1a of tenant, project, execution (TL-RR-12)."""
    found = _FNV_OFFSET
    text = "\x1f".join((locator.tenant, locator.project, locator.path[0]))
    for byte in text.encode():
        found = ((found ^ byte) * _FNV_PRIME) & 0xFFFF_FFFF_FFFF_FFFF
    return f"s{found % 256:04d}"


def object_key(locator: Locator, root: KeyRoot) -> str:
    """The physical key, computed from the reference and settings alone (TL-RR-12)."""
    eid = locator.execution_id
    owner = f"execution={eid}" if eid else "execution=none"
    rest = locator.path[1:] if eid else locator.path
    parts = [
        "noetl",
        f"env={root.env}",
        f"region={root.region}",
        f"cell={root.cell}",
        f"shard={key_shard(locator)}",
        f"tenant={_key_part(locator.tenant)}",
        f"project={_key_part(locator.project)}",
        f"date={_day(eid)}",
        owner,
        _key_part(locator.kind),
        *map(_key_part, rest),
    ]
    version = f"@{_key_part(locator.version)}" if locator.version else ""
    return "/".join(parts) + version


def _key_part(text: str) -> str:
    return quote(text, safe="")


def _day(execution_id: str) -> str:
    """The day an execution began, out of its id."""
    if not execution_id:
        return "none"
    unix_ms = snowflake_unix_ms(int(execution_id))
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d")
