"""Planted secrets of every type are found nowhere but where they belong (SC-LG-05).

A real fleet runs playbooks that use credentials in every way and fail in every way.
Then everything it left is searched: the broker's files and messages, the tables and the
database's own files, object stores, shared memory, logs of all processes, their command
lines and metrics, and what the command line prints.
"""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import nats
import pytest
from fleet_client import Fleet, fleet, until
from web_server import WebServer, reply, web_server

from noetl_worker.dev.stack import Role

pytestmark = pytest.mark.slow

HEAD = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {{name: {name}, path: secrets/{name}}}
keychain:
  - {{name: own, kind: credential, credential: custom}}
  - {{name: fixed, kind: static, map: {{key: "MARK-static-Qz7"}}}}
  - {{name: given, kind: secrets, provider: env, map: {{key: SHOP_KEY}}}}
  - {{name: filed, kind: secrets, provider: file, map: {{key: shop/key}}}}
  - {{name: minted, kind: oauth2, endpoint: "{web}/token", data: {{client_secret: "{{{{ keychain.own.secret }}}}"}}}}
workflow:
"""

CREDENTIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "pg": ("postgres", {"db_host": "127.0.0.1", "db_port": 0, "db_user": "demo", "db_password": "MARK-postgres-Qz7", "db_name": "demo"}),
    "pg_away": ("postgres", {"connection_string": "postgresql://demo:MARK-dsn-Qz7@127.0.0.1:9/demo"}),
    "bearer": ("bearer", {"token": "MARK-bearer-Qz7"}),
    "api_key": ("api_key", {"api_key": "MARK-api-Qz7"}),
    "basic": ("basic", {"username": "u", "password": "MARK-basic-Qz7"}),
    "custom": ("secret", {"secret": "MARK-secret-Qz7", "pin": 99887766}),
    "quoted": ("secret", {"secret": 'MARK-"quoted" +&\\nx-Qz7'}),
    "pem": ("gcs", {"service_account_json": {"private_key": "-----BEGIN PRIVATE KEY-----\nMARKpemQz7AAAAAAAAAAAA\n-----END PRIVATE KEY-----\n"}}),
    "aws": ("aws", {"access_key_id": "MARK-awsid-Qz7", "secret_access_key": "MARK-aws-Qz7", "region": "eu"}),
    "hmac": ("gcs_hmac", {"key_id": "MARK-hmacid-Qz7", "secret_key": "MARK-hmac-Qz7"}),
    "nats": ("nats", {"nats_url": "nats://u:MARK-natsurl-Qz7@127.0.0.1:9", "nats_password": "MARK-nats-Qz7"}),
    "oauth": ("oauth2", {"token_url": "WEB/token", "client_id": "c", "client_secret": "MARK-oauth-Qz7"}),
}  # fmt: skip
MINTED = "MARK-minted-Qz7"
SECRETS = [
    *("MARK-postgres-Qz7", "MARK-dsn-Qz7", "MARK-bearer-Qz7", "MARK-api-Qz7"),
    *("MARK-basic-Qz7", "MARK-secret-Qz7", "99887766", 'MARK-"quoted" +&\\nx-Qz7'),
    *("MARKpemQz7", "MARK-awsid-Qz7", "MARK-aws-Qz7", "MARK-hmac-Qz7"),
    *("MARK-natsurl-Qz7", "MARK-nats-Qz7", "MARK-oauth-Qz7", MINTED),
    *("MARK-env-Qz7", "MARK-file-Qz7"),
]
"""``MARK-static-Qz7`` is not among them: it stands in a playbook's own text."""

ALL = (
    "{{ keychain.own.secret }} {{ keychain.own.pin }} {{ keychain.fixed.key }} "
    "{{ keychain.given.key }} {{ keychain.filed.key }} {{ keychain.minted.token }} "
    "{{ token('bearer') }}"
)
LEAK = """
      import base64, urllib.parse
      texts = [all, base64.b64encode(word.encode()).decode(), urllib.parse.quote(quoted)]
      print(texts)
"""
RUNS: dict[str, str] = {
    # name: the steps of a playbook that uses secrets and gives them away
    "database": """
  - step: start
    tool: {kind: postgres, auth: pg, query: "SELECT '{{ keychain.own.secret }}' AS leak"}
    next: {arcs: [{step: bad}]}
  - {step: bad, tool: {kind: postgres, auth: pg, query: "SELECT $1::int", params: ["{{ keychain.own.secret }}"]}}
""",
    "database_error": """
  - {step: start, tool: {kind: postgres, auth: pg, query: "SELECT '{{ keychain.own.secret }}'::int"}}
""",
    "database_away": """
  - {step: start, tool: {kind: postgres, auth: pg_away, query: "SELECT 1"}}
""",
    "web": """
  - step: start
    tool: {kind: http, url: "WEB/echo", auth: bearer}
    next: {arcs: [{step: key}]}
  - step: key
    tool: {kind: http, url: "WEB/echo", auth: api_key, params: {q: "{{ keychain.own.secret }}"}}
    next: {arcs: [{step: basic}]}
  - step: basic
    tool: {kind: http, url: "WEB/echo", auth: basic, method: POST, json: {a: "{{ keychain.fixed.key }}"}}
    next: {arcs: [{step: minted}]}
  - {step: minted, tool: {kind: http, url: "WEB/refuse", auth: oauth}}
""",
    "web_away": """
  - step: start
    tool: {kind: http, url: "http://127.0.0.1:9/x?key={{ keychain.own.secret }}", auth: bearer, timeout_seconds: 2}
""",
    "python": f"""
  - step: start
    tool:
      kind: python
      input: {{all: "{ALL}", word: "{{{{ keychain.own.secret }}}}", quoted: "{{{{ keychain.q.secret }}}}"}}
      code: |{LEAK.replace(chr(10), chr(10) + "  ")}
        result = {{"leak": texts, word: 1, "pin": int(all.split()[1])}}
    next: {{arcs: [{{step: crash}}]}}
  - step: crash
    tool:
      kind: python
      input: {{all: "{ALL}", word: "{{{{ keychain.own.secret }}}}", quoted: "{{{{ keychain.q.secret }}}}"}}
      code: |{LEAK.replace(chr(10), chr(10) + "  ")}
        raise ValueError(texts)
""",
    "shell": f"""
  - step: start
    tool: {{kind: shell, cmd: "env; echo $LEAK; echo $LEAK >&2; exit 3", env: {{LEAK: "{ALL}"}}}}
""",
    "sequence": """
  - step: start
    tool:
      - one: {kind: python, input: {a: "{{ keychain.own.secret }}"}, code: "result = {'x': a}"}
      - two: {kind: python, input: {a: "{{ one.x }}"}, code: "raise RuntimeError(a)"}
""",
    "loop": """
  - step: start
    loop: {in: "{{ [1, 2, 3] }}", iterator: i, mode: parallel}
    tool: {kind: python, input: {a: "{{ keychain.given.key }}", i: "{{ i }}"}, code: "result = {'a': a, 'n': i}"}
    next: {arcs: [{step: after}]}
  - step: after
    tool: {kind: noop, result: "{{ start }}"}
""",
    "duckdb": """
  - {step: start, tool: {kind: duckdb, auth: hmac, query: "SELECT '{{ keychain.own.secret }}'::INT"}}
""",
    "cloud": """
  - {step: start, tool: {kind: python, auth: aws, code: "import os; raise ValueError(dict(os.environ))"}, next: {arcs: [{step: key, when: "{{ event.name == 'call.error' }}"}]}}
  - step: key
    tool:
      kind: python
      auth: {g: {source: credential, key: pem}}
      code: |
        import os
        raise ValueError(open(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).read())
""",
    "misused": """
  - {step: start, tool: {kind: http, url: "WEB/echo", auth: nats}}
""",
    "unknown": """
  - {step: start, tool: {kind: http, url: "WEB/echo", auth: nobody}}
""",
    "timeout": """
  - {step: start, tool: {kind: python, input: {a: "{{ keychain.own.secret }}"}, timeout_seconds: 1, code: "import time; print(a); time.sleep(30)"}}
""",
}  # fmt: skip
COMPLETES = {"loop"}
ROUNDS = 3
"""How often each is run: values come from sources and from caches."""


def forms(secret: str) -> Iterator[bytes]:
    """Every form one of them is looked for in."""
    data = secret.encode()
    yield data
    if len(secret) > 8:
        yield b64encode(data).rstrip(b"=")
        yield quote(secret, safe="").encode()
        yield json.dumps(secret)[1:-1].encode()


FORMS = {form: secret for secret in SECRETS for form in forms(secret)}


def found_in(data: bytes) -> list[str]:
    return sorted({secret for form, secret in FORMS.items() if form in data})


@pytest.fixture(scope="module")
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        server.answers["/token"] = reply({"access_token": MINTED, "expires_in": 3600})
        server.answers["/refuse"] = lambda seen: reply(
            f"refused {seen.headers} {seen.body!r}".encode(), 401
        )
        yield server


@pytest.fixture(scope="module")
async def ran(
    tmp_path_factory: pytest.TempPathFactory, web: WebServer
) -> AsyncIterator[tuple[Fleet, dict[str, str]]]:
    """A fleet that has run everything: executions by name."""
    secrets = tmp_path_factory.mktemp("mounted")
    (secrets / "shop").mkdir()
    (secrets / "shop" / "key").write_text("MARK-file-Qz7\n")
    env = {
        "NOETL_KEYCHAIN_ENV_VARS": "SHOP_KEY",
        "SHOP_KEY": "MARK-env-Qz7",
        "NOETL_SECRETS_DIR": str(secrets),
        "LOG_LEVEL": "DEBUG",
    }
    async with fleet(tmp_path_factory.mktemp("stack"), env=env) as found:
        port = int(found.stack.demo_dsn.rpartition(":")[2].partition("/")[0])
        for name, (kind, data) in CREDENTIALS.items():
            text = json.dumps(data).replace("WEB", web.url)
            filled = json.loads(text)
            if filled.get("db_port") == 0:
                filled["db_port"] = port
            done = await cli(found, "credential", "add", name, "--type", kind, "--data", "-", given=json.dumps(filled))  # fmt: skip
            assert done.returncode == 0, done.stderr
        started, every = {}, list[str]()
        for name, steps in RUNS.items():
            head = HEAD.format(name=name, web=web.url)
            extra = "  - {name: q, kind: credential, credential: quoted}\n"
            text = head.replace("workflow:", extra + "workflow:") + steps.replace(
                "WEB", web.url
            )
            await found.client.register(text)
            for _ in range(ROUNDS):
                answer = await found.client.execute(f"secrets/{name}")
                every.append(str(answer["execution_id"]))
            started[name] = every[-1]
        statuses = await found.ended(every)
        wanted = {n: "COMPLETED" if n in COMPLETES else "FAILED" for n in started}
        assert {n: statuses[eid] for n, eid in started.items()} == wanted
        yield found, started


async def cli(
    found: Fleet, *arguments: str, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """The command line beside the fleet."""
    call = partial(
        subprocess.run,
        [
            sys.executable,
            "-m",
            "noetl_worker",
            *arguments,
            "--server",
            found.stack.server_url,
        ],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return await anyio.to_thread.run_sync(call)


Ran = tuple[Fleet, dict[str, str]]


async def test_the_secrets_were_really_used(ran: Ran, web: WebServer) -> None:
    """Without this the rest would prove nothing."""
    sent = b"".join(
        json.dumps(seen.headers).encode() + seen.target.encode() + seen.body
        for seen in web.seen
    )
    used = set(found_in(sent))
    assert {
        "MARK-bearer-Qz7",
        "MARK-api-Qz7",
        "MARK-secret-Qz7",
        "MARK-oauth-Qz7",
        MINTED,
    } <= used
    fleet, started = ran
    rows = await fleet.rows(
        "SELECT error FROM noetl.execution WHERE execution_id = $1",
        int(started["python"]),
    )
    assert "[REDACTED]" in rows[0][0]


async def test_no_message_of_the_broker_holds_one(ran: Ran) -> None:
    """SC-LG-02, RT-EVT-31: every stream, buckets and object stores among them."""
    client = await nats.connect(ran[0].stack.nats_url)
    try:
        stream = client.jetstream()
        seen = 0
        for info in await stream.streams_info():
            name = str(info.config.name)
            for sequence in range(info.state.first_seq, info.state.last_seq + 1):
                try:
                    message = await stream.get_msg(name, sequence)
                except nats.js.errors.NotFoundError:
                    continue
                seen += 1
                data = (message.data or b"") + repr(message.headers).encode()
                assert found_in(data) == [], (name, sequence, message.subject)
        assert seen > 100
    finally:
        await client.close()


async def test_no_table_holds_one(ran: Ran) -> None:
    """SC-LG-02: every row of every table as text."""
    fleet, _ = ran
    tables = await fleet.rows(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'noetl'"
    )
    assert len(tables) > 15
    for (table,) in tables:
        rows = await fleet.rows(f'SELECT t::text FROM noetl."{table}" AS t')
        text = "\n".join(row[0] for row in rows).encode()
        assert found_in(text) == [], table


def files_of(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        # What the author's own database logs of its statements is its own affair.
        if path.is_file() and path.name != "postgres.log":
            yield path


async def test_no_file_of_the_fleet_holds_one(ran: Ran) -> None:
    """SC-LG-01, SC-LG-05: logs of all processes at DEBUG, broker and database files, tools' data,
    shared memory."""
    folder = ran[0].stack.folder.path
    looked = 0
    for root in (folder, Path("/dev/shm")):
        for path in files_of(root):
            try:
                data = path.read_bytes()
            except OSError:
                continue  # somebody else's, or gone
            looked += 1
            assert found_in(data) == [], path
    assert looked > 50
    for role in ("server", "system", "worker", "materializer"):
        assert (folder / "logs" / f"{role}.log").stat().st_size > 0


async def test_no_command_line_and_no_metric_holds_one(ran: Ran) -> None:
    """SC-LG-02, SC-LG-05, SC-ME-02: of every role."""
    fleet, _ = ran
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            data = path.read_bytes()
        except OSError:
            continue  # it has ended
        assert found_in(data) == [], path
    said = {
        "server": b'noetl_credentials_sealed_total{status="ok"}',
        "worker": b'noetl_worker_dispatch_errors_total{tool_kind="python"}',
        "system": b"noetl_loops_held",
        "materializer": b"noetl_worker_materializer_projected_total",
    }
    roles: tuple[Role, ...] = ("server", "worker", "system", "materializer")
    async with httpx.AsyncClient() as http:
        for role in roles:
            page = await http.get(f"{fleet.stack.pages(role)}/metrics")
            assert page.status_code == 200
            assert found_in(page.content) == [], role
            assert said[role] in page.content, role


async def test_nothing_the_command_line_prints_holds_one(ran: Ran) -> None:
    """SC-LG-02: people's eyes."""
    fleet, started = ran
    commands = [
        ("credential", "list"),
        ("credential", "list", "--json"),
        *(("credential", "show", name) for name in CREDENTIALS),
        ("list", "--json"),
    ]
    for eid in started.values():
        commands += [("status", eid), ("events", eid), ("events", eid, "--json")]
    for command in commands:
        done = await cli(fleet, *command)
        assert done.returncode in (0, 1), (command, done.stderr)
        assert found_in((done.stdout + done.stderr).encode()) == [], command


async def test_every_release_is_in_the_trail(ran: Ran) -> None:
    """SC-AU-03, SC-AU-06, RT-SEC-4: by execution and worker, misses too."""
    fleet, started = ran

    async def outcomes(name: str) -> set[tuple[str, str]]:
        rows = await fleet.rows(
            "SELECT credential, outcome FROM noetl.secret_audit "
            "WHERE execution_id = $1 AND operation = 'get_sealed' AND worker_id <> ''",
            int(started[name]),
        )
        return {(row[0], row[1]) for row in rows}

    with anyio.fail_after(10):
        while not {("bearer", "ok"), ("oauth", "ok")} <= await outcomes("web"):
            await anyio.sleep(0.1)
        while ("nobody", "credential_not_found") not in await outcomes("unknown"):
            await anyio.sleep(0.1)


async def test_the_keys_of_the_stack_are_for_its_owner_alone(ran: Ran) -> None:
    """SC-EN-04: ``noetl dev`` makes its own key; nobody else may read it."""
    folder = ran[0].stack.folder.path / "secrets"
    assert (folder.stat().st_mode & 0o777) == 0o700
    for name in ("encryption_key", "internal_token"):
        assert ((folder / name).stat().st_mode & 0o777) == 0o600


SIGNS_IN = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: signs_in, path: secrets/signs_in}
workflow:
  - step: start
    tool: {kind: postgres, auth: demo, query: "SELECT 6 * 7 AS answer"}
"""


async def test_a_server_killed_in_the_middle_only_delays_who_signs_in(
    tmp_path: Path,
) -> None:
    """RT-WRK-11, SC-AL-05: a command waits for a server that is away; a new worker has a
    new key, and nobody notices (SC-SE-01)."""
    async with fleet(tmp_path) as found:
        data = {"connection_string": found.stack.demo_dsn}
        body = {"name": "demo", "type": "postgres", "data": data}
        await found.client.request("POST", "/api/credentials", body)
        await found.client.register(SIGNS_IN)
        await found.stack.stop_role("worker")
        answer = await found.client.execute("secrets/signs_in")
        waiting = str(answer["execution_id"])

        async def issued() -> bool:
            path = f"/api/executions/{waiting}/status"
            status = await found.client.request("GET", path)
            return bool(status["progress"]["running_steps"])

        await until(issued, lambda: "the command was never issued")
        await found.stack.kill("server")
        await found.stack.start_role("worker", 0)
        log = found.stack.log("worker")
        with anyio.fail_after(30):
            while "credential.delayed" not in log.read_text():
                await anyio.sleep(0.1)
        await found.stack.start_role("server", 0)
        assert await found.ended([waiting]) == {waiting: "COMPLETED"}
