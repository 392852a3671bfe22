"""What a step says beside its tool: input, guard, admission, variables, timeouts."""

from __future__ import annotations

import pytest
from playbook_documents import END, book, decoded, step, warnings

from state_builder.playbook import PlaybookError, load
from state_builder.playbook.model import AdmitRule, Arc
from state_builder.playbook.policy import RETRY_DEFAULT
from state_builder.records import JSON, NOTHING

NOOP = "tool: {kind: noop}\n"


def test_pb_044_every_key_of_a_step() -> None:
    """PB-044."""
    body = """
    desc: a
    description: b
    tool: {kind: noop}
    when: true
    input: {x: 1}
    args: {x: 0, y: 2}
    loop: {in: [1], iterator: i}
    set: {a: 1}
    vars: {a: 0, b: 2}
    next: end
    output: {inline_max_bytes: 10}
    spec: {pool: gpu, policy: {lifecycle: x}}
    """
    text = book(
        "- step: start\n" + "\n".join(f"  {line.strip()}" for line in body.split("\n"))
    )
    assert warnings(text) == []
    found = load(text).steps["start"]
    assert found.when is True
    assert decoded(found.input) == {"x": 1, "y": 2}
    assert found.loop is not None
    assert found.set == {"a": 1, "b": 2}
    assert found.next.arcs == (Arc(target="end"),)
    assert decoded(found.output) == {"inline_max_bytes": 10}
    assert found.pool == "gpu"


def test_a_step_says_nothing_it_was_not_given() -> None:
    found = step(NOOP)
    assert (found.input, found.retry, found.output) == (NOTHING, NOTHING, NOTHING)
    assert (found.when, found.admit, found.loop, found.call) == (None, (), None, None)
    assert (found.set, found.timeout_s, found.pool) == ({}, 0.0, "")
    assert (found.on_error, found.best_effort) == ("fail", False)


@pytest.mark.parametrize("when", [True, False, "ctx.n > 3", "{{ x }}"])
def test_pb_046_the_guard_is_kept_as_written(when: str | bool) -> None:
    """PB-046."""
    written = str(when).lower() if isinstance(when, bool) else f"'{when}'"
    assert step(f"{NOOP}when: {written}").when == when


def test_pb_047_admission_rules_in_order() -> None:
    """PB-047."""
    found = step(
        NOOP
        + """
spec:
  policy:
    admit:
      mode: exclusive
      rules:
        - {when: "{{ a }}", then: {allow: false}}
        - {when: true, then: {}}
        - {else: {then: {allow: true}}}
        - {else: {allow: false}}
        - {else: null, then: {allow: false}}
"""
    )
    assert found.admit == (
        AdmitRule(when="{{ a }}", allow=False),
        AdmitRule(when=True, allow=True),
        AdmitRule(when=None, allow=True),
        AdmitRule(when=None, allow=False),
        AdmitRule(when=None, allow=False),
    )


def test_pb_048_step_input_and_tool_input_stay_apart() -> None:
    """PB-048: The tool's lies over the step's; whoever renders lays it there."""
    found = step("input: {a: 1, b: 1}\ntool: {kind: noop, args: {b: 2}, input: {c: 3}}")
    assert decoded(found.input) == {"a": 1, "b": 1}
    assert decoded(found.tool) == {"kind": "noop", "input": {"b": 2, "c": 3}}


def test_pb_048_args_of_a_container_are_its_argument_list() -> None:
    """PB-048."""
    found = step(
        "input: {a: 1}\n"
        "tool: {kind: container, image: x, args: [-v, '{{ a }}'], input: {b: 2}}"
    )
    assert decoded(found.tool) == {
        "kind": "container",
        "image": "x",
        "args": ["-v", "{{ a }}"],
        "input": {"b": 2},
    }


def test_pb_049_inputs_keep_their_order() -> None:
    """PB-049."""
    found = step(f"{NOOP}input: {{z: 1, a: 2, m: 3}}")
    assert list(dict(decoded(found.input))) == ["z", "a", "m"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30", 30.0),
        ("0.5", 0.5),
        ("'30'", 30.0),
        ("30s", 30.0),
        ("'1.5 m'", 90.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("250ms", 0.25),
    ],
)
def test_pb_045_timeouts(written: str, seconds: float) -> None:
    """PB-045."""
    assert step(f"{NOOP}spec: {{timeout: {written}}}").timeout_s == seconds


def test_pb_045_the_steps_timeout_wins_over_the_playbooks() -> None:
    """PB-045."""
    root = "executor: {spec: {policy: {defaults: {timeout_s: 90}}}}"
    assert step(f"{NOOP}spec: {{timeout: 5}}", root=root).timeout_s == 5.0
    assert step(NOOP, root=root).timeout_s == 90.0


def test_pb_045_a_template_becomes_the_timeout_of_each_tool() -> None:
    """PB-045: PB-751: rendered where it runs. A tool's own timeout stays."""
    single = step("tool: {kind: noop}\nspec: {timeout: '{{ t }}'}")
    assert decoded(single.tool) == {"kind": "noop", "timeout": "{{ t }}"}
    assert single.texts == ("{{ t }}",)
    several = step(
        "tool: [{kind: noop}, {kind: noop, timeout: 3}]\nspec: {timeout: '{{ t }}'}"
    )
    assert decoded(several.tool) == {
        "kind": "task_sequence",
        "tasks": [
            {"label": "task_1", "kind": "noop", "timeout": "{{ t }}"},
            {"label": "task_2", "kind": "noop", "timeout": 3.0},
        ],
    }


@pytest.mark.parametrize(
    ("spec", "on_error", "best_effort"),
    [
        ("{on_error: fail}", "fail", False),
        ("{on_error: continue}", "continue", False),
        ("{policy: {on_error: retry}}", "retry", False),
        ("{policy: {failure: {mode: best_effort}}}", "fail", True),
        ("{policy: {failure: {mode: fail_fast}}}", "fail", False),
    ],
)
def test_pb_567_on_error(spec: str, on_error: str, best_effort: bool) -> None:
    """PB-567."""
    found = step(f"{NOOP}spec: {spec}")
    assert (found.on_error, found.best_effort) == (on_error, best_effort)


def test_pb_567_retry_uses_the_defaults_where_none_are_given() -> None:
    """PB-567."""
    assert decoded(step(f"{NOOP}spec: {{on_error: retry}}").retry) == RETRY_DEFAULT
    found = step(f"{NOOP}spec: {{on_error: retry, retry: {{max_attempts: 9}}}}")
    assert decoded(found.retry) == {**RETRY_DEFAULT, "max_attempts": 9}


def test_pb_051_older_retry_beside_the_tool() -> None:
    """PB-051."""
    assert decoded(step(f"{NOOP}retry: {{max_retries: 1}}").retry) == {
        **RETRY_DEFAULT,
        "max_attempts": 2,
    }


@pytest.mark.parametrize(
    ("written", "variables"),
    [
        ("{x: 1}", {"x": 1}),
        ("{ctx.x: 1}", {"x": 1}),
        ("{step.x: 1}", {"x": 1}),
        ("{ctx: {x: 1, y: {z: 2}}}", {"x": 1, "y": {"z": 2}}),
        ("{ctx.a.b: 1}", {"a.b": 1}),
        ("{a.b: '{{ x }}'}", {"a.b": "{{ x }}"}),
        ("{step: 1}", {"step": 1}),
        ("{x: null, y: [1, {z: '{{ a }}'}]}", {"x": None, "y": [1, {"z": "{{ a }}"}]}),
        ("{ctx: {a.b: 1}}", {"a.b": 1}),
    ],
)
def test_pb_202_keys_of_step_and_arc_are_paths_of_variables(
    written: str, variables: dict[str, JSON]
) -> None:
    """PB-202."""
    found = step(
        f"{NOOP}set: {written}\nnext: {{arcs: [{{step: end, set: {written}}}]}}"
    )
    assert found.set == variables
    assert found.next.arcs[0].set == variables


def test_pb_202_set_ctx_and_vars_are_older_spellings() -> None:
    """PB-202."""
    found = step(
        f"{NOOP}vars: {{a: 1}}\nset_ctx: {{a: 2, b: 2}}\nset: {{b: 3}}\n"
        "next: {arcs: [{step: end, set_ctx: {c: 4}}]}"
    )
    assert found.set == {"a": 2, "b": 3}
    assert found.next.arcs[0].set == {"c": 4}


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (
            "tool: {kind: noop}\noutput: {store: {kind: kv}, output_select: [a.b, {path: c, as: d}]}",
            {
                "store": {"kind": "kv"},
                "output_select": ["a.b", {"path": "c", "as": "d"}],
            },
        ),
        ("tool: {kind: noop, output: {store: disk}}", {"store": {"kind": "disk"}}),
        (
            "tool: {kind: noop, output_select: {strategy: size_threshold, threshold_kb: 2}}",
            {"inline_max_bytes": 2048},
        ),
        (
            "tool: {kind: noop, output: {output_select: {strategy: size_threshold}}, output_select: [a]}",
            {},
        ),
        ("tool: {kind: noop, output_select: [a]}", {"output_select": ["a"]}),
        (
            "tool: {kind: noop, spec: {result: {select: [{path: a}], inline_max_bytes: 5}}}",
            {"output_select": [{"path": "a"}], "inline_max_bytes": 5},
        ),
        (
            "tool: {kind: noop}\nspec: {result: {inline_max_bytes: '7'}}",
            {"inline_max_bytes": 7},
        ),
        (
            "tool: {kind: noop, output: {output_select: [a], inline_max_bytes: 1}}\noutput: {inline_max_bytes: 2}",
            {"output_select": ["a"], "inline_max_bytes": 2},
        ),
        (
            "tool: [{name: a, kind: noop, output: {inline_max_bytes: 9, output_select: [x, {path: y.z, as: w}]}}, {name: b, kind: noop, output: {inline_max_bytes: 7, store: kv}}]",
            {
                "store": {"kind": "kv"},
                "inline_max_bytes": 7,
                "output_select": [{"path": "a.x"}, {"path": "a.y.z", "as": "w"}],
            },
        ),
        (
            "tool: {kind: noop}\noutput: {store: {kind: disk, ttl: 2d, fallback: true, scope: workflow}}",
            {
                "store": {
                    "kind": "disk",
                    "scope": "workflow",
                    "ttl_s": 172_800.0,
                    "fallback": True,
                }
            },
        ),
    ],
)
def test_pb_342_output_has_one_form(body: str, output: dict[str, JSON]) -> None:
    """PB-342: TL-OS-01: the step's over that of its single tool."""
    found = step(body).output
    assert (decoded(found) if found else {}) == output


@pytest.mark.parametrize(
    "store", ["{kind: floppy}", "{scope: eternal}", "{ttl: soon}", "{fallback: maybe}"]
)
def test_pb_342_a_store_that_cannot_be_is_told(store: str) -> None:
    """TL-OS-01, TL-RR-50, TL-RR-54."""
    key = store[1:].partition(":")[0]
    with pytest.raises(PlaybookError, match=f"store.{key} must be"):
        step(f"tool: {{kind: noop}}\noutput: {{store: {store}}}")


def test_pb_342_output_of_a_task_stays_with_the_task() -> None:
    """PB-342."""
    found = step("tool: [{name: a, kind: noop, output: {inline_max_bytes: 1}}]")
    assert decoded(found.tool) == {
        "kind": "task_sequence",
        "tasks": [{"label": "a", "kind": "noop", "output": {"inline_max_bytes": 1}}],
    }


@pytest.mark.parametrize(
    ("body", "bare"),
    [
        ("tool: {kind: noop}", True),
        ("tool: {kind: noop, set: {ctx.a: 1}}", True),
        ("tool: {kind: noop, result: 1}", False),
        ("tool: {kind: noop, message: hi}", False),
        ("tool: [{kind: noop}]", False),
        ("tool: {kind: python, code: x}", False),
    ],
)
def test_pb_645_a_bare_noop_has_nothing_to_return(body: str, bare: bool) -> None:
    """PB-645."""
    assert step(body).bare_noop is bare


@pytest.mark.parametrize(
    ("body", "pool"),
    [
        ("tool: {kind: noop}\nspec: {pool: gpu}", "gpu"),
        ("tool: {kind: noop, spec: {pool: gpu}}", "gpu"),
        ("tool: {kind: noop, pool: gpu}\nspec: {pool: own}", "own"),
        ("tool: {kind: postgres, query: q, pool: {min_size: 1}}", ""),
    ],
)
def test_a_pool_of_workers_is_a_text_and_a_pool_of_connections_a_map(
    body: str, pool: str
) -> None:
    """RT-NATS-3."""
    found = step(body)
    assert found.pool == pool
    assert ("pool" in bytes(found.tool).decode()) == (pool == "")


def test_pb_042_end_is_an_ordinary_step_when_defined() -> None:
    """PB-042."""
    playbook = load(book("- {step: start, tool: {kind: noop}, next: end}\n" + END))
    assert playbook.steps["end"].bare_noop
    assert playbook.steps["end"].next.arcs == ()


@pytest.mark.parametrize(
    ("tool", "found"),
    [
        (
            "{kind: http, url: u, spec: {timeout: {connect: 1, read: 2}}}",
            {
                "kind": "http",
                "url": "u",
                "spec": {"timeout": {"connect": 1, "read": 2}},
            },
        ),
        (
            "{kind: postgres, credential: db, query: q}",
            {"kind": "postgres", "auth": "db", "query": "q"},
        ),
        ("{kind: secrets, name: s}", {"kind": "secrets", "name": "s"}),
        (
            "{kind: noop, retry: {max_attempts: 2, backoff: linear, delay: 3}}",
            {
                "kind": "noop",
                "retry": {**RETRY_DEFAULT, "max_attempts": 2, "backoff": "linear"},
            },
        ),
    ],
)
def test_pb_063_keys_that_have_two_places(tool: str, found: dict[str, JSON]) -> None:
    """PB-063, PB-062, PB-156, TL-SPC-06."""
    config = decoded(step(f"tool: {tool}").tool)
    assert isinstance(config, dict)
    retry = config.get("retry")
    if isinstance(retry, dict):
        assert retry["backoff"] == "linear" and retry["delay_s"] == 3
    else:
        assert config == found


@pytest.mark.parametrize(
    ("backoff", "word", "delay"),
    [("7", "fixed", 7.0), ("'{{ w }}'", "{{ w }}", 1.0), ("", "fixed", 1.0)],
)
def test_pb_151_the_wait_of_a_rule(backoff: str, word: str, delay: float) -> None:
    """PB-151, PB-117."""
    rule = f"{{else: {{do: retry, attempts: '{{{{ n }}}}', backoff: {backoff}}}}}"
    config = decoded(step(f"tool: {{kind: noop, policy: {{rules: [{rule}]}}}}").tool)
    assert isinstance(config, dict)
    (found,) = config["policy"]  # type: ignore[misc]
    assert (found["backoff"], found["delay"]) == (word, delay)  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("script", "everything"),
    [
        ("{source: {code: 'result = 1'}}", False),
        ("{code: 'result = 1'}", False),
        ("{code: 'result = context'}", True),
        ("{source: here}", True),
        ("{uri: 's3://x'}", True),
        ("text", True),
    ],
)
def test_pb_346_code_is_looked_into_wherever_it_stands(
    script: str, everything: bool
) -> None:
    """PB-346."""
    assert step(f"tool: {{kind: python, script: {script}}}").full_context is everything
