"""``credential``: what tools sign in with, stored sealed on the server.

Values never stand on the command line, where other users of a machine can read them:
they come from a file, standard input, a variable or a prompt (SC-LG-02).
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import Annotated, TypeVar, cast
from urllib.parse import quote

import anyio
from cyclopts import App, Parameter

from noetl_worker.cli.exits import ExitCode, UsageError
from noetl_worker.cli.options import AsJson, ServerUrl, connect, read_text
from noetl_worker.cli.screen import line, put_json, show, table
from noetl_worker.client import NoetlClient
from noetl_worker.settings import environment
from state_builder.errors import NotFoundError
from state_builder.records import JSON
from state_builder.redact import is_secret_key

T = TypeVar("T")
Row = dict[str, JSON]
Pairs = tuple[str, ...]

credential = App(
    name="credential",
    help="Store what tools sign in with; values are sealed and never shown in runs.",
)

Name = Annotated[str, Parameter(help="What playbooks call it: auth: NAME.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """Where a credential's fields come from."""

    type_: Annotated[
        str,
        Parameter("--type", help="postgres, bearer, api_key, … else told by fields."),
    ] = ""
    data: Annotated[
        Path | None,
        Parameter(
            allow_leading_hyphen=True,
            help="JSON or YAML file with the fields; - reads standard input.",
        ),
    ] = None
    set_: Annotated[
        Pairs, Parameter("--set", negative="", help="field=value, of no secret.")
    ] = ()
    env: Annotated[
        Pairs, Parameter(negative="", help="field=VARIABLE to take it from.")
    ] = ()
    ask: Annotated[
        Pairs, Parameter(negative="", help="Field to be asked for, without echo.")
    ] = ()
    tag: Annotated[Pairs, Parameter(negative="", help="Word to find it by.")] = ()
    description: Annotated[str, Parameter(help="What it is for.")] = ""
    json: AsJson = False
    server: ServerUrl = ""


NO_OPTIONS = AddOptions()


@credential.command
def add(name: Name, /, *, options: AddOptions = NO_OPTIONS) -> int:
    """Store a credential, or replace the one of that name."""
    body: Row = {"name": name}
    fields: Row = {}
    if options.data is not None:
        given = _read(options.data)
        # A file of the server's own form says more than the fields.
        if isinstance(given.get("data"), dict) and "type" in given:
            body |= given | {"name": name}
            fields = cast(Row, given["data"])
        else:
            fields = given
    fields = {
        **fields,
        **_plain(options.set_),
        **_from_environment(options.env),
        **_asked(options.ask),
    }
    if not fields:
        raise UsageError("give fields: --data FILE, --set, --env or --ask")
    body["data"] = fields
    body["type"] = options.type_ or body.get("type") or _type_of(fields)
    if options.tag:
        body["tags"] = list(options.tag)
    if options.description:
        body["description"] = options.description
    answer = _ask(options.server, lambda client: client.request("POST", _PATH, body))
    stored = cast(Row, answer)
    if options.json:
        put_json(stored)
    else:
        line(f"{stored['name']} ({stored['type']}) is stored")
    return ExitCode.OK


@credential.command(name="list")
def list_(
    *,
    type_: Annotated[str, Parameter("--type", help="Only of this type.")] = "",
    text: Annotated[str, Parameter(help="Only with this in name or description.")] = "",
    json: AsJson = False,
    server: ServerUrl = "",
) -> int:
    """List stored credentials, without values."""
    query = {"type": type_, "q": text}
    wanted: dict[str, str | int] = {key: word for key, word in query.items() if word}
    answer = _ask(server, lambda client: client.request("GET", _PATH, query=wanted))
    found = cast(list[Row], cast(Row, answer)["items"])
    if json:
        put_json(cast(JSON, found))
        return ExitCode.OK
    columns = ("name", "type", "tags", "description", "updated_at")
    rows = table(columns)
    for row in found:
        tags = ", ".join(map(str, cast(list[JSON], row.get("tags") or [])))
        rows.add_row(*(str((row | {"tags": tags}).get(c) or "") for c in columns))
    show(rows)
    return ExitCode.OK


@credential.command(name="show")
def show_(
    name: Name,
    /,
    *,
    reveal: Annotated[
        bool,
        Parameter(
            negative="",
            help="Print the values as well; needs NOETL_INTERNAL_API_TOKEN, is noted.",
        ),
    ] = False,
    json: AsJson = False,
    server: ServerUrl = "",
) -> int:
    """Show one credential; its values only with --reveal."""
    path = f"{_PATH}/{quote(name)}"
    query: dict[str, str | int] = {"include_data": "true"} if reveal else {}
    answer = cast(
        Row,
        _ask(server, lambda client: client.request("GET", path, query=query), reveal),
    )
    if json:
        put_json(answer)
        return ExitCode.OK
    rows = table(("", ""))
    rows.show_header = False
    values = cast(Row, answer.pop("data", None) or {})
    for key, value in {**answer, **values}.items():
        if value not in (None, "", []):
            rows.add_row(key, str(value))
    show(rows)
    return ExitCode.OK


@credential.command
def remove(
    names: Annotated[tuple[str, ...], Parameter(negative="")],
    /,
    *,
    server: ServerUrl = "",
) -> int:
    """Delete credentials. Runs that need one fail from then on."""

    async def drop(client: NoetlClient) -> list[str]:
        missing = []
        for name in names:
            try:
                await client.request("DELETE", f"{_PATH}/{quote(name)}")
                line(f"{name} is deleted")
            except NotFoundError:
                missing.append(name)
        return missing

    missing = _ask(server, drop)
    if missing:
        raise NotFoundError(f"not known: {', '.join(missing)}")
    return ExitCode.OK


_PATH = "/api/credentials"


def _ask(
    server: str, question: Callable[[NoetlClient], Awaitable[T]], internal: bool = False
) -> T:
    async def main() -> T:
        async with connect(server, internal=internal) as client:
            return await question(client)

    return anyio.run(main)


def _read(path: Path) -> Row:
    from state_builder.playbook.source import SourceError, read

    text = sys.stdin.read() if str(path) == "-" else read_text(path)
    try:
        return read(text).value
    except SourceError as error:
        # The text is not repeated: it holds secrets.
        raise UsageError(f"{path}:{error.line}: no map in JSON or YAML") from error


def _plain(pairs: Pairs) -> Row:
    found: Row = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"--set {name}: write field=value")
        if is_secret_key(name):
            raise UsageError(
                f"--set {name}: others could read it on the command line; use "
                f"--ask {name}, --env {name}=VARIABLE or --data FILE"
            )
        found[name] = text
    return found


def _from_environment(pairs: Pairs) -> Row:
    found: Row = {}
    for pair in pairs:
        name, equals, variable = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"--env {pair}: write field=VARIABLE")
        text = environment().get(variable, "")
        if not text:
            raise UsageError(f"--env {name}: {variable} is not set")
        found[name] = text
    return found


def _asked(names: Pairs) -> Row:
    return {name: getpass(f"{name}: ", sys.stderr) for name in names}


def _type_of(fields: Row) -> str:
    """The type fields speak for, where nobody says it."""
    for kind, names in (
        ("postgres", ("db_host", "connection_string", "host")),
        ("nats", ("nats_url",)),
        ("basic", ("username",)),
        ("api_key", ("api_key",)),
        ("bearer", ("token",)),
    ):
        if any(name in fields for name in names):
            return kind
    return "secret"
