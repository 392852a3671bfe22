"""Every error of §18 with its message, path and line, and every warning."""

from __future__ import annotations

import pytest
from playbook_documents import END, HEAD, book, errors, only, start, warnings

from state_builder.playbook import PlaybookError, load, parse

NOOP = "tool: {kind: noop}"
PIPE = "tool:\n  - {name: a, kind: noop}\n  - {name: b, kind: noop, spec: {policy: %s}}"


def rule(text: str) -> str:
    """A single tool with one policy rule; the rule stands in line 6."""
    return f"tool: {{kind: noop, spec: {{policy: {{rules: [{text}]}}}}}}"


def looped(text: str) -> str:
    """A loop step; the loop stands in line 7."""
    return f"{NOOP}\nloop: {text}"


def arcs(text: str) -> str:
    """A step with these arcs in line 7."""
    return f"{NOOP}\nnext: {{arcs: [{text}]}}"


S = "Step 'start': "
ROOT_ERRORS = [
    ("PB-702", "", 2, "Invalid YAML: repeated key 'a', line 2 column 1", "a: 1\na: 2"),
    (
        "PB-703",
        "apiVersion",
        1,
        "Unsupported API version: noetl.io/v1. Expected noetl.io/v2",
        book("- {step: start, tool: {kind: noop}}").replace("/v2", "/v1"),
    ),
    (
        "PB-703",
        "apiVersion",
        1,
        "Unsupported API version: (missing). Expected noetl.io/v2",
        book("- {step: start, tool: {kind: noop}}").replace("apiVersion", "#", 1),
    ),
    (
        "PB-703",
        "kind",
        2,
        "Invalid kind: Recipe. Expected Playbook",
        book("- {step: start, tool: {kind: noop}}").replace("Playbook", "Recipe"),
    ),
    (
        "PB-703",
        "kind",
        1,
        "Invalid kind: Subscription. Expected Playbook",
        "kind: Subscription\napiVersion: noetl.io/v1\nspec: {source: nats}",
    ),
    (
        "PB-704",
        "",
        1,
        "Missing 'metadata' section",
        book("- {step: start, tool: {kind: noop}}").replace("metadata:", "#", 1),
    ),
    (
        "PB-704",
        "metadata",
        3,
        "Missing 'path' or 'name' in metadata",
        book("- {step: start, tool: {kind: noop}}").replace("name:", "path:", 1),
    ),
    (
        "PB-705",
        "workflow",
        1,
        "workflow must be a non-empty list of steps",
        HEAD,
    ),
    (
        "PB-705",
        "workflow",
        4,
        "workflow must be a non-empty list of steps",
        f"{HEAD}workflow: []",
    ),
    (
        "PB-705",
        "workflow",
        4,
        "workflow must be a non-empty list of steps",
        f"{HEAD}workflow: {{start: {{}}}}",
    ),
    (
        "PB-705",
        "workflow[1]",
        6,
        "workflow must be a non-empty list of steps: workflow[1] is a text",
        book("- {step: start, tool: {kind: noop}}\n- stray"),
    ),
    (
        "PB-706",
        "workflow",
        4,
        "Workflow must have a step named 'start'",
        book("- {step: first, tool: {kind: noop}}"),
    ),
    (
        "PB-706",
        "executor.spec.entry_step",
        6,
        "executor.spec.entry_step references unknown step 'x'",
        book(
            "- {step: start, tool: {kind: noop}}", "executor: {spec: {entry_step: x}}"
        ),
    ),
    (
        "PB-706",
        "executor.spec.final_step",
        6,
        "executor.spec.final_step references unknown step 'x'",
        book(
            "- {step: start, tool: {kind: noop}}", "executor: {spec: {final_step: x}}"
        ),
    ),
    (
        "PB-707",
        "workflow[1].step",
        6,
        "workflow[1]: 'step' is required",
        book("- {step: start, tool: {kind: noop}}\n- {tool: {kind: noop}}"),
    ),
    (
        "PB-707",
        "workflow[1].step",
        6,
        "workflow[1]: 'step' is required as a text, got number",
        book("- {step: start, tool: {kind: noop}}\n- {step: 5, tool: {kind: noop}}"),
    ),
    (
        "PB-707",
        "workflow[1].step",
        6,
        "Duplicate step name: start",
        book("- {step: start, tool: {kind: noop}}\n- {step: start}"),
    ),
    (
        "PB-707",
        "workflow[1].step",
        6,
        "workflow[1]: step name '__orchestrate__' is reserved",
        book("- {step: start, tool: {kind: noop}}\n- {step: __orchestrate__}"),
    ),
    (
        "PB-707",
        "workflow[1].step",
        6,
        "workflow[1]: step name must not contain control characters",
        book('- {step: start, tool: {kind: noop}}\n- {step: "a\\nb"}'),
    ),
    (
        "PB-727",
        "workload",
        6,
        "workload must be a map, got list",
        book("- {step: start, tool: {kind: noop}}", "workload: [1]"),
    ),
    (
        "PB-727",
        "metadata.labels",
        3,
        "metadata.labels must be a map, got number 3",
        book("- {step: start, tool: {kind: noop}}").replace(
            "{name:", "{labels: 3, name:"
        ),
    ),
    (
        "PB-727",
        "keychain",
        6,
        "keychain must be a list, got map",
        book("- {step: start, tool: {kind: noop}}", "keychain: {a: 1}"),
    ),
    (
        "PB-727",
        "executor.spec.policy.limits.max_steps",
        6,
        "executor.spec.policy.limits.max_steps must be a whole number from 1, "
        "got number 0",
        book(
            "- {step: start, tool: {kind: noop}}",
            "executor: {spec: {policy: {limits: {max_steps: 0}}}}",
        ),
    ),
]

STEP_ERRORS = [
    (
        "PB-708",
        "",
        5,
        S + "tool is required (use kind: noop for a step without work)",
        "desc: x",
    ),
    (
        "PB-708",
        "",
        5,
        S + "tool is required (use kind: noop for a step without work)",
        "tool: null",
    ),
    (
        "PB-709",
        "case",
        7,
        S + "'case' blocks are not allowed in canonical format: write next.arcs",
        f"{NOOP}\ncase: []",
    ),
    (
        "PB-709",
        "loop.pagination",
        7,
        S + "'loop.pagination' blocks are not allowed in canonical format: "
        "page with a pipeline and `do: jump`",
        looped("{in: '{{ x }}', iterator: i, pagination: {}}"),
    ),
    ("PB-710", "tool", 6, S + "tool pipeline must have at least one task", "tool: []"),
    (
        "PB-711",
        "tool[0]",
        7,
        S + "pipeline task[0] must have exactly one labeled entry (got 2)",
        "tool:\n  - {name: a, code: b}",
    ),
    (
        "PB-711",
        "tool[1]",
        8,
        S + "pipeline task[1] must have exactly one labeled entry (got 0)",
        "tool:\n  - {kind: noop}\n  - {}",
    ),
    (
        "PB-711",
        "tool[0]",
        6,
        S + "pipeline task[0] must have exactly one labeled entry (got text)",
        "tool: [noop]",
    ),
    (
        "PB-712",
        "tool[1].a",
        8,
        S + "duplicate task label 'a'",
        "tool:\n  - {name: a, kind: noop}\n  - a: {kind: noop}",
    ),
    (
        "PB-712",
        "tool[1]",
        8,
        S + "duplicate task label 'task_1'",
        "tool:\n  - {kind: noop}\n  - {name: task_1, kind: noop}",
    ),
    ("PB-713", "tool", 6, S + "tool.kind is required", "tool: {code: x}"),
    ("PB-713", "tool", 6, S + "tool.kind is required", "tool: {}"),
    ("PB-713", "tool[0].a", 6, S + "tool.kind is required", "tool: [a: {code: x}]"),
    ("PB-713", "tool.kind", 6, S + "unknown tool kind 'bash'", "tool: {kind: bash}"),
    (
        "PB-713",
        "tool.kind",
        6,
        S + "unknown tool kind 'Python'",
        "tool: {kind: Python}",
    ),
    (
        "PB-713",
        "tool.kind",
        6,
        S + "unknown tool kind '{{ k }}'",
        "tool: {kind: '{{ k }}'}",
    ),
    (
        "PB-713",
        "tool.kind",
        6,
        S + "unknown tool kind 'iterator' (use loop)",
        "tool: {kind: iterator}",
    ),
    (
        "PB-713",
        "tool.kind",
        6,
        S + "unknown tool kind 'playbooks' (use playbook)",
        "tool: {kind: playbooks}",
    ),
    (
        "PB-713",
        "loop.cursor.kind",
        7,
        S + "unknown tool kind 'mysql'",
        looped("{iterator: i, cursor: {kind: mysql, claim: q}, spec: {mode: cursor}}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules",
        6,
        S + "policy.rules must be a list",
        "tool: {kind: noop, spec: {policy: {rules: {}}}}",
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0]",
        6,
        S + "policy.rules[0] must have 'when' or 'else'",
        rule("{then: {do: fail}}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0]",
        6,
        S + "policy.rules[0] has both when and else; write two rules",
        rule("{when: true, else: {do: fail}}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0]",
        6,
        S + "policy.rules[0] must be a map",
        rule("fail"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0].then.do",
        6,
        S + "policy.rules[0] has invalid action 'skip' "
        "(expected continue, retry, jump, break, fail)",
        rule("{when: true, then: {do: skip}}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0].then.do",
        6,
        S + "policy.rules[0] has invalid action '3' "
        "(expected continue, retry, jump, break, fail)",
        rule("{when: true, then: {do: 3}}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0].then",
        6,
        S + "policy.rules[0] 'then' must be a map",
        rule("{when: true, then: fail}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0].else",
        6,
        S + "policy.rules[0] 'else' must be a map",
        rule("{else: fail}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0].do",
        6,
        S + "policy.rules[0] has 'do' beside 'then'",
        rule("{when: true, do: fail, then: {do: retry}}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0].then.attempts",
        6,
        S + "policy.rules[0] has invalid attempts 0",
        rule("{when: true, then: {do: retry, attempts: 0}}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0].then.delay",
        6,
        S + "policy.rules[0] has invalid delay 'soon'",
        rule("{when: true, then: {do: retry, delay: soon}}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0].then.backoff",
        6,
        S + "policy.rules[0] has invalid backoff 'random'",
        rule("{when: true, then: {do: retry, backoff: random}}"),
    ),
    (
        "PB-714",
        "tool.spec.policy.rules[0].then",
        6,
        S + "policy.rules[0] jump needs a pipeline",
        rule("{when: true, then: {do: jump, to: start}}"),
    ),
    (
        "PB-714",
        "tool[1].spec.policy.rules[0].then.to",
        8,
        S + "policy.rules[0] jump target 'c' not found",
        PIPE % "{rules: [{when: true, then: {do: jump, to: c}}]}",
    ),
    (
        "PB-714",
        "tool[1].spec.policy.rules[0].then.to",
        8,
        S + "policy.rules[0] jump target '5' not found",
        PIPE % "{rules: [{when: true, then: {do: jump, to: 5}}]}",
    ),
    (
        "PB-714",
        "tool[1].spec.policy.rules[0].then",
        8,
        S + "policy.rules[0] jump needs 'to'",
        PIPE % "{rules: [{when: true, then: {do: jump}}]}",
    ),
    (
        "PB-714",
        "tool[0].policy.rules[0].else.to",
        6,
        S + "policy.rules[0] jump target 'previous' not found",
        "tool: [{kind: noop, policy: {rules: [{else: {do: jump, to: previous}}]}}]",
    ),
    (
        "PB-714",
        "spec.policy.admit.rules[0]",
        7,
        S + "spec.policy.admit.rules[0] must have 'when' or 'else'",
        f"{NOOP}\nspec: {{policy: {{admit: {{rules: [{{then: {{allow: true}}}}]}}}}}}",
    ),
    (
        "PB-715",
        "tool.eval[1].else.do",
        6,
        S + "eval[1] has invalid action 'again' "
        "(expected continue, retry, jump, break, fail)",
        "tool: {kind: noop, eval: [{expr: true, do: fail}, {else: {do: again}}]}",
    ),
    (
        "PB-715",
        "tool.eval",
        6,
        S + "eval must be a list",
        "tool: {kind: noop, eval: {do: fail}}",
    ),
]
MORE_STEP_ERRORS = [
    (
        "PB-716",
        "set['iter.x']",
        7,
        S + "set key 'iter.x' is not possible here: iter ends with the tool's run",
        f"{NOOP}\nset: {{iter.x: 1}}",
    ),
    (
        "PB-716",
        "next.arcs[0].set['iter.x']",
        7,
        S + "set key 'iter.x' is not possible here: iter ends with the tool's run",
        arcs("{step: end, set: {iter.x: 1}}"),
    ),
    (
        "PB-716",
        "set['ctx.']",
        7,
        S + "set key 'ctx.' has an empty part",
        f"{NOOP}\nset: {{ctx.: 1}}",
    ),
    (
        "PB-716",
        "set['a..b']",
        7,
        S + "set key 'a..b' has an empty part",
        f"{NOOP}\nset: {{a..b: 1}}",
    ),
    (
        "PB-716",
        "set['']",
        7,
        S + "set key '' has an empty part",
        f"{NOOP}\nset: {{'': 1}}",
    ),
    (
        "PB-716",
        "set['{{ k }}']",
        7,
        S + "set key '{{ k }}' is a template; keys are literal",
        f"{NOOP}\nset: {{'{{{{ k }}}}': 1}}",
    ),
    (
        "PB-716",
        "tool.set.ctx",
        6,
        S + "set key 'ctx' needs a variable: write ctx.name",
        "tool: {kind: noop, set: {ctx: 1}}",
    ),
    (
        "PB-716",
        "tool.set_iter['a.']",
        6,
        S + "set key 'a.' has an empty part",
        "tool: {kind: noop, set_iter: {a.: 1}}",
    ),
    (
        "PB-717",
        "loop",
        7,
        S + "loop requires `in:` (the collection expression) for mode=sequential",
        looped("{iterator: i}"),
    ),
    (
        "PB-717",
        "loop",
        7,
        S + "loop requires `in:` (the collection expression) for mode=parallel",
        looped("{in: '', iterator: i, spec: {mode: parallel}}"),
    ),
    (
        "PB-718",
        "loop.iterator",
        7,
        S + "loop.iterator must not be empty",
        looped("{in: [1]}"),
    ),
    (
        "PB-718",
        "loop.iterator",
        7,
        S + "loop.iterator must not be empty",
        looped("{in: [1], iterator: ''}"),
    ),
    (
        "PB-718",
        "loop.iterator",
        7,
        S + "loop.iterator must be an identifier, got 'a-b'",
        looped("{in: [1], iterator: a-b}"),
    ),
    (
        "PB-718",
        "loop.iterator",
        7,
        S + "loop.iterator must be an identifier, got 5",
        looped("{in: [1], iterator: 5}"),
    ),
    (
        "PB-719",
        "loop",
        7,
        S + "loop.spec.mode=cursor requires a loop.cursor block with a claim query "
        "(found none)",
        looped("{iterator: i, spec: {mode: cursor}}"),
    ),
    (
        "PB-719",
        "loop",
        7,
        S + "loop.spec.mode=cursor requires a loop.cursor block with a claim query "
        "(`claim` is missing or no text)",
        looped("{iterator: i, cursor: {auth: pg}, spec: {mode: cursor}}"),
    ),
    (
        "PB-719",
        "loop",
        7,
        S + "loop.spec.mode=cursor requires a loop.cursor block with a claim query "
        "and takes no `in:`",
        looped("{in: [1], iterator: i, cursor: {claim: q}, spec: {mode: cursor}}"),
    ),
    (
        "PB-719",
        "loop",
        7,
        S + "loop.spec.mode=cursor requires a loop.cursor block with a claim query "
        "(found one with mode=sequential)",
        looped("{in: [1], iterator: i, cursor: {claim: q}}"),
    ),
    (
        "PB-720",
        "loop.spec.mode",
        7,
        S + "loop.spec.mode invalid: 'async' is none of sequential, parallel, cursor",
        looped("{in: [1], iterator: i, spec: {mode: async}}"),
    ),
    (
        "PB-720",
        "loop.spec.max_in_flight",
        7,
        S + "loop.spec.max_in_flight invalid: 0 is no whole number from 1",
        looped("{in: [1], iterator: i, spec: {max_in_flight: 0}}"),
    ),
    (
        "PB-720",
        "loop.spec.frame.max_rows",
        7,
        S + "loop.spec.frame.max_rows invalid: 1.5 is no whole number from 1",
        looped(
            "{iterator: i, cursor: {claim: q}, "
            "spec: {mode: cursor, frame: {max_rows: 1.5}}}"
        ),
    ),
    (
        "PB-720",
        "loop.spec.frame.row_concurrency",
        7,
        S + "loop.spec.frame.row_concurrency invalid: 'many' is no whole number from 1",
        looped(
            "{iterator: i, cursor: {claim: q}, "
            "spec: {mode: cursor, frame: {row_concurrency: many}}}"
        ),
    ),
    (
        "PB-720",
        "loop.spec.frame.process",
        7,
        S + "loop.spec.frame.process invalid: 'batch' is neither row nor frame",
        looped(
            "{iterator: i, cursor: {claim: q}, "
            "spec: {mode: cursor, frame: {process: batch}}}"
        ),
    ),
    (
        "PB-721",
        "when",
        7,
        S + "invalid 'when' expression: it is empty",
        f"{NOOP}\nwhen: ' '",
    ),
    (
        "PB-721",
        "when",
        7,
        S + "invalid 'when' expression: must be a text or true/false, got number",
        f"{NOOP}\nwhen: 3",
    ),
    (
        "PB-721",
        "when",
        7,
        S + "invalid 'when' expression: must be a text or true/false, got null",
        f"{NOOP}\nwhen:",
    ),
    (
        "PB-721",
        "when",
        7,
        S + "invalid 'when' expression: single braces; write {{ … }}",
        f"{NOOP}\nwhen: '{{ x }}'",
    ),
    (
        "PB-721",
        "when",
        7,
        S + "invalid 'when' expression: unpaired brace",
        f"{NOOP}\nwhen: 'x }}}}'",
    ),
    (
        "PB-721",
        "when",
        7,
        S + "invalid 'when' expression: unpaired brace",
        f"{NOOP}\nwhen: '{{{{ x }}'",
    ),
    (
        "PB-721",
        "when",
        7,
        S + "invalid 'when' expression: unpaired brace",
        f"{NOOP}\nwhen: '{{% if x'",
    ),
    (
        "PB-721",
        "next.arcs[1].when",
        7,
        S + "next.arcs[1] has invalid 'when' expression: it is empty",
        arcs("{step: end, when: a}, {step: end, when: ''}"),
    ),
    (
        "PB-721",
        "next.arcs[0].cond",
        7,
        S + "next.arcs[0] has invalid 'when' expression: it is empty",
        arcs("{step: end, cond: ''}"),
    ),
    (
        "PB-721",
        "next[0].then[0]",
        7,
        S + "next.arcs[0] has invalid 'when' expression: "
        "the condition stands at the list item already",
        f"{NOOP}\nnext: [{{when: a, then: [{{step: end, when: b}}]}}]",
    ),
    (
        "PB-721",
        "spec.policy.admit.rules[0].when",
        7,
        S + "invalid 'when' expression: it is empty",
        f"{NOOP}\nspec: {{policy: {{admit: {{rules: [{{when: ''}}]}}}}}}",
    ),
    (
        "PB-721",
        "tool.spec.policy.rules[0].when",
        6,
        S + "invalid 'when' expression: it is empty",
        rule("{when: '', then: {do: fail}}"),
    ),
    (
        "PB-722",
        "next.arcs[0]",
        7,
        S + "next.arcs[0] requires 'step', the name of a step",
        arcs("{when: a}"),
    ),
    (
        "PB-722",
        "next.arcs[0].step",
        7,
        "Step 'start' references unknown step 'b' in next.arcs",
        arcs("{step: b}"),
    ),
    (
        "PB-722",
        "next.step",
        7,
        "Step 'start' references unknown step 'b' in next",
        f"{NOOP}\nnext: b",
    ),
    (
        "PB-722",
        "next[0].then[0].step",
        7,
        "Step 'start' references unknown step 'b' in next",
        f"{NOOP}\nnext: [{{when: x, then: [b]}}]",
    ),
    (
        "PB-723",
        "next.spec.mode",
        7,
        S + "next.spec.mode must be exclusive or inclusive, got 'all'",
        f"{NOOP}\nnext: {{spec: {{mode: all}}, arcs: []}}",
    ),
    (
        "PB-723",
        "spec.next_mode",
        7,
        S + "next.spec.mode must be exclusive or inclusive, got 'all'",
        f"{NOOP}\nspec: {{next_mode: all}}\nnext: end",
    ),
    (
        "PB-723",
        "next.spec.on_no_match",
        7,
        S + "next.spec.on_no_match must be complete or quiet",
        f"{NOOP}\nnext: {{spec: {{on_no_match: loud}}, arcs: []}}",
    ),
    (
        "PB-723",
        "next",
        7,
        S + "next must be a router map, a step name or a list, got 5",
        f"{NOOP}\nnext: 5",
    ),
    (
        "PB-723",
        "next",
        7,
        S + "next must be a router map, a step name or a list, got {'when': 'x'}",
        f"{NOOP}\nnext: {{when: x}}",
    ),
    (
        "PB-723",
        "next[0]",
        7,
        S + "next must be a router map, a step name or a list, got 5",
        f"{NOOP}\nnext: [5]",
    ),
    (
        "PB-723",
        "next.then",
        7,
        S + "next must be a router map, a step name or a list, got 5",
        f"{NOOP}\nnext: {{then: 5}}",
    ),
    (
        "PB-724",
        "tool",
        6,
        S + "tool.kind=workbook requires a 'name' field referencing a workbook action",
        "tool: {kind: workbook}",
    ),
    (
        "PB-724",
        "tool",
        6,
        S + "workbook action 'x' not found in playbook.workbook[] (available: [])",
        "tool: {kind: workbook, name: x}",
    ),
    (
        "PB-725",
        "when",
        7,
        S + "keychain values are not available in when",
        f"{NOOP}\nwhen: keychain.api.ok",
    ),
    (
        "PB-725",
        "set",
        7,
        S + "keychain values are not available in set",
        f"{NOOP}\nset: {{a: ['{{{{ keychain.api.token }}}}']}}",
    ),
    (
        "PB-725",
        "loop.in",
        7,
        S + "keychain values are not available in loop.in",
        looped("{in: '{{ keychain[\"x\"].rows }}', iterator: i}"),
    ),
    (
        "PB-725",
        "loop.spec.max_in_flight",
        7,
        S + "keychain values are not available in loop.spec.max_in_flight",
        looped("{in: [1], iterator: i, spec: {max_in_flight: '{{ token(x) }}'}}"),
    ),
    (
        "PB-725",
        "next.arcs[0].when",
        7,
        S + "keychain values are not available in when",
        arcs("{step: end, when: '{{ token(\"a\") }}'}"),
    ),
    (
        "PB-725",
        "next.arcs[0].args",
        7,
        S + "keychain values are not available in next.arcs.args",
        arcs("{step: end, args: {a: '{{ token(\"a\") }}'}}"),
    ),
    (
        "PB-725",
        "next.arcs[0].set",
        7,
        S + "keychain values are not available in next.arcs.set",
        arcs("{step: end, set: {a: '{% if keychain.a %}{% endif %}'}}"),
    ),
    (
        "PB-725",
        "tool.set",
        6,
        S + "keychain values are not available in set of ctx.a",
        "tool: {kind: noop, set: {ctx.a: '{{ keychain.b.c }}'}}",
    ),
    (
        "PB-725",
        "tool.spec.policy.rules[0].else.set",
        6,
        S + "keychain values are not available in set of ctx.a",
        rule("{else: {set: {a: '{{ keychain.b.c }}'}}}"),
    ),
    (
        "PB-726",
        "tool",
        6,
        S + "tool.kind=playbook requires 'path' or 'catalog_id'",
        "tool: {kind: playbook, path: ''}",
    ),
    (
        "PB-726",
        "tool[0]",
        6,
        S + "tool.kind=playbook requires 'path' or 'catalog_id'",
        "tool: [{kind: playbook}]",
    ),
    (
        "PB-726",
        "tool[0]",
        7,
        S + "container task 'job' must be the last of its pipeline",
        "tool:\n  - {name: job, kind: container, image: x}\n  - {kind: noop}",
    ),
]

WRONG_TYPES = [
    ("tool", 6, "a map or a list, got text 'noop'", "tool: noop"),
    ("tool.kind", 6, "a text, got number 5", "tool: {kind: 5}"),
    ("tool.spec", 6, "a map, got text 'x'", "tool: {kind: noop, spec: x}"),
    ("tool.input", 6, "a map, got list", "tool: {kind: noop, input: [1]}"),
    (
        "tool.args",
        6,
        "a map, got text '{{ x }}'",
        "tool: {kind: noop, args: '{{ x }}'}",
    ),
    ("tool.set", 6, "a map, got text 'x'", "tool: {kind: noop, set: x}"),
    ("tool.retry", 6, "a map, got number 3", "tool: {kind: noop, retry: 3}"),
    ("tool.policy", 6, "a map, got list", "tool: {kind: noop, policy: []}"),
    ("tool.output", 6, "a map, got text 'x'", "tool: {kind: noop, output: x}"),
    ("tool[0].name", 6, "a text, got number 5", "tool: [{name: 5, kind: noop}]"),
    ("tool[0].a", 6, "a map with 'kind', got null", "tool: [a: ]"),
    ("tool.tasks", 6, "a list, got null", "tool: {kind: task_sequence}"),
    ("tool.tasks", 6, "a list, got map", "tool: {kind: task_sequence, tasks: {}}"),
    (
        "tool.timeout",
        6,
        "a positive number of seconds or like 30s, got text 'soon'",
        "tool: {kind: noop, timeout: soon}",
    ),
    (
        "tool.timeout_seconds",
        6,
        "a positive number of seconds or like 30s, got number -1",
        "tool: {kind: noop, timeout_seconds: -1}",
    ),
    (
        "tool.output_select.threshold_kb",
        6,
        "a number, got text 'x'",
        "tool: {kind: noop, output_select: {threshold_kb: x}}",
    ),
    (
        "tool.output.output_select",
        6,
        "a list of paths, got number 3",
        "tool: {kind: noop, output: {output_select: [3]}}",
    ),
    (
        "tool.output.store",
        6,
        "a map, got list",
        "tool: {kind: noop, output: {store: []}}",
    ),
    (
        "output.inline_max_bytes",
        7,
        "a number of bytes, got text 'x'",
        f"{NOOP}\noutput: {{inline_max_bytes: x}}",
    ),
    ("input", 7, "a map, got text 'x'", f"{NOOP}\ninput: x"),
    ("loop", 7, "a map, got text '{{ x }}'", f"{NOOP}\nloop: '{{{{ x }}}}'"),
    (
        "loop.in",
        7,
        "a template, a list, a map or a whole number, got number 1.5",
        looped("{in: 1.5, iterator: i}"),
    ),
    (
        "spec.timeout",
        7,
        "a positive number of seconds, or a text like 30s, 5m, 1h, got text '5 days'",
        f"{NOOP}\nspec: {{timeout: 5 days}}",
    ),
    (
        "spec.on_error",
        7,
        "one of fail, continue, retry, got text 'ignore'",
        f"{NOOP}\nspec: {{on_error: ignore}}",
    ),
    (
        "spec.policy.failure.mode",
        7,
        "one of fail_fast, best_effort, got text 'x'",
        f"{NOOP}\nspec: {{policy: {{failure: {{mode: x}}}}}}",
    ),
    (
        "spec.policy.admit.rules[0]",
        7,
        "a map, got text 'x'",
        f"{NOOP}\nspec: {{policy: {{admit: {{rules: [x]}}}}}}",
    ),
    (
        "spec.policy.admit.rules[0].then.allow",
        7,
        "true or false, got text 'no'",
        f"{NOOP}\nspec: {{policy: {{admit: {{rules: [{{else: , then: {{allow: no}}}}]}}}}}}",
    ),
    ("spec.pool", 7, "a text, got number 3", f"{NOOP}\nspec: {{pool: 3}}"),
    (
        "next.arcs[0]",
        7,
        "a map with 'step', got text 'end'",
        f"{NOOP}\nnext: {{arcs: [end]}}",
    ),
    ("next.arcs[0].args", 7, "a map, got list", arcs("{step: end, args: []}")),
    (
        "tool.retry.max_attempts",
        6,
        "a whole number from 1, got number 0",
        "tool: {kind: noop, retry: {max_attempts: 0}}",
    ),
    (
        "tool.retry.delay",
        6,
        "a number, got text '{{ n }}'",
        "tool: {kind: noop, retry: {delay: '{{ n }}'}}",
    ),
    (
        "tool.retry.backoff",
        6,
        "a number, got text 'jitter'",
        "tool: {kind: noop, retry: {backoff: jitter}}",
    ),
    (
        "tool.retry.retry_on",
        6,
        "a list of error kinds, got number 5",
        "tool: {kind: noop, retry: {retry_on: [5]}}",
    ),
    (
        "tool.retry.retry_on_status",
        6,
        "a list of http statuses, got text 'x'",
        "tool: {kind: noop, retry: {retry_on_status: [x]}}",
    ),
    (
        "tool.payload",
        6,
        "a map or a template, got list",
        "tool: {kind: playbook, path: p, payload: []}",
    ),
    (
        "tool.version",
        6,
        "a number or a text, got list",
        "tool: {kind: playbook, path: p, version: []}",
    ),
    (
        "tool.timeout",
        6,
        "a number of seconds, no template, got text '{{ t }}'",
        "tool: {kind: playbook, path: p, timeout: '{{ t }}'}",
    ),
    (
        "tool.async",
        6,
        "true or false, got text 'x'",
        "tool: {kind: playbook, path: p, async: x}",
    ),
]


@pytest.mark.parametrize(
    ("rule_id", "path", "line", "message", "text"),
    ROOT_ERRORS,
    ids=[f"{case[0]} {case[3]}"[:70] for case in ROOT_ERRORS],
)
def test_error_of_the_document(
    rule_id: str, path: str, line: int, message: str, text: str
) -> None:
    """PB-700, PB-701: one finding with id, path, line and contractual message."""
    result = parse(text)
    found = only(result.errors)
    assert (found.id, found.path, found.line) == (rule_id, path, line)
    assert found.message == message
    assert result.playbook is None


STEP_CASES = [
    *STEP_ERRORS,
    *MORE_STEP_ERRORS,
    *(
        ("PB-727", path, line, f"{S}{path} must be {message}", body)
        for path, line, message, body in WRONG_TYPES
    ),
]


@pytest.mark.parametrize(
    ("rule_id", "path", "line", "message", "body"),
    STEP_CASES,
    ids=[f"{case[0]} {case[3]}"[:70] for case in STEP_CASES],
)
def test_error_of_a_step(
    rule_id: str, path: str, line: int, message: str, body: str
) -> None:
    """PB-700, PB-701: one finding with id, path, line and contractual message."""
    found = only(parse(start(body)).errors)
    assert found.message == message
    assert found.id == rule_id
    assert found.path == f"workflow[0].{path}".rstrip(".")
    assert found.line == line


WORKBOOK_ERRORS = [
    (
        "- {name: a, tool: {kind: noop}}\n- {name: b, tool: {kind: noop}}",
        "tool: {kind: workbook, name: x}",
        S + "workbook action 'x' not found in playbook.workbook[] (available: [a, b])",
    ),
    (
        "- {name: a, tool: {kind: workbook, name: b}}\n"
        "- {name: b, tool: {kind: workbook, name: a}}",
        "tool: {kind: workbook, name: a}",
        S + "workbook actions refer to each other in a circle: a → b → a",
    ),
    (
        "\n".join(
            f"- {{name: a{n}, tool: {{kind: workbook, name: a{n + 1}}}}}"
            for n in range(9)
        )
        + "\n- {name: a9, tool: {kind: noop}}",
        "tool: {kind: workbook, name: a0}",
        S + "workbook references nest more than 8 deep",
    ),
    (
        "- {name: a, tool: [{kind: noop}]}",
        "tool: [{kind: noop}, {name: t, kind: workbook, task: a}]",
        S + "workbook action of task 't' is a pipeline "
        "and cannot stand inside a pipeline",
    ),
    (
        "- {tool: {kind: noop}}",
        NOOP,
        "workbook[0]: 'name' is required",
    ),
    (
        "- {name: a, tool: {kind: noop}}\n- {name: a, tool: {kind: noop}}",
        "tool: {kind: workbook, name: a}",
        "Duplicate workbook action name: a",
    ),
    ("- {name: a}", NOOP, "workbook action 'a': tool is required"),
]


@pytest.mark.parametrize(("actions", "body", "message"), WORKBOOK_ERRORS)
def test_pb_724_errors_of_the_workbook(actions: str, body: str, message: str) -> None:
    """PB-080, PB-082, PB-083."""
    lines = "\n".join(f"  {line}" for line in actions.splitlines())
    assert errors(start(body, root=f"workbook:\n{lines}\n")) == [("PB-724", message)]


def test_pb_724_a_workbook_entry_must_be_a_map() -> None:
    text = start(NOOP, root="workbook: [a]")
    assert errors(text) == [("PB-727", "workbook[0] must be a map, got text 'a'")]


def test_pb_082_actions_written_out_too_often_are_refused() -> None:
    """A long action under many references would outgrow any memory."""
    code = "x = 1 # " + "y" * 400_000
    root = f"workbook:\n- {{name: big, tool: {{kind: python, code: '{code}'}}}}\n"
    more = "\n".join(
        f"- {{step: s{n}, tool: {{kind: workbook, name: big}}}}" for n in range(40)
    )
    found = only(parse(start(NOOP, more, root)).errors)
    assert found.id == "PB-724"
    assert found.message.startswith("Step 's20': tools of all steps are longer than")


def test_pb_700_all_findings_come_at_once_in_document_order() -> None:
    text = f"""\
apiVersion: noetl.io/v3
kind: Playbook
metadata: {{title: x}}
workflow:
  - step: start
    tool: {{kind: bash}}
    when: ""
    next: nowhere
  - step: start
  - {{tool: {{kind: noop}}}}
  {END}"""
    found = parse(text).errors
    assert [(item.id, item.line) for item in found] == [
        ("PB-703", 1),
        ("PB-704", 3),
        ("PB-713", 6),
        ("PB-721", 7),
        ("PB-722", 8),
        ("PB-707", 9),
        ("PB-707", 10),
    ]


def test_load_raises_one_error_that_lists_all_findings() -> None:
    with pytest.raises(PlaybookError) as caught:
        load(start("tool: {kind: bash}\nwhen: ''"))
    assert str(caught.value).splitlines() == [
        "line 6: Step 'start': unknown tool kind 'bash'",
        "line 7: Step 'start': invalid 'when' expression: it is empty",
    ]
    assert [item.id for item in caught.value.findings] == ["PB-713", "PB-721"]
    assert caught.value.code == "playbook"
    assert not caught.value.retryable


def test_the_document_is_there_whenever_the_text_could_be_read() -> None:
    assert parse("a: 1").document == {"a": 1}
    assert parse("a: [").document is None


W = [
    ("tracing: {on: true}", "", NOOP, "unknown key 'tracing' is ignored"),
    ("", "", f"{NOOP}\ncommand: ls", S + "unknown key 'command' is ignored"),
    (
        "",
        "",
        f"{NOOP}\nnext: {{arcs: [{{step: end, label: x}}]}}",
        S + "unknown key 'label' is ignored",
    ),
    (
        "",
        "",
        looped("{in: [1], iterator: i, element: x}"),
        S + "unknown key 'element' is ignored",
    ),
    (
        "",
        "- {step: lost, tool: {kind: noop}}",
        f"{NOOP}\nnext: end",
        "Step 'lost' is unreachable: nothing leads to it",
    ),
    (
        "",
        "- {step: a, tool: {kind: noop}}\n- {step: b, tool: {kind: noop}}",
        f"{NOOP}\nnext: [a, b]",
        "no step 'end', and several steps end a branch: a, b",
    ),
    (
        "",
        "",
        rule("{else: {do: continue}}, {when: a, then: {do: fail}}"),
        S + "policy.rules[1] comes after an else and never applies",
    ),
    (
        "",
        "",
        arcs("{step: end}, {step: end, when: a}"),
        S + "next.arcs[1] is never taken: next.arcs[0] before it always holds",
    ),
    (
        "",
        "",
        f"{NOOP}\nnext: [{{step: end, when: true}}, {{step: end}}]",
        S + "next.arcs[1] is never taken: next.arcs[0] before it always holds",
    ),
    (
        "workload: {start: 1}",
        "",
        NOOP,
        "Step 'start' has the name of a workload key: "
        "'start' alone means the key until the step is done",
    ),
    (
        "",
        "",
        "tool: {kind: noop, result: '{ workload.x }'}",
        "'{ workload.x }' is plain text; a template needs {{ … }}",
    ),
    (
        "workbook: [{name: a, tool: {kind: noop}}]",
        "",
        NOOP,
        "workbook action 'a' is never used",
    ),
]


@pytest.mark.parametrize(("root", "more", "body", "message"), W)
def test_pb_750_warning(root: str, more: str, body: str, message: str) -> None:
    """PB-464, PB-750: reported, and the playbook may still be executed."""
    result = parse(start(body, more, root))
    assert [item.message for item in result.warnings] == [message]
    assert result.warnings[0].id == "PB-750"
    assert result.playbook is not None


def test_pb_750_nothing_is_said_of_a_sound_playbook() -> None:
    text = start(
        "tool: {kind: python, code: 'x = {a}'}\n"
        "input: {sql: '{x}', code: '{% raw'}\n"
        "next: {spec: {mode: inclusive}, arcs: [{step: end}, {step: end, when: a}]}",
        END,
    )
    assert warnings(text) == []


def test_pb_750_syntax_of_templates_is_the_callers_to_tell() -> None:
    """PB-424: only a warning, and conditions without braces are checked as well."""
    asked: list[str] = []

    def check(text: str) -> str | None:
        asked.append(text)
        return "no such thing" if "bad" in text else None

    text = start(
        """
        when: bad >
        tool: {kind: python, code: "{% bad", cmds: ["{{ bad( }}"], input: {x: plain}}
        set: {y: "{{ good }}"}
        """
    )
    result = parse(text, check_text=check)
    assert result.playbook is not None
    assert [(item.path, item.message) for item in result.warnings] == [
        ("workflow[0].when", "Step 'start': template cannot be parsed: no such thing"),
        ("workflow[0].tool.cmds[0]", "template cannot be parsed: no such thing"),
    ]
    assert asked == ["{{ bad > }}", "{{ bad( }}", "{{ good }}"]


@pytest.mark.parametrize(
    "text",
    [
        "x == 'keychain.a'",
        "my.keychain.a",
        "keychain_id == 3",
        "a.token(1)",
        "'it\\'s keychain.a' in x",
        '"open and keychain.x',
        "mytoken(1)",
    ],
)
def test_pb_725_only_the_keychain_itself_is_refused(text: str) -> None:
    quoted = (
        text.replace('"', '\\"') if "\\" not in text else text.replace("\\", "\\\\")
    )
    found = errors(start(f'{NOOP}\nwhen: "{quoted}"'))
    assert ("PB-725" in [item[0] for item in found]) == text.startswith('"open')


def test_pb_725_texts_without_templates_may_speak_of_it() -> None:
    text = start(f"{NOOP}\nset: {{a: see keychain.x, b: '{{{{ open keychain.x'}}")
    assert errors(text) == []


def test_pb_725_rules_run_on_the_worker_and_may_use_it() -> None:
    assert (
        errors(
            start(
                rule("{when: keychain.a.ok, then: {set: {iter.t: '{{ token(x) }}'}}}")
            )
        )
        == []
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ {'a': {}} }}",
        "x == {}",
        "'{' in x",
        "{'a': 1}[x]",
        "{% if x %}yes{% endif %}",
        "{{ x }} and {{ y }}",
        "x",
    ],
)
def test_pb_721_sound_conditions_are_taken_as_they_are(text: str) -> None:
    """PB-440, PB-442."""
    quoted = text.replace('"', '\\"')
    playbook = load(start(f'{NOOP}\nwhen: "{quoted}"'))
    assert playbook.steps["start"].when == text
