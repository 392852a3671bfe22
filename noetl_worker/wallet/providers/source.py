"""What a provider is asked and what it answers; the grammar all refs share."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote

from state_builder.errors import InvalidError

REF_MAX: Final = 512

_SEGMENT: Final = re.compile(r"[A-Za-z0-9._\-]{1,253}")


class SecretRef(NamedTuple):
    """Which secret; what is empty comes from the settings (SC-PR-01)."""

    name: str
    project: str = ""
    version: str = ""
    region: str = ""


class SecretValue(NamedTuple):
    """A value, and until when it is good (Unix seconds)."""

    value: str
    version: str = ""
    expires_at: float | None = None


def segments(provider: str, text: str, most: int) -> list[str]:
    """The parts of a path, safe to stand in a URL or below a folder (SC-PR-03).

    Raises InvalidError for everything else: ``..``, an empty part, odd characters.
    """
    parts = text.split("/")
    good = len(text) <= REF_MAX and len(parts) <= most
    if not good or not all(_SEGMENT.fullmatch(p) and p.strip(".") for p in parts):
        raise bad_ref(provider, f"use 1 to {most} words of letters, digits, . _ -")
    return parts


def bad_ref(provider: str, hint: str) -> InvalidError:
    """A ref outside the provider's grammar; the ref itself is not repeated."""
    return InvalidError(f"provider {provider}: the ref is malformed: {hint}")


def quoted(part: str) -> str:
    """A path segment of a URL."""
    return quote(part, safe="")
