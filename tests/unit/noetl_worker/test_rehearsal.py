"""``noetl test``: cases are read totally, tools are scripted, all else is real."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.main import run
from noetl_worker.rehearsal import CaseError, Rehearsal, read_cases, rehearse
from state_builder.errors import InvalidError
from state_builder.playbook import load

EXAMPLES = Path(__file__).parents[3] / "examples"
PLAYBOOK = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: shop, path: tests/shop}
workload: {count: 2}
workflow:
  - step: start
    tool: {kind: http, url: "http://shop/{{ workload.count }}"}
    set: {ctx.seen: "{{ start.body }}"}
    next:
      spec: {mode: exclusive}
      arcs:
        - {step: many, when: "{{ workload.count > 1 }}"}
        - {step: few}
  - step: many
    tool:
      - {name: a, kind: python, code: "result = 1"}
      - {name: b, kind: python, input: {x: "{{ a.n }}"}, code: "result = 2"}
  - {step: few, tool: {kind: noop}}
"""
TOOLS = """\
tools:
  start: {status_code: 200, body: 7}
  many: {tasks: {a: {n: 3}, b: {data: [1, 2]}}}
"""
CALLER = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: caller, path: tests/caller}
workflow:
  - step: start
    tool: {kind: playbook, path: tests/shop, input: {count: 1}}
"""


def no_file(name: str) -> str:
    raise InvalidError(f"{name}: there are no files here")


def rehearsed(cases: str, playbook: str = PLAYBOOK) -> Rehearsal:
    """What came of the only case."""
    files = {"shop.yaml": PLAYBOOK}
    [case] = read_cases("shop.test.yaml", cases, load(playbook), files.__getitem__)
    return anyio.run(rehearse, playbook, case)


def test_every_example_passes_its_cases(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["test", str(EXAMPLES), "--json"]) == ExitCode.OK
    told = json.loads(capfd.readouterr().out)
    tested = {Path(one["playbook"]) for one in told["files"]}
    assert tested == {
        path for path in EXAMPLES.rglob("*.yaml") if ".test." not in path.name
    }
    assert told["passed"] > len(tested)
    assert told["failed"] == told["unusable"] == 0


@pytest.mark.parametrize(
    ("expect", "what"),
    [
        ("status: FAILED", ["status"]),
        ("result: 1", ["result"]),
        ("steps: {many: failed}", ["steps.many.status"]),
        ("steps: {start: {visits: 2}}", ["steps.start.visits"]),
        (
            "steps: {many: {result: {a: {n: 3}, b: [1, 9], n: 3}}}",
            ["steps.many.result.b[1]"],
        ),
        ("arcs: [start -> few]", ["arc start -> few"]),
        ("arcs: [not start -> many]", ["arc start -> many"]),
        ("variables: {seen: 8}", ["variables.seen"]),
        ("variables: {unseen: 8}", ["variables.unseen"]),
        ("calls: {start: {url: 'http://shop/3'}}", ["calls.start.url"]),
        ("calls: {many.b: {input: {x: 4}}}", ["calls.many.b.input.x"]),
        ("calls: {start: []}", ["calls.start"]),
        ("error: no stock", ["status", "error"]),
        (
            "{status: COMPLETED, steps: {start: completed, few: skipped}, "
            "variables: {seen: 7}, arcs: [start -> many, not start -> few], "
            "calls: {start: {url: 'http://shop/2'}, many.b: {input: {x: 3}}}}",
            [],
        ),
    ],
)
def test_every_difference_is_named(expect: str, what: list[str]) -> None:
    block = expect if expect.startswith("{") else f"{{{expect}}}"
    came = rehearsed(f"{TOOLS}cases: [{{name: one, expect: {block}}}]")
    assert not came.problem
    assert [one.what for one in came.differences] == what
    assert came.passed is not bool(what)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("cases: [", 1, "Invalid YAML"),
        ("cases: []", 1, "write a list of cases"),
        ("cases:\n  - {name: ''}", 2, "a case needs a name"),
        ("cases:\n  - {name: a}\n  - {name: a}", 3, "two cases are named 'a'"),
        ("cases:\n  - {name: a, wrkload: {}}", 2, "unknown key 'wrkload'"),
        ("cases:\n  - name: a\n    order: random", 3, "order must be one of"),
        ("cases:\n  - name: a\n    tools: {gone: 1}", 3, "has no step 'gone'"),
        ("cases:\n  - name: a\n    tools: {start: {fail: x}}", 3, "no kind of error"),
        (
            "cases:\n  - name: a\n    tools: {start: {fail: io, b: 1}}",
            3,
            "under 'data'",
        ),
        ("cases:\n  - name: a\n    expect: {arcs: [start]}", 3, "'a -> b'"),
        ("cases:\n  - name: a\n    expect: {arcs: [few -> many]}", 3, "has no arc"),
        ("cases:\n  - name: a\n    expect: {status: DONE}", 3, "status must be one of"),
        ("cases:\n  - name: a\n    expect: {steps: {many: up}}", 3, "of a step is one"),
        ("cases:\n  - name: a\n    expect: {calls: {many.c: {}}}", 3, "no task 'c'"),
        ("cases:\n  - name: a\n    children: {p: p.yaml}", 3, "there are no files"),
    ],
)
def test_a_broken_file_is_one_error_with_its_line(
    text: str, line: int, says: str
) -> None:
    with pytest.raises(CaseError, match=r"shop\.test") as raised:
        read_cases("shop.test.yaml", text, load(PLAYBOOK), no_file)
    assert str(raised.value).startswith(f"shop.test.yaml:{line}:")
    assert says in str(raised.value)


def test_a_tool_nobody_answers_for_says_what_to_write() -> None:
    came = rehearsed("cases: [{name: a, tools: {start: {status_code: 200}}}]")
    assert not came.passed
    assert "task 'a' runs a python tool" in came.problem
    assert "tools.many.tasks.a" in came.problem


def test_a_called_playbook_runs_on_its_own_answers() -> None:
    came = rehearsed(
        "cases: [{name: a, children: {tests/shop: {file: shop.yaml, "
        "tools: {start: {status_code: 200, body: 5}}}}}]",
        CALLER,
    )
    assert came.passed, came


def test_a_failing_case_exits_with_1_and_shows_the_difference(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop.yaml").write_text(PLAYBOOK)
    cases = tmp_path / "shop.test.yaml"
    cases.write_text(
        f"{TOOLS}cases: [{{name: seen, expect: {{variables: {{seen: 8}}}}}}]"
    )
    assert run(["test", str(cases)]) == ExitCode.FAILED
    told = capfd.readouterr().out
    assert "FAIL seen" in told
    assert "variables.seen\n         expected  8\n         got       7" in told
    assert "run start" in told, "what happened is told in words"
    cases.write_text("cases: 3")
    assert run(["test", str(tmp_path)]) == ExitCode.INVALID
    assert run(["test", str(tmp_path / "shop.yaml"), "--case", "none"]) == 3
