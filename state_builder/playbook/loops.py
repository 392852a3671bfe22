"""A step's ``loop`` and its cursor form (§8, §9)."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Raw

from state_builder.playbook.findings import Block, as_number, is_template, shortened
from state_builder.playbook.model import Cursor, Loop
from state_builder.playbook.texts import refuse_secrets
from state_builder.playbook.toolspec import KINDS, flatten
from state_builder.records import JSON, encode_json

MODES: Final = ("sequential", "parallel", "cursor")

_LOOP_KEYS = frozenset({"in", "iterator", "spec", "cursor", "pagination"})
_SPEC_KEYS = frozenset({"mode", "max_in_flight", "policy", "frame"})
_ADVISORY = frozenset(
    {"max_seconds", "max_bytes", "lease_seconds", "heartbeat_seconds"}
)
_FRAME_KEYS = _ADVISORY | {"max_rows", "row_concurrency", "process"}


def loop_of(step: Block) -> Loop | None:
    """The loop of a step; None when it has none."""
    block = step.block("loop")
    if not isinstance(step.get("loop"), dict):
        return None
    block.warn_ignored(_LOOP_KEYS)
    report = step.report
    if "pagination" in block.value:
        text = (
            "'loop.pagination' blocks are not allowed in canonical format: "
            "page with a pipeline and `do: jump`"
        )
        report.error("PB-709", block.at("pagination"), text)
    spec = block.block("spec")
    spec.warn_ignored(_SPEC_KEYS)
    mode = _mode(spec)
    cursor = _cursor(block, spec, mode)
    if mode != "cursor":
        _require_collection(block, mode)
    return Loop(
        iterator=_iterator(block),
        mode=mode,
        collection=None if mode == "cursor" else block.get("in"),
        max_in_flight=_count(spec, "max_in_flight"),
        cursor=cursor,
    )


def _mode(spec: Block) -> Literal["sequential", "parallel", "cursor"]:
    match spec.get("mode"):
        case None | "sequential":
            return "sequential"
        case "parallel":
            return "parallel"
        case "cursor":
            return "cursor"
        case other:
            expected = ", ".join(MODES)
            text = f"loop.spec.mode invalid: {shortened(other)} is none of {expected}"
            spec.report.error("PB-720", spec.at("mode"), text)
            return "sequential"


def _iterator(block: Block) -> str:
    value = block.get("iterator")
    if value is None or value == "":
        text = "loop.iterator must not be empty"
        block.report.error("PB-718", block.at("iterator"), text)
    elif not isinstance(value, str) or not value.isidentifier():
        text = f"loop.iterator must be an identifier, got {shortened(value)}"
        block.report.error("PB-718", block.at("iterator"), text)
    else:
        return value
    return "item"


def _require_collection(block: Block, mode: str) -> None:
    value = block.get("in")
    if value is None or value == "":
        text = f"loop requires `in:` (the collection expression) for mode={mode}"
        block.report.error("PB-717", block.path, text)
    elif isinstance(value, bool | float):
        wanted = "a template, a list, a map or a whole number"
        block.report.wrong(block.at("in"), value, wanted)
    else:
        refuse_secrets(block.report, value, block.at("in"), "loop.in")


def _cursor(block: Block, spec: Block, mode: str) -> Cursor | None:
    given = block.get("cursor") is not None
    problem = ""
    if mode != "cursor":
        problem = f" (found one with mode={mode})" if given else ""
    elif not given:
        problem = " (found none)"
    elif block.get("in") is not None:
        problem = " and takes no `in:`"
    elif not _is_claim(block.block("cursor").get("claim")):
        problem = " (`claim` is missing or no text)"
    if problem:
        text = (
            "loop.spec.mode=cursor requires a loop.cursor block with a claim query"
            + problem
        )
        block.report.error("PB-719", block.path, text)
    if mode != "cursor":
        return None
    frame = spec.block("frame")
    frame.warn_ignored(_FRAME_KEYS)
    kind, claim = _claim(block.block("cursor"))
    return Cursor(
        kind=kind,
        claim=claim,
        max_rows=_count(frame, "max_rows", 1),
        row_concurrency=_count(frame, "row_concurrency", 1),
        whole_frame=_whole_frame(frame),
    )


def _is_claim(value: JSON) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _claim(cursor: Block) -> tuple[str, Raw]:
    """The claim command's tool: the cursor's keys with ``claim`` as ``query``."""
    kind = cursor.text("kind") or "postgres"
    if kind not in KINDS:
        text = f"unknown tool kind '{kind}'"
        cursor.report.error("PB-713", cursor.at("kind"), text)
    fields = flatten(cursor.report, {**cursor.value, "kind": kind}, cursor.path)
    config = {key: field.value for key, field in fields.items() if key != "claim"}
    return kind, Raw(encode_json({**config, "query": cursor.get("claim")}))


def _count(block: Block, key: str, default: JSON = None) -> JSON:
    """A whole number from 1, or the template that gives one (PB-720)."""
    value = block.get(key)
    if value is None:
        return default
    if is_template(value):
        refuse_secrets(block.report, value, block.at(key), f"loop.spec.{key}")
        return value
    number = as_number(value)
    if number is not None and number >= 1 and number == int(number):
        return int(number)
    where = ".".join(str(part) for part in block.at(key)[2:])
    text = f"{where} invalid: {shortened(value)} is no whole number from 1"
    block.report.error("PB-720", block.at(key), text)
    return default


def _whole_frame(frame: Block) -> bool:
    process = frame.get("process")
    if process not in (None, "row", "frame"):
        wrong = f"{shortened(process)} is neither row nor frame"
        text = f"loop.spec.frame.process invalid: {wrong}"
        frame.report.error("PB-720", frame.at("process"), text)
    return process == "frame"
