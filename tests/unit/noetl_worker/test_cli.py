"""The command line as a process: exit codes, errors, what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from noetl_worker.cli.exits import ExitCode, UsageError, exit_code_of
from noetl_worker.cli.main import run
from noetl_worker.cli.options import workload_of
from noetl_worker.cli.screen import duration, pretty
from state_builder import errors

NOBODY = "http://127.0.0.1:9"
"""A port nothing listens on (discard)."""

GOOD = """
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: good, path: demo/good}
workflow:
  - {step: start, tool: {kind: noop}}
"""
BAD = """
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: bad, path: demo/bad}
workflow:
  - step: start
    tool: {kind: noop}
    next: nowhere
"""


def noetl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "noetl_worker", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_help_lists_every_command_without_importing_them() -> None:
    done = noetl("--help")
    assert done.returncode == 0
    for name in ("dev", "run", "exec", "register", "status", "events", "cancel", "test",
                 "list", "server", "system", "worker", "materializer"):  # fmt: skip
        assert f" {name} " in done.stdout
    heavy = "import sys; from noetl_worker.cli.main import build; build();"
    probe = f"{heavy} print([m for m in ('httpx','nats','duckdb') if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["bogus"], ExitCode.USAGE, "bogus"),
        (["status"], ExitCode.USAGE, "requires an argument"),
        (["status", "abc"], ExitCode.USAGE, "write its digits"),
        (["status", "1", "--server", NOBODY], ExitCode.UNAVAILABLE, "cannot be reach"),
        (["why", "x"], ExitCode.USAGE, "write its digits"),
        (["why", "1", "--server", NOBODY], ExitCode.UNAVAILABLE, "`noetl dev` starts"),
        (["export", "1", "--server", NOBODY], ExitCode.UNAVAILABLE, "cannot be reach"),
        (["replay", "1", "--server", NOBODY], ExitCode.UNAVAILABLE, "cannot be reach"),
        (["graph", "1", "--server", NOBODY], ExitCode.UNAVAILABLE, "cannot be reach"),
        (["list", "--server", NOBODY], ExitCode.UNAVAILABLE, "cannot be reached"),
        (["list", "--server", "localhost"], ExitCode.USAGE, "http://"),
        (["exec", "a", "--set", "x"], ExitCode.USAGE, "--set x: write key=value"),
        (["run", "/no/file"], ExitCode.USAGE, "/no/file: cannot be read"),
        (["lint"], ExitCode.USAGE, "requires an argument"),
        (["test"], ExitCode.USAGE, "requires an argument"),
        (["dev", "--keep"], ExitCode.USAGE, "go with --run"),
        (["dev", "--data", "/dev/null"], ExitCode.UNAVAILABLE, "cannot be used"),
        (["dev", "--port", "99999"], ExitCode.USAGE, "99999"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_error_and_its_exit_code(
    arguments: list[str], code: ExitCode, says: str
) -> None:
    done = noetl(*arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "", "errors never reach standard output"


def test_wrong_settings_name_the_variable() -> None:
    environ = {**os.environ, "NOETL_WORKER_SLOTS": "many"}
    done = subprocess.run(
        [sys.executable, "-m", "noetl_worker", "worker"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environ,
    )
    assert done.returncode == ExitCode.USAGE
    assert "NOETL_WORKER_SLOTS" in done.stderr
    assert "Traceback" not in done.stderr


def test_lint_names_file_line_and_rule(tmp_path: Path) -> None:
    """PB-700: findings with path and line."""
    bad, good = tmp_path / "bad.yaml", tmp_path / "good.yaml"
    bad.write_text(BAD)
    good.write_text(GOOD)
    done = noetl("lint", str(bad), str(good))
    assert done.returncode == ExitCode.FAILED
    [found] = [line for line in done.stdout.splitlines() if line.startswith("error")]
    assert f"{bad}:8: PB-" in found
    assert "nowhere" in found
    shown = noetl("lint", str(bad), "--json")
    assert json.loads(shown.stdout)[0]["line"] == 8
    assert noetl("lint", str(good)).returncode == ExitCode.OK


def test_run_refuses_a_broken_playbook_before_it_needs_a_server(
    tmp_path: Path,
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("workflow: [")
    done = noetl("run", str(bad), "--server", NOBODY)
    assert done.returncode == ExitCode.INVALID
    assert f"{bad}:1: " in done.stderr


def test_settings_as_json_is_one_value() -> None:
    done = noetl("settings", "--json")
    names = [one["name"] for one in json.loads(done.stdout)]
    assert "NATS_URL" in names
    assert len(names) == len(set(names))


def test_a_reader_that_leaves_early_is_no_error() -> None:
    with subprocess.Popen(
        f"{sys.executable} -m noetl_worker settings | head -1",
        shell=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as piped:
        assert piped.stderr is not None
        assert piped.stderr.read() == b""


@pytest.mark.parametrize(
    ("assignments", "workload"),
    [
        (("a=1", "b=x", 'c="1"'), {"a": 1, "b": "x", "c": "1"}),
        (("a.b=true", "a.c=[1,2]"), {"a": {"b": True, "c": [1, 2]}}),
        (("a=1", "a=2"), {"a": 2}),
        (("url=http://h/?q=1",), {"url": "http://h/?q=1"}),
        (("empty=",), {"empty": ""}),
    ],
)
def test_assignments_become_the_workload(
    assignments: tuple[str, ...], workload: object
) -> None:
    assert workload_of(None, assignments) == workload


@pytest.mark.parametrize("wrong", ["", "=1", "a", "a..b=1", ".a=1"])
def test_an_assignment_without_a_key_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="write key=value"):
        workload_of(None, (wrong,))


def test_an_assignment_into_no_map_is_refused() -> None:
    with pytest.raises(UsageError, match="'a' is no map"):
        workload_of(None, ("a=1", "a.b=2"))


def test_assignments_overlay_the_payload_file(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text("a: 1\nb: {c: 2}\n")
    assert workload_of(file, ("b.d=3",)) == {"a": 1, "b": {"c": 2, "d": 3}}
    file.write_text('{"a": [1, 2]}')
    assert workload_of(file, ()) == {"a": [1, 2]}
    file.write_text("a: [1\n")
    with pytest.raises(UsageError, match=rf"{file}:\d+: "):
        workload_of(file, ())


def test_a_json_payload_is_read_as_json(tmp_path: Path) -> None:
    file = tmp_path / "w.json"
    file.write_text('{"a": "0042", "b": null}')
    assert workload_of(file, ()) == {"a": "0042", "b": None}
    file.write_text('{"a": ')
    with pytest.raises(UsageError, match=rf"{file}: no JSON: "):
        workload_of(file, ())
    file.write_text("[1]")
    with pytest.raises(UsageError, match=rf"{file}: a workload is a JSON object"):
        workload_of(file, ())


def test_errors_have_one_exit_code_each() -> None:
    assert {
        kind: exit_code_of(kind("x"))
        for kind in (errors.SettingsError, errors.NotFoundError, errors.InvalidError,
                     errors.UnavailableError, errors.RefusedError, UsageError)
    } == {
        errors.SettingsError: ExitCode.USAGE,
        errors.NotFoundError: ExitCode.NOT_FOUND,
        errors.InvalidError: ExitCode.INVALID,
        errors.UnavailableError: ExitCode.UNAVAILABLE,
        errors.RefusedError: ExitCode.REFUSED,
        UsageError: ExitCode.USAGE,
    }  # fmt: skip


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out.strip().count(".") == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0123, "12 ms"), (1.5, "1.50 s"), (61, "1 m 01 s"),
     (3700, "1 h 01 m")],
)  # fmt: skip
def test_spans_of_time_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_long_results_are_cut_and_say_so() -> None:
    text = pretty(["x" * 50] * 200, 1000)
    assert len(text) < 1100
    assert "--json prints all" in text
