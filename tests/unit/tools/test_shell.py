"""``shell``: what a list of commands gives, and what its errors say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from calls import call, context, failure, refusal

from tools.contract import ToolLimits
from tools.errors import ToolCallError
from tools.kinds.shell import ENTRY_TIMEOUT_S, Shell

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell"),
]


@pytest.fixture
def limits(tmp_path: Path) -> ToolLimits:
    return ToolLimits(
        data_dir=str(tmp_path), environment={"KUBERNETES_SERVICE_HOST": "k"}
    )


@pytest.fixture
def shell(limits: ToolLimits) -> Shell:
    return Shell(limits)


async def test_commands_run_in_order_until_one_fails(
    shell: Shell, limits: ToolLimits
) -> None:
    """TL-SH-01, TL-SH-03, TL-SH-04: the data of a failure is kept."""
    cmds = ["echo one", "echo two >&2; exit 3", "echo three"]
    error = await refusal(shell, limits, cmds=cmds)
    failed = error.failure
    assert (failed.kind, failed.code, failed.retryable) == ("process", "EXIT_3", False)
    assert failed.message == "Command exited with code 3"
    data: Any = error.data
    for entry in (data, *data["commands"]):
        assert entry.pop("duration_ms") > 0
    assert data == {
        "exit_code": 3,
        "returncode": 3,
        "stdout": "one\n",
        "stderr": "two\n",
        "text": "one\n",
        "commands": [
            {
                "cmd_preview": "echo one",
                "exit_code": 0,
                "returncode": 0,
                "stdout": "one\n",
                "stderr": "",
            },
            {
                "cmd_preview": "echo two >&2; exit 3",
                "exit_code": 3,
                "returncode": 3,
                "stdout": "",
                "stderr": "two\n",
            },
        ],
    }
    assert error.helpers == {"exit_code": 3, "stdout": "one\n", "stderr": "two\n"}


GIVES: dict[str, tuple[dict[str, Any], str]] = {
    "cmd": ({"cmd": "echo a"}, "a\n"),
    "command": ({"command": "echo a"}, "a\n"),
    "commands": ({"commands": ["echo a", "echo b"]}, "a\nb\n"),
    "nothing is trimmed": ({"cmd": "printf ' a \\n\\n'"}, " a \n\n"),
    "no UTF-8": ({"cmd": "printf 'a\\377b'"}, "a\ufffdb"),
    "not captured": ({"cmd": "echo a", "capture": "false"}, ""),
    "other shell": ({"cmd": "echo $0 $1", "shell": "/bin/sh"}, "/bin/sh\n"),
    "input": (
        {
            "cmd": 'printf %s "$NOETL_ARG_A$NOETL_ARG_B_C$NOETL_ARG_N"',
            "input": {"a": "it's \"$(id)\"", "b-c": {"x": [1]}, "n": None},
        },
        'it\'s "$(id)"{"x":[1]}null',
    ),
    "env": (
        {"cmd": "echo $A$B$C$KUBERNETES_SERVICE_HOST", "env": {"A": 1, "B": True, "C": None}},
        "1truek\n",
    ),
    "no stdin": ({"cmd": "read line || echo nobody"}, "nobody\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", GIVES)
async def test_a_command_gives(shell: Shell, limits: ToolLimits, name: str) -> None:
    """TL-SH-03, TL-SH-05, TL-SH-06, TL-SH-08, TL-SEC-03: input is data, never code."""
    config, text = GIVES[name]
    result = await call(shell, limits, **config)
    assert isinstance(result.data, dict)
    assert result.data["stdout"] == result.data["text"] == text


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "cmds: an empty command cannot run"),
    "empty": ({"cmds": ["echo", " "]}, "cmds: an empty command cannot run"),
    "no text": ({"cmds": ["echo", 3]}, "cmds[1] must be a text, got a number 3"),
    "NUL": ({"cmd": "echo \0"}, "cmd: a command cannot contain NUL"),
    "env": ({"cmd": "x", "env": {"A": [1]}}, "env.A must be a text or a number"),
    "env name": ({"cmd": "x", "env": {"A=B": 1}}, "'A=B' cannot be the name"),
    "input NUL": ({"cmd": "x", "input": {"a": "\0"}}, "input.a contains NUL"),
    "capture": ({"cmd": "x", "capture": "maybe"}, "capture must be true or false"),
    "shell": ({"cmd": "x", "shell": "/no/sh"}, "cannot start /no/sh: no such program"),
    "cwd outside": ({"cmd": "x", "cwd": "/etc"}, "cwd: '/etc' is outside"),
    "cwd above": ({"cmd": "x", "cwd": "../.."}, "cwd: '../..' is outside"),
    "no cwd": ({"cmd": "x", "cwd": "no"}, "cwd: 'no' is not a directory"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_run_is_refused_by_name(
    shell: Shell, limits: ToolLimits, name: str
) -> None:
    """TL-SH-06, TL-SH-08, TL-INT-04, TL-SEC-04."""
    config, words = REFUSED[name]
    error = await failure(shell, limits, **config)
    assert error.kind == "configuration" and words in error.message


async def test_a_command_ended_by_a_signal_says_which(
    shell: Shell, limits: ToolLimits
) -> None:
    """TL-SH-04: 128 + the signal."""
    error = await failure(shell, limits, cmd="kill -9 $$")
    assert (error.code, error.message) == ("EXIT_137", "Command exited with code 137")


async def test_a_process_knows_the_trace_it_belongs_to(
    shell: Shell, limits: ToolLimits
) -> None:
    """RT-OBS-10: unless the step says otherwise."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    at = context(limits, traceparent=trace)
    for env, wanted in (({}, trace), ({"TRACEPARENT": "mine"}, "mine")):
        config = {"cmds": "echo $TRACEPARENT", "env": env}
        result = await shell.run(shell.validate(config), at)
        assert isinstance(result.data, dict)
        assert wanted in str(result.data)


async def test_secrets_do_not_show_in_previews(
    shell: Shell, limits: ToolLimits
) -> None:
    """TL-SH-03."""
    token = "ghp_" + "a1" * 18
    result = await call(shell, limits, cmd=f": {token} {'x' * 200}")
    data: Any = result.data
    preview = data["commands"][0]["cmd_preview"]
    assert "ghp_" not in preview and len(preview) <= 120


async def test_every_command_has_its_own_time(shell: Shell, limits: ToolLimits) -> None:
    """TL-SH-02."""
    config = shell.validate({"cmds": ["true", "sleep 60"]})
    assert shell.default_timeout_s(config) == 2 * ENTRY_TIMEOUT_S
    with pytest.raises(ToolCallError, match=r"timed out after 0\.2 seconds"):
        await shell.run(config, context(limits, timeout_s=0.2))


async def test_the_directory_is_fresh_and_removed(
    shell: Shell, limits: ToolLimits
) -> None:
    """TL-SH-08: unless one below the roots is named."""
    data: Any = (await call(shell, limits, cmd="touch f; ls; pwd")).data
    name, place = data["stdout"].split()
    assert name == "f" and not Path(place).exists()
    (Path(limits.data_dir) / "mine").mkdir()
    data = (await call(shell, limits, cmd="pwd", cwd="mine")).data
    assert Path(data["stdout"].strip()) == (Path(limits.data_dir) / "mine").resolve()
