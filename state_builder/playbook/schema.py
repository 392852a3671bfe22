"""JSON Schema of a playbook, for editors: completion, hints, mistakes while typing.

It accepts whatever :func:`state_builder.playbook.parse` accepts and says less than it:
labels, targets and templates are beyond a schema. Draft 2020-12.
"""

from __future__ import annotations

from typing import Final

from state_builder.playbook.loops import MODES
from state_builder.playbook.parser import API_VERSIONS
from state_builder.playbook.policy import ACTIONS
from state_builder.playbook.toolspec import KINDS
from state_builder.records import JSON

SCHEMA_URI: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, JSON]

_NULL: Final[Schema] = {"type": "null"}
_BOOLEAN: Final[Schema] = {"type": ["boolean", "null"]}
_NAME: Final[Schema] = {"type": ["string", "number", "null"]}
_MAP: Final[Schema] = {"type": ["object", "null"]}
_TEMPLATE: Final[Schema] = {"type": "string", "pattern": r"\{\{|\{%"}


def document_schema() -> Schema:
    """The schema of the whole document, as plain JSON that the caller may change."""
    return {
        "$schema": SCHEMA_URI,
        "title": "NoETL playbook",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "workflow"],
        "properties": {
            "apiVersion": {"enum": [*API_VERSIONS]},
            "kind": {"type": "string", "pattern": _any_case("playbook agent notebook")},
            "metadata": _metadata(),
            "workload": _described(_MAP, "Default input; values may be templates."),
            "vars": _described(_MAP, "Older spelling of workload."),
            "workflow": {
                "type": "array",
                "minItems": 1,
                "items": _ref("step"),
                "description": "Steps; the one named start comes first.",
            },
            "workbook": _ref("workbook"),
            "keychain": {"type": ["array", "null"]},
            "executor": _ref("executor"),
            "spec": _described(_MAP, "Free data, readable as spec in templates."),
            "execution_pool": _text(),
        },
        "$defs": _definitions(),
    }


def _definitions() -> Schema:
    return {
        "condition": {
            "type": ["string", "boolean"],
            "minLength": 1,
            "description": "true, false, an expression, or a template.",
        },
        "seconds": {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                _duration(),
                _NULL,
            ],
            "description": "Seconds, or a text like 30s, 5m, 1h.",
        },
        "timeout": {"anyOf": [_ref("seconds"), _copied(_TEMPLATE)]},
        "count": {
            "anyOf": [
                {"type": "number", "minimum": 1, "multipleOf": 1},
                {"type": "string", "pattern": r"^\s*0*[1-9][0-9]*\s*$"},
                _copied(_TEMPLATE),
                _NULL,
            ]
        },
        "set": {
            "type": ["object", "null"],
            "propertyNames": {"minLength": 1, "not": {"pattern": r"^\.|\.\.|\.$"}},
            "description": "Variable (x, a.b, ctx.x) to value or template.",
        },
        "step": _step(),
        "tool": _tool(),
        "single": _single(),
        "task": _task(),
        "policy": _policy(),
        "rule": _rule(),
        "action": _action(),
        "retry": _retry(),
        "output": _output(),
        "loop": _loop(),
        "next": _next(),
        "arc": _arc(),
        "workbook": _workbook(),
        "executor": _executor(),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _copied(schema: Schema) -> Schema:
    return dict(schema)


def _described(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}


def _text() -> Schema:
    return {"type": ["string", "null"]}


def _choice(*words: str) -> Schema:
    return {"enum": [*words, None]}


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    found: Schema = {"type": ["object", "null"], "properties": {**properties}}
    if required:
        found["type"] = "object"
        found["required"] = [*required]
    return found


def _any_case(words: str) -> str:
    spelled = (
        "".join(f"[{letter}{letter.upper()}]" for letter in word)
        for word in words.split()
    )
    return f"^({'|'.join(spelled)})$"


def _duration() -> Schema:
    return {
        "type": "string",
        "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|h)?\s*$",
    }


def _metadata() -> Schema:
    return _object(
        {
            "name": {"type": "string", "minLength": 1},
            "path": _described(_text(), "Catalog path; the name when absent."),
            "title": _copied(_NAME),
            "description": _copied(_NAME),
            "version": _copied(_NAME),
            "labels": _copied(_MAP),
            "tags": {"type": ["array", "string", "null"]},
            "exposes_as_mcp": _copied(_BOOLEAN),
            "execution_pool": _text(),
        },
        "name",
    )


def _step() -> Schema:
    policy = _object(
        {
            "admit": _object(
                {
                    "mode": _choice("exclusive"),
                    "rules": {"type": ["array", "null"], "items": {"type": "object"}},
                }
            ),
            "failure": _object({"mode": _choice("fail_fast", "best_effort")}),
            "on_error": _choice("fail", "continue", "retry"),
        }
    )
    found = _object(
        {
            "step": {"type": "string", "minLength": 1, "not": {"pattern": "^__"}},
            "desc": _described({}, "What the step is for."),
            "tool": _ref("tool"),
            "when": _described(_ref("condition"), "The step is stepped over if false."),
            "input": _described(_MAP, "Data for the tool."),
            "args": _described(_MAP, "Older spelling of input."),
            "loop": _ref("loop"),
            "set": _ref("set"),
            "vars": _ref("set"),
            "next": _ref("next"),
            "output": _ref("output"),
            "retry": _ref("retry"),
            "spec": _object(
                {
                    "policy": policy,
                    "timeout": _ref("timeout"),
                    "retry": _ref("retry"),
                    "next_mode": _choice("exclusive", "inclusive"),
                    "on_error": _choice("fail", "continue", "retry"),
                    "pool": _text(),
                }
            ),
        },
        "step",
        "tool",
    )
    found["not"] = {"required": ["case"]}
    return found


def _tool() -> Schema:
    labelled: Schema = {
        "type": "object",
        "minProperties": 1,
        "not": {"required": ["kind"]},
        "additionalProperties": _ref("single"),
    }
    return {
        "anyOf": [
            _ref("single"),
            {"type": "array", "minItems": 1, "items": _ref("task")},
            labelled,
        ],
        "description": "One tool, or a list of tools run in order by one worker.",
    }


def _task() -> Schema:
    labelled: Schema = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "not": {"required": ["kind"]},
        "additionalProperties": _ref("single"),
    }
    return {"anyOf": [_ref("single"), labelled]}


def _single() -> Schema:
    own: dict[str, Schema] = {
        "kind": {"enum": [*sorted(KINDS)]},
        "name": _described({}, "Label in a pipeline, action of a workbook."),
        "input": _described(_MAP, "Data for the tool, over the step's input."),
        "set": _ref("set"),
        "policy": _ref("policy"),
        "retry": _ref("retry"),
        "timeout": {"anyOf": [_ref("timeout"), {"type": "object"}]},
        "timeout_seconds": _ref("timeout"),
        "output": _ref("output"),
        "eval": {"type": ["array", "null"]},
        "spec": _described(
            _object({"policy": _ref("policy"), "retry": _ref("retry")}),
            "Any key of the tool may stand here as well.",
        ),
    }
    return _object(own, "kind")


def _policy() -> Schema:
    return _object({"rules": {"type": ["array", "null"], "items": _ref("rule")}})


def _rule() -> Schema:
    return {
        "type": "object",
        "properties": {
            "when": _ref("condition"),
            "then": _ref("action"),
            "else": {"anyOf": [_ref("action"), {"const": True}, _NULL]},
        },
        "oneOf": [{"required": ["when"]}, {"required": ["else"]}],
    }


def _action() -> Schema:
    wait: Schema = {"anyOf": [{"type": "number", "minimum": 0}, _duration()]}
    wait["anyOf"] = [{"type": "number", "minimum": 0}, _duration(), _TEMPLATE, _NULL]
    words = ("none", "fixed", "constant", "linear", "exponential")
    return {
        "type": "object",
        "properties": {
            "do": {"anyOf": [_choice(*ACTIONS), _TEMPLATE]},
            "set": _ref("set"),
            "attempts": _described(_ref("count"), "Runs in all, the first included."),
            "backoff": {"anyOf": [_choice(*words), {"type": "number"}, _TEMPLATE]},
            "delay": _copied(wait),
            "max_delay": _copied(wait),
            "to": _described({}, "Label of the pipeline, or previous."),
            "message": _described({}, "Error text of fail."),
            "then": _described({}, "Only behind else."),
        },
    }


def _retry() -> Schema:
    number: Schema = {"type": ["number", "string", "null"]}
    keys = (
        "max_attempts",
        "max_retries",
        "backoff_seconds",
        "delay",
        "initial_delay_ms",
        "backoff_multiplier",
        "max_delay",
        "max_delay_ms",
    )
    return _object(
        {
            **{key: _copied(number) for key in keys},
            "retry_on": {"type": ["array", "string", "null"]},
            "retry_on_status": {"type": ["array", "integer", "string", "null"]},
            "backoff": {"type": ["string", "number", "null"]},
        }
    )


def _output() -> Schema:
    return _object(
        {
            "store": {"type": ["object", "string", "null"]},
            "output_select": {"type": ["array", "object", "null"]},
            "inline_max_bytes": {"type": ["number", "string", "null"]},
        }
    )


def _loop() -> Schema:
    spec = _object(
        {
            "mode": _choice(*MODES),
            "max_in_flight": _ref("count"),
            "frame": _object(
                {
                    "max_rows": _ref("count"),
                    "row_concurrency": _ref("count"),
                    "process": _choice("row", "frame"),
                }
            ),
        }
    )
    cursor = _object(
        {
            "kind": {"enum": [*sorted(KINDS), None]},
            "claim": {"type": "string", "minLength": 1},
        },
        "claim",
    )
    is_cursor: Schema = {
        "required": ["spec"],
        "properties": {
            "spec": {"required": ["mode"], "properties": {"mode": {"const": "cursor"}}}
        },
    }
    collection: Schema = {"type": ["string", "array", "object", "integer"]}
    found = _object({"iterator": _iterator(), "spec": spec, "cursor": cursor})
    found["not"] = {"required": ["pagination"]}
    found["if"] = {"anyOf": [_NULL, is_cursor]}
    found["then"] = {"properties": {"in": _NULL}}
    found["else"] = {
        "required": ["in", "iterator"],
        "properties": {"in": collection, "cursor": _NULL},
    }
    return found


def _iterator() -> Schema:
    return {"type": "string", "minLength": 1, "pattern": r"^[^\W\d]\w*$"}


def _next() -> Schema:
    router = _object(
        {
            "spec": _object(
                {
                    "mode": _choice("exclusive", "inclusive"),
                    "on_no_match": _choice("complete", "quiet"),
                }
            ),
            "arcs": {"type": ["array", "null"], "items": _ref("arc")},
        }
    )
    router["type"] = "object"
    router["not"] = {"anyOf": [{"required": ["step"]}, {"required": ["then"]}]}
    name: Schema = {"type": "string", "minLength": 1}
    targets: Schema = {"anyOf": [name, _ref("arc")]}
    item = _object(
        {
            "when": _ref("condition"),
            "then": {"anyOf": [targets, {"type": "array", "items": targets}]},
        },
        "then",
    )
    one: Schema = {"anyOf": [targets, item]}
    return {"anyOf": [_NULL, router, one, {"type": "array", "items": one}]}


def _arc() -> Schema:
    return _object(
        {
            "step": {"type": "string", "minLength": 1},
            "when": _ref("condition"),
            "cond": _ref("condition"),
            "args": _copied(_MAP),
            "input": _copied(_MAP),
            "set": _ref("set"),
        },
        "step",
    )


def _workbook() -> Schema:
    action = _object(
        {"name": {"type": "string", "minLength": 1}, "tool": _ref("tool")},
        "name",
        "tool",
    )
    tasks: Schema = {"type": ["object", "null"], "additionalProperties": _ref("tool")}
    return {
        "anyOf": [
            _NULL,
            {"type": "array", "items": action},
            _object({"tasks": tasks}),
        ],
        "description": "Named tools that steps refer to with kind: workbook.",
    }


def _executor() -> Schema:
    policy = _object(
        {
            "defaults": _object({"timeout_s": _ref("seconds")}),
            "results": _object({"reference_first": _copied(_BOOLEAN)}),
            "limits": _object(
                {"max_steps": _ref("count"), "max_duration_s": _ref("seconds")}
            ),
        }
    )
    return _object(
        {
            "spec": _object(
                {
                    "entry_step": _described(_text(), "First step instead of start."),
                    "final_step": _described(_text(), "Runs once, after all else."),
                    "no_next_is_error": _copied(_BOOLEAN),
                    "policy": policy,
                }
            )
        }
    )
