"""``python``: what user code is given, what it gives back, what its errors say."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from calls import call, context, failure, refusal
from web_server import WebServer, reply

from tools.contract import ToolLimits
from tools.errors import ToolCallError
from tools.kinds.python import Python

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> ToolLimits:
    root = tmp_path_factory.mktemp("data")
    (root / "scripts").mkdir()
    return ToolLimits(
        data_dir=str(root), script_root=str(root / "scripts"), python_children_max=1
    )


@pytest.fixture(scope="module")
async def python(limits: ToolLimits) -> AsyncIterator[Python]:
    tool = Python(limits)
    yield tool
    await tool.close()


INPUT = {"x": 3, "class": 1, "os": "mine", "not a name": 2, "result": 9}

GIVES: dict[str, tuple[str, Any]] = {
    # rule and case: (code, data)
    "PY-04 input": ("result = [x, args['class'], os, input_data is args]", [3, 1, "mine", True]),
    "PY-04 keywords are no names": ("result = 'class' in globals()", False),
    "PY-04 modules": ("result = [json.dumps(1), datetime.date(2020, 1, 2), uuid.UUID(int=0)]", ["1", "2020-01-02", "00000000-0000-0000-0000-000000000000"]),
    "PY-04 context": ("result = [context.get('x'), context.get('load'), variables['load'], context.get('execution_id')]", [3, {"n": 1}, {"n": 1}, "7"]),
    "PY-04 place": ("result = [workload, execution_id, step]", [{"w": 1}, "7", "s"]),
    "PY-04 no secrets": ("result = sorted(n for n in globals() if 'secret' in n.lower() or 'token' in n.lower())", []),
    "PY-07 result": ("result = {'a': 1}\ndef main(): return 2", {"a": 1}),
    "PY-07 given result does not count": ("def main(): return 2", 2),
    "PY-07 no result falls through": ("result = None\ndef main(): return 2", 2),
    "PY-07 false is a result": ("result = 0", 0),
    "PY-07 return": ("if x == 3:\n    return {'y': x}\nreturn 0", {"y": 3}),
    "PY-07 return sees names": ("y: int = 4\ndef f(): return y\nreturn f() + x", 7),
    "PY-07 outputs": ("import sys\nprint('out')\nprint('err', file=sys.stderr)", {"stdout": "out\n", "stderr": "err\n"}),
    "PY-09 one printed document": ("print('{\"a\": [1]}')", {"a": [1]}),
    "PY-09 two are text": ("print('{}')\nprint('{}')", {"stdout": "{}\n{}\n", "stderr": ""}),
    "PY-08 names": ("def main(x, load, y=5, *, step): return [x, load, y, step]", [3, {"n": 1}, 5, "s"]),
    "PY-08 objects": ("def main(context, args, variables): return [context['x'], args['x'], variables['step']]", [3, 3, "s"]),
    "PY-08 rest": ("def main(x, **rest): return sorted(rest)", ["class", "not a name", "os", "result"]),
    "PY-08 async": ("import asyncio\nasync def main(x):\n    await asyncio.sleep(0)\n    return x", 3),
    "PY-10 RES-06 plain": ("import decimal\nresult = [b'ab', {1}, (1, 2), decimal.Decimal('1.10'), datetime.time(1, 2), 2**70, float('nan'), -float('inf')]", ["YWI=", [1], [1, 2], "1.10", "01:02:00", 2**70, None, None]),
    "PY-10 RES-06 keys": ("result = {1: 'a', None: 'b', True: 'c'}", {"1": "c", "null": "b"}),
    "PY-10 anything": ("class A:\n    def __str__(self): return 'me'\nresult = {'a': A(), 'n': datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.timezone.utc)}", {"a": "me", "n": "2020-01-02T03:00:00+00:00"}),
    "PY-12 leaving well": ("import sys\nresult = 1\nsys.exit(0)", 1),
    "PY-12 leaving with nothing": ("import sys\nprint('x')\nsys.exit()", {"stdout": "x\n", "stderr": ""}),
    "PY-03 a printed answer is a print": ("import sys\nprint('{\"id\": \"x\", \"value\": 1}')\nresult = 2", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", GIVES)
async def test_code_gives(python: Python, limits: ToolLimits, name: str) -> None:
    """TL-PY-03, TL-PY-04, TL-PY-07, TL-PY-08, TL-PY-09, TL-PY-10, TL-RES-06."""
    code, data = GIVES[name]
    config = python.validate({"code": code, "input": INPUT})
    wanted = python.wants(config)
    found = await python.run(
        config,
        context(
            limits,
            variables={"load": {"n": 1}, "x": 0} if "variables" in wanted else {},
            workload={"w": 1} if "workload" in wanted else {},
        ),
    )
    assert found.data == data


ERRORS: dict[str, tuple[dict[str, Any], str, str, bool, str]] = {
    # rule and case: (configuration, kind, code, retryable, words of the message)
    "PY-01 nothing": ({}, "configuration", "", False, "python needs code, code_b64 or script"),
    "PY-01 no text": ({"code": 3}, "configuration", "", False, "code must be a text, got a number 3"),
    "PY-01 no base64": ({"code_b64": "?"}, "configuration", "", False, "code_b64 is not base64"),
    "PY-05 all missing": ({"code": "1/0", "libs": {"a": "no_such_a", "b": {"from": "os", "import": "no_such_b"}, "m": "math"}}, "configuration", "", False, "Required libraries not installed: no_such_a, os.no_such_b"),
    "PY-14 packages": ({"code": "1", "deps": {"packages": ["no-such>=1"]}}, "configuration", "", False, "Required libraries not installed: no-such"),
    "PY-06 expects": ({"code": "1", "input": {"a": 1}, "assert": {"expects": ["a", "b", "c"]}}, "configuration", "", False, "input lacks what the code expects: b, c"),
    "PY-06 returns": ({"code": "result = {'a': 1}", "assert": {"returns": ["a", "b"]}}, "exception", "AssertionError", False, "b"),
    "PY-08 no value": ({"code": "def main(a, b): return 1", "input": {"a": 1}}, "configuration", "", False, "main: no value for required parameter 'b'"),
    "PY-08 positional": ({"code": "def main(a, /): return 1", "input": {"a": 1}}, "configuration", "", False, "main: parameter 'a' must be one that takes a name"),
    "PY-08 star": ({"code": "def main(*a): return 1"}, "configuration", "", False, "parameter 'a'"),
    "PY-11 raised": ({"code": "raise KeyError('k')"}, "exception", "KeyError", False, "KeyError: 'k'"),
    "PY-11 syntax": ({"code": "x = = 1"}, "exception", "SyntaxError", False, "SyntaxError: invalid syntax"),
    "ERR-02 timeout": ({"code": "raise TimeoutError('t')"}, "exception", "TimeoutError", True, "TimeoutError: t"),
    "ERR-02 reset": ({"code": "raise ConnectionResetError()"}, "exception", "ConnectionResetError", True, "ConnectionResetError"),
    "PY-11 broken str": ({"code": "class E(Exception):\n    def __str__(self): return 1/0\nraise E"}, "exception", "E", False, "E"),
    "PY-11 recursion": ({"code": "def f(): f()\nf()"}, "exception", "RecursionError", False, "RecursionError"),
    "PY-12 exit": ({"code": "import sys\nsys.exit(3)"}, "process", "EXIT_3", False, "Python script exited with code 3"),
    "RES-06 no json": ({"code": "a = []\na.append(a)\nresult = a"}, "exception", "RecursionError", False, "RecursionError"),
    "PY-02 type": ({"script": {"uri": "x", "source": {"type": "ftp"}}}, "configuration", "", False, "script.source.type 'ftp' is not known (known: inline, file, http, gcs"),
    "PY-02 no uri": ({"script": {"source": {"type": "file"}}}, "configuration", "", False, "script.uri: say where"),
    "PY-02 no file": ({"script": {"uri": "no.py"}}, "configuration", "", False, "cannot read 'no.py': No such file"),
    "SEC-04 outside": ({"script": {"uri": "../../etc/passwd"}}, "configuration", "", False, "outside the directories tools may use"),
    "SEC-04 absolute": ({"script": {"uri": "file:///etc/passwd"}}, "configuration", "", False, "outside the directories"),
    "SEC-04 paths": ({"code": "1", "deps": {"sys_path": ["/etc"]}}, "configuration", "", False, "deps.sys_path: '/etc' is outside"),
    "SEC-04 cwd": ({"code": "1", "cwd": "/"}, "configuration", "", False, "cwd: '/' is outside"),
    "PY-13 type": ({"code": "1", "auth": {"a": {"type": "ftp"}}}, "configuration", "", False, "auth.a: type 'ftp' is not for python (known: aws, azure, gcs"),
    "PY-13 empty": ({"code": "1", "auth": {"a": {"type": "aws"}}}, "configuration", "", False, "auth.a: type 'aws' needs access_key_id"),
    "SEC-03 env": ({"code": "1", "env": {"A=B": "1"}}, "configuration", "", False, "'A=B' cannot be the name of a variable"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
async def test_errors_say_what_to_mend(
    python: Python, limits: ToolLimits, name: str
) -> None:
    """TL-PY-02, TL-PY-05, TL-PY-06, TL-PY-08, TL-PY-11, TL-PY-12, TL-PY-13, TL-PY-14,
    TL-ERR-02, TL-SEC-03, TL-SEC-04, TL-INT-05."""
    config, kind, code, retryable, words = ERRORS[name]
    found = await failure(python, limits, **config)
    assert (found.kind, found.code, found.retryable) == (kind, code, retryable)
    assert words in found.message


async def test_a_traceback_shows_the_authors_lines(
    python: Python, limits: ToolLimits
) -> None:
    """TL-PY-11, TL-OUT-03: their numbers, the step as file, nothing of ours."""
    code = "def f(n):\n    return 1 / n\n\nprint('before')\nf(0)"
    error = await refusal(python, limits, code=code)
    assert error.failure.message == "ZeroDivisionError: division by zero"
    assert isinstance(error.data, dict)
    assert error.data["stdout"] == "before\n"
    assert error.data["exception"] == "ZeroDivisionError"
    trace = str(error.data["traceback"])
    assert 'File "<s>", line 5, in <module>' in trace
    assert 'File "<s>", line 2, in f\n    return 1 / n' in trace
    assert "_noetl" not in trace and "child" not in trace
    assert error.helpers["exit_code"] == 1
    assert error.helpers["py"] == {
        "exception": "ZeroDivisionError",
        "traceback": trace[-4096:],
    }


async def test_what_was_printed_is_seen_beside_the_data(
    python: Python, limits: ToolLimits
) -> None:
    """TL-OUT-03: helpers are there on success, too."""
    result = await call(python, limits, code="print('héllo')\nresult = 1")
    assert result.data == 1
    assert result.helpers["stdout"] == "héllo\n"
    assert result.helpers["py"] == {"exception": None, "traceback": None}


SOURCES: dict[str, dict[str, Any]] = {
    "code": {"code": "return 'yes'", "script": {"source": {"type": "inline", "code": "return 'no'"}}},
    "inline": {"script": {"source": {"code": "return 'yes'"}}},
    "inline beside": {"script": {"code": "return 'yes'", "source": {"type": "inline"}}},
    "script over base64": {"script": {"uri": "a.py"}, "code_b64": "cmV0dXJuIDA=", "code": "return 0"},
    "base64 over code": {"code_b64": base64.b64encode(b"\xef\xbb\xbfreturn 'yes'").decode(), "code": "return 0"},
    "file": {"script": {"uri": "file://a.py", "source": {"type": "file"}}},
    "digest": {"script": {"uri": "a.py", "sha256": hashlib.sha256(b"\xef\xbb\xbfreturn 'yes'").hexdigest()}},
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
async def test_one_source_of_code_wins(
    python: Python, limits: ToolLimits, name: str
) -> None:
    """TL-PY-01, TL-PY-02: a byte order mark is dropped."""
    place = Path(limits.script_root) / "a.py"
    place.write_bytes(b"\xef\xbb\xbfreturn 'yes'")
    assert (await call(python, limits, **SOURCES[name])).data == "yes"


async def test_a_script_that_changed_is_refused(
    python: Python, limits: ToolLimits
) -> None:
    """TL-PY-02."""
    (Path(limits.script_root) / "b.py").write_text("return 1")
    script = {"uri": "b.py", "sha256": "0" * 64}
    found = await failure(python, limits, script=script)
    assert "script.sha256: the script has" in found.message


async def test_a_link_does_not_lead_out_of_the_roots(
    python: Python, limits: ToolLimits, tmp_path: Path
) -> None:
    """TL-SEC-04."""
    (tmp_path / "secret.py").write_text("return 1")
    link = Path(limits.script_root) / "link.py"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "secret.py")
    found = await failure(python, limits, script={"uri": "link.py"})
    assert "outside the directories" in found.message


async def test_scripts_come_over_http(
    python: Python, limits: ToolLimits, server: WebServer
) -> None:
    """TL-PY-02: http and gcs, with credentials; what is not 2xx is an error."""
    server.answers["/base/a/b.py"] = reply(b"return 'http'")
    server.answers["/storage/v1/b/bkt/o/dir%2Fc%20d.py"] = reply(b"return 'gcs'")
    server.answers["/base/gone.py"] = reply(b"x" * 999, status=404, reason="Gone")
    server.answers["/base/big.py"] = reply(b"#" * (10 << 20) + b"##")
    token = {"type": "bearer", "token": "t0ken"}

    def http(uri: str) -> dict[str, Any]:
        source = {"type": "http", "endpoint": f"{server.url}/base", "auth": token}
        return {"uri": uri, "source": source}

    assert (await call(python, limits, script=http("a/b.py"))).data == "http"
    assert server.seen[-1].headers["authorization"] == "Bearer t0ken"
    gcs = {"type": "gcs", "endpoint": server.url}
    script = {"uri": "gs://bkt/dir/c d.py", "source": gcs}
    assert (await call(python, limits, script=script)).data == "gcs"
    assert server.seen[-1].target.endswith("?alt=media")
    found = await failure(python, limits, script=http("gone.py"))
    assert (found.kind, found.code) == ("not_found", "HTTP_404")
    assert found.message == f"script.uri: HTTP 404 Gone: {'x' * 300}"
    assert (await failure(python, limits, script=http("big.py"))).kind == "limit"


async def test_a_text_one_leaves_with_is_printed_once(
    python: Python, limits: ToolLimits
) -> None:
    """TL-PY-12: as Python does."""
    error = await refusal(python, limits, code="import sys\nsys.exit('so long')")
    assert error.failure.message == "Python script exited with code 1"
    assert isinstance(error.data, dict) and error.data["stderr"] == "so long\n"


async def test_credentials_become_what_cloud_libraries_look_for(
    python: Python, limits: ToolLimits
) -> None:
    """TL-PY-13: in the run that asks, and nowhere after it."""
    look = (
        "import stat\n"
        "path = os.environ.get('GOOGLE_APPLICATION_CREDENTIALS')\n"
        "result = [os.environ.get('AWS_ACCESS_KEY_ID'),"
        " os.environ.get('AZURE_STORAGE_CONNECTION_STRING'),"
        " path and open(path).read(), path and stat.S_IMODE(os.stat(path).st_mode)]"
    )
    auth = {
        "a": {"type": "aws", "access_key_id": "AK", "secret_access_key": "S"},
        "g": {"service": "gcs", "service_account_json": {"type": "service_account"}},
        "z": {"type": "azure", "connection_string": "C"},
    }
    result = await call(python, limits, code=look, auth=auth)
    assert result.data == ["AK", "C", '{"type":"service_account"}', 0o600]
    assert (await call(python, limits, code=look)).data == [None, None, None, None]


async def test_import_paths_below_the_roots_are_searched(
    python: Python, limits: ToolLimits
) -> None:
    """TL-PY-14, TL-PY-05."""
    (Path(limits.data_dir) / "mine").mkdir(exist_ok=True)
    (Path(limits.data_dir) / "mine" / "my_module.py").write_text("ANSWER = 42")
    result = await call(
        python,
        limits,
        code="result = [m.ANSWER, answer]",
        libs={"m": "my_module", "answer": {"from": "my_module", "import": "ANSWER"}},
        deps={"sys_path": ["mine"]},
    )
    assert result.data == [42, 42]


async def test_an_interpreter_that_is_not_there_is_named(
    python: Python, limits: ToolLimits
) -> None:
    with pytest.raises(ToolCallError, match="cannot start /no/python: no such program"):
        await call(python, limits, code="1", python="/no/python")
