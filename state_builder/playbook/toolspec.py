"""One tool: keys under ``spec`` merged up, aliases resolved, its own blocks canonical.

A tool is first flattened into fields that remember where they stand (PB-062, PB-063),
so that a workbook reference can be laid over its action (PB-081); then configured: the
JSON a command carries. What belongs to the kind is passed on as written.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from state_builder.playbook.findings import (
    Block,
    Report,
    as_number,
    as_seconds,
    is_template,
)
from state_builder.playbook.policy import Standing, eval_rules, retry_of, rules_of
from state_builder.playbook.source import Path
from state_builder.playbook.texts import refuse_durable_secrets
from state_builder.playbook.variables import SET_KEYS, tool_variables
from state_builder.records import JSON

KINDS: Final = frozenset(
    [
        "python",
        "http",
        "postgres",
        "duckdb",
        "ducklake",
        "snowflake",
        "transfer",
        "snowflake_transfer",
        "shell",
        "script",
        "container",
        "nats",
        "artifact",
        "result_fetch",
        "playbook",
        "workbook",
        "noop",
        "subscription",
        "agent",
        "mcp",
        "rhai",
        "wasm",
        "secrets",
        "gcs",
        "s3",
        "provider",
        "gateway",
        "task_sequence",
    ]
)
"""Literal kinds that may stand in a playbook (PB-064)."""

SEQUENCE: Final = "task_sequence"
WORKBOOK: Final = "workbook"

_HINTS = {"iterator": "use loop", "playbooks": "use playbook"}
STORE_KINDS: Final = (
    *("auto", "object", "disk", "s3", "gcs", "azure", "kv", "db", "memory"),
)
"""TL-RR-50."""

STORE_SCOPES: Final = ("step", "execution", "workflow", "permanent")
_STORE_KEYS: Final = frozenset({"kind", "scope", "ttl", "fallback"})
_OUTPUT_KEYS: Final = frozenset({"store", "output_select", "inline_max_bytes"})
"""``compression`` and ``preview_max_bytes`` are promised nowhere: tables are always
compressed, and a preview is short."""

_OWNED = frozenset(
    {
        "kind",
        "name",
        "input",
        "spec",
        "output",
        "output_select",
        "spec.result",
        "retry",
        "timeout",
        "timeout_seconds",
        "eval",
        "policy",
        *SET_KEYS,
    }
)


class Field(Struct, frozen=True):
    """A value of a tool and where it stands."""

    value: JSON
    path: Path


Fields = dict[str, Field]


def flatten(report: Report, tool: dict[str, JSON], path: Path) -> Fields:
    """A tool's keys with ``spec`` merged up; a key at the tool's top wins (PB-062)."""
    block = Block(report, path, tool)
    kind = tool.get("kind")
    fields = _level(block.block("spec"), kind)
    for key in ("kind", "name"):
        fields.pop(key, None)
    if "result" in fields:
        # Where results go; at the tool's top it would be what a noop returns.
        fields["spec.result"] = fields.pop("result")
    parts = fields.get("timeout")
    if parts is not None and isinstance(parts.value, dict):
        # {connect, read} is http's own and stays where it is (TL-SPC-06).
        del fields["timeout"]
        fields["spec"] = Field({"timeout": parts.value}, block.at("spec"))
    own = _level(block, kind)
    own.pop("spec", None)
    if kind == "noop" and "result" in tool:
        # To return null is not the same as to return nothing of its own.
        own["result"] = Field(tool["result"], block.at("result"))
    return {**fields, **own}


def _level(block: Block, kind: JSON) -> Fields:
    """Fields of one map, aliases resolved (PB-063)."""
    fields = {
        key: Field(value, block.at(key))
        for key, value in block.value.items()
        if value is not None
    }
    if "endpoint" in fields and kind == "http":
        fields.setdefault("url", fields.pop("endpoint"))
    if isinstance(block.get("credential"), str):
        fields.setdefault("auth", fields.pop("credential"))
    if "timeout_seconds" in fields:
        fields.setdefault("timeout", fields.pop("timeout_seconds"))
    # A container's ``args`` is the argument list of its process (PB-048).
    keys = ("input",) if kind == "container" else ("args", "input")
    given = [fields.pop(key) for key in keys if key in fields]
    if given:
        merged: dict[str, JSON] = {}
        for key in keys:
            merged.update(block.block(key).value)
        fields["input"] = Field(merged, given[-1].path)
    return fields


def kind_of(report: Report, fields: Fields, path: Path) -> str:
    """The literal kind; empty after a finding (PB-713)."""
    field = fields.get("kind")
    if field is None:
        report.error("PB-713", path, "tool.kind is required")
        return ""
    if isinstance(field.value, str) and field.value in KINDS:
        return field.value
    if not isinstance(field.value, str):
        report.wrong(field.path, field.value, "a text")
        return ""
    hint = f" ({_HINTS[field.value]})" if field.value in _HINTS else ""
    report.error("PB-713", field.path, f"unknown tool kind '{field.value}'{hint}")
    return ""


def overlaid(action: Fields, reference: Fields) -> Fields:
    """A workbook action under its reference: ``input`` key by key (PB-081)."""
    naming = {"kind", "name", "task", "action"}
    over = {key: field for key, field in reference.items() if key not in naming}
    below, above = action.get("input"), over.get("input")
    if below is not None and above is not None:
        assert isinstance(below.value, dict) and isinstance(above.value, dict)
        over["input"] = Field({**below.value, **above.value}, above.path)
    return {**action, **over}


def configured(
    report: Report, fields: Fields, kind: str, standing: Standing
) -> dict[str, JSON]:
    """What a command carries of one tool, in the form :class:`model.Step` describes."""
    config: dict[str, JSON] = {"kind": kind}
    for key, field in fields.items():
        if key not in _OWNED:
            config[key] = field.value
    if kind == "secrets" and "name" in fields:
        config["name"] = fields["name"].value
    if "spec" in fields:
        config["spec"] = fields["spec"].value
    if "input" in fields and fields["input"].value:
        config["input"] = fields["input"].value
    config.update(_assigning(report, fields))
    rules = _rules(report, fields, standing)
    if rules:
        config["policy"] = rules
    if "retry" in fields:
        config["retry"] = dict(retry_of(_as_block(report, fields["retry"])))
    output = output_of(report, fields)
    if output:
        config["output"] = output
    timeout = timeout_of(report, fields)
    if timeout is not None:
        config["timeout"] = timeout
    return config


def pool_of(fields: Fields) -> str:
    """A worker pool named at the tool; a map is a pool of connections (RT-NATS-3)."""
    field = fields.get("pool")
    if field is None or not isinstance(field.value, str):
        return ""
    del fields["pool"]
    return field.value


def _as_block(report: Report, field: Field) -> Block:
    if isinstance(field.value, dict):
        return Block(report, field.path, field.value)
    report.wrong(field.path, field.value, "a map")
    return Block(report, field.path, {})


def _assigning(report: Report, fields: Fields) -> dict[str, JSON]:
    values: dict[str, JSON] = {}
    for key in SET_KEYS:
        if key in fields:
            field = fields[key]
            block = Block(report, field.path[:-1], {key: field.value})
            values.update(tool_variables(block, key))
            refuse_durable_secrets(report, values, field.path)
    return {"set": values} if values else {}


def _rules(report: Report, fields: Fields, standing: Standing) -> list[JSON]:
    rules: list[JSON] = []
    if "policy" in fields:
        rules += rules_of(_as_block(report, fields["policy"]), standing)
    if "eval" in fields:
        field = fields["eval"]
        rules += eval_rules(report, field.value, field.path, standing)
    return rules


def timeout_of(report: Report, fields: Fields) -> JSON:
    """The tool's own timeout in seconds, or the template that gives it."""
    field = fields.get("timeout")
    if field is None or is_template(field.value):
        return None if field is None else field.value
    seconds = as_seconds(field.value)
    if seconds is not None and seconds > 0:
        return seconds
    report.wrong(field.path, field.value, "a positive number of seconds or like 30s")
    return None


def output_of(report: Report, fields: Fields) -> dict[str, JSON]:
    """``output`` in its one form (PB-342, TL-OS-01).

    ``{"store"?: {"kind", …}, "output_select"?: [path or {path, as}…],
    "inline_max_bytes"?: n, …}``; ``spec.result`` and older ``output_select`` included.
    """
    result: dict[str, JSON] = {}
    path: Path = ()
    if "spec.result" in fields:
        block = _as_block(report, fields["spec.result"])
        renamed = {"select": "output_select"}
        result = {renamed.get(key, key): item for key, item in block.value.items()}
        path = block.path
    if "output_select" in fields:
        field = fields["output_select"]
        result["output_select"] = field.value
        path = field.path[:-1]
    if "output" in fields:
        block = _as_block(report, fields["output"])
        result.update(block.value)
        path = block.path
    return _checked_output(Block(report, path, result)) if result else {}


def _store_of(block: Block) -> dict[str, JSON]:
    """``{kind, scope, ttl_s?, fallback?}`` (TL-OS-01, TL-OS-04, TL-RR-54)."""
    block.warn_ignored(_STORE_KEYS)
    found: dict[str, JSON] = {"kind": block.choice("kind", STORE_KINDS, "auto")}
    scope = block.choice("scope", STORE_SCOPES, "execution")
    if "scope" in block.value:
        found["scope"] = scope
    ttl_s = block.seconds("ttl")
    if ttl_s:
        found["ttl_s"] = ttl_s
    if block.flag("fallback"):
        found["fallback"] = True
    return found


def _checked_output(block: Block) -> dict[str, JSON]:
    result: dict[str, JSON] = {
        key: value for key, value in block.value.items() if value is not None
    }
    if isinstance(block.get("output_select"), dict):
        older = block.block("output_select")
        threshold = as_number(older.get("threshold_kb"))
        del result["output_select"]
        if threshold is not None and threshold >= 0:
            result.setdefault("inline_max_bytes", int(threshold * 1024))
        elif older.get("threshold_kb") is not None:
            value = older.get("threshold_kb")
            block.report.wrong(older.at("threshold_kb"), value, "a number")
    else:
        for entry in block.items("output_select"):
            named = entry.get("path") if isinstance(entry, dict) else entry
            if not isinstance(named, str):
                at = block.at("output_select")
                block.report.wrong(at, entry, "a list of paths")
    block.warn_ignored(_OUTPUT_KEYS)
    store = block.get("store")
    if isinstance(store, str):
        block = Block(
            block.report, block.path, {**block.value, "store": {"kind": store}}
        )
    if store is not None:
        result["store"] = _store_of(block.block("store"))
    inline = block.get("inline_max_bytes")
    number = as_number(inline)
    if inline is not None and (number is None or number < 0):
        block.report.wrong(block.at("inline_max_bytes"), inline, "a number of bytes")
    elif number is not None:
        result["inline_max_bytes"] = int(number)
    return result
