"""What registering reads of a document: kind, path, and what catalog rows show of it.

Any document with metadata and a known kind is stored, also a playbook with errors:
editors save drafts (PB-700). What is refused here is what nobody could find again
(RT-CAT-2, RT-CAT-4) and a subscription that could not run (RT-CAT-7).
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator
from typing import Final, NamedTuple

from msgspec import Raw

from noetl_worker.server.subscription import subscription_faults
from state_builder.errors import InvalidError
from state_builder.playbook.source import Document, read
from state_builder.records import JSON, encode_json

KINDS: Final = frozenset(
    {"playbook", "credential", "mcp", "agent", "memory", "subscription", "notebook"}
)
EXECUTABLE: Final = frozenset({"playbook", "agent", "notebook"})

PATH_MAX: Final = 500
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_PATH = re.compile(r"[^\s/@?#]+(?:/[^\s/@?#]+)*")
_HINT = re.compile(r"#\s*ui:(secret|enum|credential|description)(?:=(.*))?$")


class Registration(NamedTuple):
    """A document about to be stored."""

    path: str
    kind: str
    content: str
    layout: Raw | None
    payload: Raw | None
    meta: Raw | None


def content_text(content: str) -> str:
    """The document's text; clients send it plain or as base64 (RT-CAT, clients §9)."""
    # Base64 has no colon, and no document that could be stored is without one.
    if ":" in content or not _BASE64.fullmatch(content):
        return content
    try:
        return b64decode("".join(content.split()), validate=True).decode()
    except (Base64Error, UnicodeDecodeError):
        return content


def registration(content: str, resource_type: str) -> Registration:
    """Read what a catalog row needs.

    Raises:
        InvalidError: unreadable, or without what makes it findable; names the part.
    """
    text = content_text(content)
    document = read(text)
    metadata = document.value.get("metadata")
    if not isinstance(metadata, dict):
        raise InvalidError("Missing 'metadata' section")
    path = metadata.get("path") or metadata.get("name")
    if not isinstance(path, str) or not path:
        raise InvalidError("Missing 'path' or 'name' in metadata")
    if len(path) > PATH_MAX or not _PATH.fullmatch(path):
        raise InvalidError(
            f"metadata.path {path[:80]!r}: use words with / between them, without "
            f"spaces, @, ? and #, at most {PATH_MAX} characters"
        )
    kind = str(document.value.get("kind") or resource_type or "playbook").lower()
    if kind not in KINDS:
        raise InvalidError(
            f"unknown kind {kind!r}: use one of {', '.join(sorted(KINDS))}"
        )
    if kind == "subscription":
        faults = subscription_faults(document.value)
        if faults:
            raise InvalidError("; ".join(faults))
    return Registration(
        path,
        kind,
        text,
        _raw(document.value.get("workflow")),
        _raw(document.value.get("workload")),
        _raw(_meta(metadata)),
    )


def _meta(metadata: dict[str, JSON]) -> JSON:
    """Labels, with what people and agents look for merged in (RT-CAT-1)."""
    labels = metadata.get("labels")
    found = dict(labels) if isinstance(labels, dict) else {}
    for name in ("description", "title", "agent", "capabilities", "name", "tags"):
        if metadata.get(name) is not None:
            found[name] = metadata[name]
    return found


def _raw(value: JSON) -> Raw | None:
    return None if value is None else Raw(encode_json(value))


def form_fields(document: Document, text: str) -> list[JSON]:
    """The fields of a form for a playbook's workload, in its order (RT-CAT-8)."""
    workload = document.value.get("workload")
    if not isinstance(workload, dict):
        return []
    lines = text.splitlines()
    return list(_fields(document, lines, workload, ("workload",)))


def _fields(
    document: Document, lines: list[str], block: dict[str, JSON], path: tuple[str, ...]
) -> Iterator[JSON]:
    for name, default in block.items():
        place = (*path, name)
        field: dict[str, JSON] = {
            "name": name,
            "kind": _field_kind(default),
            "default": default,
        }
        number = document.line_of(place)
        if 0 < number <= len(lines):
            _refine(field, lines[number - 1])
        if isinstance(default, dict):
            field["children"] = list(_fields(document, lines, default, place))
        yield field


def _field_kind(value: JSON) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict) else "array"


def _refine(field: dict[str, JSON], line: str) -> None:
    """What a comment on the key's line says of it."""
    found = _HINT.search(line)
    if found is None:
        return
    hint, text = found[1], (found[2] or "").strip()
    if hint == "secret":
        field["secret"] = True
    elif hint == "enum":
        options = [part.strip() for part in text.strip("[]").split(",")]
        field["kind"] = "enum"
        field["options"] = [option for option in options if option]
    elif hint == "credential":
        field["credential_glob"] = text
    else:
        field["description"] = text
