"""Options several commands share, and what they turn into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import msgspec
from cyclopts import Parameter

from noetl_worker.cli.exits import UsageError
from noetl_worker.settings import environment, load
from state_builder.records import JSON

if TYPE_CHECKING:
    from noetl_worker.client import NoetlClient

AsJson = Annotated[
    bool,
    Parameter(
        "--json",
        negative="",
        show_default=False,
        help="Print one JSON value and nothing else.",
    ),
]
ServerUrl = Annotated[
    str,
    Parameter(
        "--server",
        show_default=False,
        help="Address of the server, else NOETL_SERVER_URL.",
    ),
]
Assignments = Annotated[
    tuple[str, ...],
    Parameter(
        "--set",
        negative="",
        show_default=False,
        help="key=value of the workload; dots go inside, a value that is JSON is JSON.",
    ),
]
PayloadFile = Annotated[
    Path | None,
    Parameter("--payload", help="File with the workload: .json, else YAML."),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """How an execution is started and followed."""

    set_: Assignments = ()
    payload: PayloadFile = None
    wait: Annotated[
        bool, Parameter("--wait", negative="--no-wait", help="Follow it to its end.")
    ] = True
    json: AsJson = False
    server: ServerUrl = ""


def connect(server: str, *, internal: bool = False) -> NoetlClient:
    """A client of the server named, or of the one the settings name.

    With ``internal`` it carries the internal token instead of a session's.
    """
    from noetl_worker.client import ClientOptions, NoetlClient

    environ = environment()
    settings = load(environ, "client")
    worker = settings.worker
    options = ClientOptions(
        url=(server or settings.process.server_url).rstrip("/"),
        token=settings.process.internal_token.reveal()
        if internal
        else environ.get("NOETL_SESSION_TOKEN", ""),
        cert=worker.tls_client_cert,
        key=worker.tls_client_key,
        ca=worker.tls_ca,
    )
    if not options.url.startswith(("http://", "https://")):
        raise UsageError(
            f"server address {options.url!r}: begin it with http:// or https://"
        )
    return NoetlClient(options)


def workload_of(payload: Path | None, assignments: tuple[str, ...]) -> dict[str, JSON]:
    """The workload of a request: the file's, overlaid by ``--set``.

    Raises:
        UsageError: names the file or assignment at fault.
    """
    workload = _read_payload(payload) if payload else {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        keys = name.split(".")
        if not equals or not all(keys):
            raise UsageError(f"--set {assignment}: write key=value or key.inner=value")
        _put(workload, keys, _value(text), assignment)
    return workload


def read_text(path: Path) -> str:
    """The text of a file. Raises UsageError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: is not UTF-8 text (byte {error.start + 1})"
        ) from error


def _read_payload(path: Path) -> dict[str, JSON]:
    text = read_text(path)
    if path.suffix != ".json":
        from state_builder.playbook.source import SourceError, read

        try:
            return read(text).value
        except SourceError as error:
            raise UsageError(f"{path}:{error.line}: {error}") from error
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: a workload is a JSON object")
    return cast(dict[str, JSON], value)


def _value(text: str) -> JSON:
    """JSON where it is JSON, the text itself otherwise."""
    try:
        return cast(JSON, msgspec.json.decode(text))
    except msgspec.DecodeError:
        return text


def _put(into: dict[str, JSON], keys: list[str], value: JSON, assignment: str) -> None:
    for key in keys[:-1]:
        inner = into.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UsageError(
                f"--set {assignment}: {key!r} is no map, it was set to {inner!r} before"
            )
        into = inner
    into[keys[-1]] = value
