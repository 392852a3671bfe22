"""The commands as people type them, against a stack that ``noetl dev`` holds up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from noetl_worker.cli.exits import ExitCode

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE_S = 60.0
HEAD = "apiVersion: noetl.io/v2\nkind: Playbook\nmetadata: {{name: {0}, path: t/{0}}}\n"

Done = subprocess.CompletedProcess[str]


@contextmanager
def dev(data: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``noetl dev`` on free ports, up when entered; ended when left."""
    command = [sys.executable, "-m", "noetl_worker", "dev", "--data", str(data)]
    with subprocess.Popen(
        [*command, "--port", "0", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(process, "Ctrl-C stops everything")
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=PATIENCE_S)


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read standard error until a line with ``text``; fails at its end."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return
    raise AssertionError(f"never said {text!r}:\n{seen}")


class Shell:
    """The command line beside a stack."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.addresses = json.loads((data / "lock").read_text())
        self.environ = {**os.environ, "NOETL_SERVER_URL": self.addresses["server_url"]}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "noetl_worker", *arguments],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> Done:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        return json.loads(done.stdout)

    def until_status(self, execution_id: str, status: str) -> dict[str, Any]:
        """Ask until an execution has a status."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = self.json("status", execution_id)
            if found["status"] == status:
                return dict(found)
        raise AssertionError(f"{execution_id} never became {status}")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    data = tmp_path_factory.mktemp("dev")
    with dev(data):
        yield Shell(data)


def written(folder: Path, name: str, steps: str) -> str:
    """A playbook file; its path in the catalog is ``t/<name>``."""
    file = folder / f"{name}.yaml"
    file.write_text(HEAD.format(name) + "workflow:\n" + steps)
    return str(file)


WAITS = "  - {step: start, tool: {kind: shell, cmds: ['sleep 30']}}\n"
FAILS = "  - {step: start, tool: {kind: python, code: \"raise ValueError('no')\"}}\n"


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("hello", {"greeting": "Hello, you!"}),
        ("loop", {"colours": ["1. red", "2. green", "3. blue"], "sum": 140}),
        (
            "errors",
            {"weather": "unknown", "stock": "from the cache", "because": "connection"},
        ),
        ("fan_in", {"words": 9, "letters": 35, "mean": 3.89}),
    ],
)
def test_every_small_example_gives_its_result(
    shell: Shell, name: str, result: object
) -> None:
    found = shell.json("run", str(EXAMPLES / f"{name}.yaml"))
    assert (found["status"], found["result"]) == ("COMPLETED", result)


def test_the_example_with_a_credential_signs_in_and_gives_nothing_away(
    shell: Shell, tmp_path: Path
) -> None:
    """SC-CR-02, RT-EVT-31: stored by file, listed without values, masked in the run."""
    address = shell.addresses["demo_dsn"]
    fields = tmp_path / "demo.json"
    fields.write_text(json.dumps({"connection_string": address}))
    made = shell("credential", "add", "demo", "--data", str(fields), "--tag", "shop")
    assert (made.returncode, made.stdout) == (0, "demo (postgres) is stored\n")
    [listed] = shell.json("credential", "list")
    assert (listed["name"], listed["type"], listed["tags"]) == (
        "demo",
        "postgres",
        ["shop"],
    )
    found = shell.json("run", str(EXAMPLES / "credentials.yaml"))
    assert found["status"] == "COMPLETED", found
    assert found["result"] == {"answer": "signed in with [REDACTED]"}
    events = shell("events", found["execution_id"], "--json")
    assert address not in events.stdout


def test_a_credential_is_shown_to_whoever_has_the_token(shell: Shell) -> None:
    """SC-CR-03."""
    shell("credential", "add", "api", "--env", "token=HOME", "--description", "mine")
    plain = shell.json("credential", "show", "api")
    assert "data" not in plain
    assert (plain["type"], plain["description"]) == ("bearer", "mine")
    refused = shell("credential", "show", "api", "--reveal")
    assert refused.returncode == ExitCode.REFUSED
    token = (shell.data / "secrets" / "internal_token").read_text()
    shell.environ["NOETL_INTERNAL_API_TOKEN"] = token
    try:
        revealed = shell.json("credential", "show", "api", "--reveal")
    finally:
        del shell.environ["NOETL_INTERNAL_API_TOKEN"]
    assert revealed["data"] == {"token": os.environ["HOME"]}
    assert shell("credential", "remove", "api").stdout == "api is deleted\n"
    gone = shell("credential", "remove", "api")
    assert gone.returncode == ExitCode.NOT_FOUND
    assert "api" in gone.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "db_password=hunter22"), "--ask db_password"),
        (("--set", "nothing"), "write field=value"),
        (("--env", "token"), "write field=VARIABLE"),
        (("--env", "token=NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE is not set"),
        (("--data", "/nowhere.json"), "cannot be read"),
        ((), "give fields"),
    ],
)
def test_a_secret_is_not_taken_from_the_command_line(
    shell: Shell, arguments: tuple[str, ...], words: str
) -> None:
    """SC-LG-02: others could read it there; what to do instead is said."""
    done = shell("credential", "add", "x", *arguments)
    assert done.returncode == ExitCode.USAGE
    assert words in done.stderr
    assert "hunter22" not in done.stderr


def test_the_example_that_moves_data_may_run_again(shell: Shell) -> None:
    """Through three tools and two databases; the report is merged, not doubled."""
    database = f"database={shell.addresses['demo_dsn']}"
    file = str(EXAMPLES / "move_data.yaml")
    for _ in range(2):
        found = shell.json("run", file, "--set", database, "--set", "sales=2000")
        assert found["status"] == "COMPLETED", found
    result = found["result"]
    assert (result["copied"], result["merged"]) == (2000, 4)
    assert result["report"][0] == {"country": "AT", "sales": 500, "amount": "24875.90"}


@pytest.mark.parametrize(
    ("target", "verdict", "reviewed"),
    [(1000, "on target", 0), (10**9, "below target, weakest is IT", 1)],
)
def test_the_orders_example_branches_on_what_it_finds(
    tmp_path: Path, target: int, verdict: str, reviewed: int
) -> None:
    """What ``make run`` does: the stack, the API beside, the run, and everything down."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "noetl_worker", "dev", "--data", str(tmp_path)),
            *("--port", "0", "--json", "--run", "examples/orders/playbook.yaml"),
            *("--with", "python examples/orders/api.py {port}"),
            *("--set", "api=http://127.0.0.1:{port}", "--set", "database={demo_dsn}"),
            *("--set", f"target={target}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == ExitCode.OK, done.stderr
    found = json.loads(done.stdout)
    steps = {step["step"]: step for step in found["steps"]}
    assert found["result"]["verdict"] == verdict
    assert found["result"]["orders_loaded"] + found["result"]["orders_dropped"] == 240
    assert steps["page"]["visits"] == 6
    assert steps["vat"]["tries"] >= 5
    assert steps["review"]["visits"] == reviewed
    assert steps["sorry"]["status"] == "SKIPPED"


def test_an_execution_that_fails_is_exit_code_1(shell: Shell, tmp_path: Path) -> None:
    done = shell("run", written(tmp_path, "fails", FAILS))
    assert done.returncode == ExitCode.FAILED
    assert "error: Failed steps: start: ValueError: no" in done.stdout
    assert "noetl events" in done.stdout


def test_cancelling_ends_the_run_that_is_looked_at(
    shell: Shell, tmp_path: Path
) -> None:
    """RT-EXN-6."""
    looking = shell.start("run", written(tmp_path, "cancelled", WAITS), "--json")
    found: list[Any] = []
    while not found:
        found = shell.json("list", "--path", "t/cancelled")
    assert shell("cancel", found[0]["execution_id"]).returncode == ExitCode.OK
    out, _ = looking.communicate(timeout=PATIENCE_S)
    assert looking.returncode == ExitCode.CANCELLED
    assert json.loads(out)["steps"][0]["status"] == "CANCELLED"


def test_ctrl_c_stops_the_looking_only(shell: Shell, tmp_path: Path) -> None:
    looking = shell.start("run", written(tmp_path, "left", WAITS))
    assert looking.stdout is not None
    assert "execution" in looking.stdout.readline()
    assert "running" in looking.stdout.readline()
    looking.send_signal(signal.SIGINT)
    _, told = looking.communicate(timeout=PATIENCE_S)
    assert looking.returncode == ExitCode.INTERRUPTED
    execution_id = told.split("noetl cancel ")[1].strip()
    assert shell.json("status", execution_id)["status"] == "RUNNING"
    assert shell("cancel", execution_id).returncode == ExitCode.OK
    shell.until_status(execution_id, "CANCELLED")


def test_without_waiting_only_the_id_is_printed(shell: Shell, tmp_path: Path) -> None:
    file = written(tmp_path, "quiet", "  - {step: start, tool: {kind: noop}}\n")
    assert shell("register", file).stdout == "t/quiet version 1\n"
    execution_id = shell("exec", "t/quiet", "--no-wait").stdout.strip()
    found = shell.until_status(execution_id, "COMPLETED")
    assert found["path"] == "t/quiet"
    shown = shell("status", execution_id).stdout
    assert "COMPLETED" in shown
    assert "t/quiet" in shown


def test_events_are_told_oldest_first(shell: Shell, tmp_path: Path) -> None:
    file = written(tmp_path, "told", "  - {step: start, tool: {kind: noop}}\n")
    execution_id = shell.json("run", file)["execution_id"]
    kinds: list[str] = []
    while "playbook.completed" not in kinds:  # rows follow the log
        kinds = [one["event_type"] for one in shell.json("events", execution_id)]
    assert kinds[0] == "playbook_started"
    assert kinds[-1] == "playbook.completed"
    only = shell.json("events", execution_id, "--type", "step.enter")
    assert [one["node_name"] for one in only] == ["start"]
    assert len(shell.json("events", execution_id, "--limit", "2")) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["status", "1"], ExitCode.NOT_FOUND, "1"),
        (["events", "1"], ExitCode.NOT_FOUND, "1"),
        (["cancel", "1"], ExitCode.NOT_FOUND, "1"),
        (["exec", "no/such"], ExitCode.NOT_FOUND, "no/such"),
    ],
)
def test_what_does_not_exist_is_exit_code_4(
    shell: Shell, arguments: list[str], code: ExitCode, says: str
) -> None:
    done = shell(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


def test_an_invalid_playbook_is_kept_and_never_run(
    shell: Shell, tmp_path: Path
) -> None:
    """PB-700: registering keeps drafts, executing refuses them."""
    file = written(
        tmp_path, "draft", "  - {step: start, tool: {kind: noop}, next: nowhere}\n"
    )
    kept = shell("register", file)
    assert kept.returncode == ExitCode.OK
    assert f"{file}:5: PB-722" in kept.stderr
    refused = shell("exec", "t/draft")
    assert refused.returncode == ExitCode.INVALID
    assert "nowhere" in refused.stderr


def test_a_workload_no_request_may_hold_is_one_clear_error(
    shell: Shell, tmp_path: Path
) -> None:
    payload = tmp_path / "large.json"
    payload.write_text(json.dumps({"blob": "x" * 12_000_000}))
    file = str(EXAMPLES / "hello.yaml")
    done = shell("run", file, "--payload", str(payload))
    assert done.returncode == ExitCode.INVALID, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "413" in done.stderr


def test_a_second_stack_on_the_same_folder_names_the_first(shell: Shell) -> None:
    done = shell("dev", "--data", str(shell.data), "--port", "0")
    assert done.returncode == ExitCode.UNAVAILABLE
    assert f"in use by process {shell.addresses['pid']}" in done.stderr


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_stopping_loses_nothing(tmp_path: Path, end: signal.Signals) -> None:
    """An execution that runs when the stack stops ends after the next start."""
    steps = (
        "  - {step: start, tool: {kind: shell, cmds: ['sleep 1']}, next: b}\n"
        "  - {step: b, tool: {kind: python, code: 'result = 7'}}\n"
    )
    data = tmp_path / "data"
    with dev(data) as process:
        shell = Shell(data)
        shell("register", written(tmp_path, "kept", steps))
        execution_id = shell("exec", "t/kept", "--no-wait").stdout.strip()
        process.send_signal(end)
        _, told = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == ExitCode.OK
        assert "the next start goes on from here" in told
    with dev(data):
        shell = Shell(data)
        shell.until_status(execution_id, "COMPLETED")
        assert shell.json("exec", "t/kept")["result"] == 7


STANDS = """\
  - step: start
    tool: {kind: noop}
    next: {spec: {mode: inclusive}, arcs: [{step: gpu}, {step: slow}, {step: quick}]}
  - {step: gpu, spec: {pool: gpu}, tool: {kind: noop}, next: [{step: both}]}
  - {step: slow, tool: {kind: shell, cmds: ['sleep 30']}, next: [{step: both}]}
  - {step: quick, tool: {kind: noop}, next: [{step: both}]}
  - {step: both, tool: {kind: noop}}
"""


def test_why_names_what_an_execution_waits_for(shell: Shell, tmp_path: Path) -> None:
    """The owner's word: the pool nobody serves, the worker that runs, the join."""
    file = written(tmp_path, "stands", STANDS)
    execution_id = shell("run", file, "--no-wait").stdout.strip()
    found: dict[str, Any] = {}
    waits: dict[str, Any] = {}
    while "both" not in waits or not waits["slow"].get("worker"):
        found = shell.json("why", execution_id)
        waits = {wait["step"]: wait for wait in found["waiting"]}
    assert found["source"] == "owner"
    assert (waits["gpu"]["pool"], waits["gpu"].get("starts")) == ("gpu", None)
    assert (waits["slow"]["pool"], waits["slow"]["starts"]) == ("shared", 1)
    assert waits["both"]["arrived_from"] == ["quick"]
    assert sorted(waits["both"]["blocked_by"]) == ["gpu", "slow"]
    assert found["last_decision"]["cause"]["event_type"].startswith("command.")
    told = shell("why", execution_id).stdout
    assert "pool gpu" in told
    assert "last decision: " in told
    shell("cancel", execution_id)
    over = shell("why", execution_id)
    assert "it is over, CANCELLED" in over.stdout


def test_a_run_is_taken_away_and_decided_again(shell: Shell, tmp_path: Path) -> None:
    """RT-DRV-4: byte for byte, without a server."""
    execution_id = shell.json("run", str(EXAMPLES / "errors.yaml"))["execution_id"]
    file = tmp_path / "run.jsonl"
    written_down = shell("export", execution_id, "--out", str(file))
    assert written_down.returncode == ExitCode.OK, written_down.stderr
    assert "from the log" in written_down.stderr
    away = {**shell.environ, "NOETL_SERVER_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "noetl_worker", "replay", str(file), "--json"],
        env=away,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == ExitCode.OK, done.stderr
    found = json.loads(done.stdout)
    assert found["sound"]
    assert {one["verdict"] for one in found["decisions"]} == {"equal"}
    assert found["state"]["variables"] == {"weather": "unknown"}
    pictured = shell("graph", execution_id).stdout
    assert "strict  http  failed" in pictured
    assert "completed" in shell("graph", execution_id, "--mermaid").stdout
