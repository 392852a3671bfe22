"""What each kind is for and takes, as data: ``kinds/<kind>.toml`` beside its code.

One source for ``noetl tools``, for the fields a document may use without a warning
(TL-SPC-07) and for the tests that hold code and words together. Reading it needs none
of the libraries a kind is built on.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Final

from msgspec import Struct, convert

from state_builder.errors import NotFoundError
from state_builder.records import JSON

_FOLDER: Final = Path(__file__).with_name("kinds")

COMMON: Final = frozenset(
    (
        *("kind", "name", "label", "desc", "timeout", "timeout_seconds", "retry"),
        *("auth", "credential", "input", "args", "spec", "set", "set_ctx", "set_iter"),
        *("output", "output_select", "sink", "eval", "policy", "pool"),
    )
)
"""Keys every kind may carry; they belong to the runner (TL-SPC-01)."""


class FieldManual(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One field.

    Attributes:
        type: what people call its type: ``text``, ``map``, ``list of texts`` …
        default: what holds where it is absent, in words; empty when nothing does.
        also: other spellings that mean the same.
    """

    type: str
    meaning: str
    default: str = ""
    required: bool = False
    also: tuple[str, ...] = ()


class Manual(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind.

    Attributes:
        line: what it does, in one line.
        needs: what this worker must have for it, in words; empty = nothing.
        result: the shape of its data.
        fields: its own fields; those of :data:`COMMON` are understood.
        errors: error kind → when it comes.
        example: a playbook that runs.
        notes: what its users get wrong.
    """

    line: str
    result: str
    example: str
    needs: str = ""
    fields: dict[str, FieldManual] = {}
    errors: dict[str, str] = {}
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Every spelling of every field, those of the runner included."""
        own = {name for key, one in self.fields.items() for name in (key, *one.also)}
        return COMMON | own


@cache
def manual_of(kind: str) -> Manual:
    """The manual of a kind. Raises NotFoundError for a kind that has none."""
    try:
        text = (_FOLDER / f"{kind}.toml").read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(documented())
        text = f"no tool kind '{kind}' is documented (known: {known})"
        raise NotFoundError(text) from None
    found: dict[str, JSON] = tomllib.loads(text)
    return convert(found, Manual)


def known_fields(kind: str) -> frozenset[str] | None:
    """What a tool of the kind may carry; None for a kind of a plug-in, or of nobody."""
    kind = "transfer" if kind == "snowflake_transfer" else kind
    return manual_of(kind).names if kind in documented() else None


@cache
def documented() -> list[str]:
    """Every kind that has a manual, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))
