"""The result of a loop: inline while it is small, else stored, maybe by parts."""

from __future__ import annotations

from msgspec import Raw
from msgspec.json import decode as decode_json

from state_builder.drive.bulk import described
from state_builder.drive.decision import Draft
from state_builder.locator import data_locator
from state_builder.records import JSON, decode_reference, encode_json
from state_builder.state import LoopRun, Outcome, aggregate
from state_builder.state.loops import assembled, loop_form, loop_rest
from state_builder.values import MANIFEST_TYPE, Manifest, Part


def collected(draft: Draft, step: str, visit: int, loop: LoopRun) -> Outcome:
    """The outcome of a finished loop.

    Raises LackingError until what is too large for the log is stored.
    """
    if loop.cursor is not None:
        return aggregate(loop)
    kind = "manifests" if loop.references else "collections"
    if loop.references:
        data = _manifest(loop)
        shown = assembled(b"", loop_rest(loop))
    else:
        if loop.size <= draft.turn.limits.inline_bytes_max:
            return aggregate(loop)
        data = shown = aggregate(loop).data
    eid = draft.turn.state.execution_id
    locator = data_locator(kind, eid, f"{step}.{visit}.results", data)
    about = {"form": loop_form(loop)}
    if loop.references:
        about["media_type"] = MANIFEST_TYPE
    kept = draft.turn.bulk.keep(locator, data, about)
    reference = described(kept, shown)
    if loop.references:
        reference = _by_parts(reference, loop)
    return Outcome(form=loop_form(loop), reference=bytes(reference))


def _manifest(loop: LoopRun) -> bytes:
    parts: list[Part] = []
    total = 0
    for index, value in enumerate(loop.results):
        stored = loop.references.get(index)
        if stored is None:
            parts.append(Part(value=Raw(value or b"null")))
            total += len(value or b"null")
        else:
            parts.append(stored)
            meta = decode_reference(stored.reference).meta
            total += meta.value_bytes or meta.bytes
    return encode_json(
        Manifest(
            parts=parts,
            total_parts=len(parts),
            total_bytes=total,
            rest=Raw(b"{" + loop_rest(loop) + b"}"),
        )
    )


def _by_parts(encoded: Raw, loop: LoopRun) -> Raw:
    """A reference whose list of elements is known by its length alone."""
    reference = decode_reference(encoded)
    reference.kind = "manifest"
    shown: JSON = decode_json(encode_json(reference.extracted))
    assert isinstance(shown, dict)
    shown["results"] = {"_count": loop.total}
    shown["_counts"] = {"results": loop.total}
    reference.extracted = shown
    reference.preview = ""
    return Raw(encode_json(reference))
