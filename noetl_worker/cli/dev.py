"""``dev``: the whole fleet on this machine, for as long as people want it.

With ``--run`` it runs one playbook and ends with that execution's exit code. Ctrl-C
stops everything in order; a second one kills what is left.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import anyio
from cyclopts import Parameter, validators

from noetl_worker.cli.exits import ExitCode, UsageError
from noetl_worker.cli.options import (
    AsJson,
    Assignments,
    PayloadFile,
    connect,
    workload_of,
)
from noetl_worker.cli.register import checked_text
from noetl_worker.cli.run import run_text
from noetl_worker.cli.screen import complain, duration, note
from noetl_worker.dev import Stack, StackOptions
from noetl_worker.settings import environment

WITH_HELP = (
    "Command to keep running beside, with {port} where it listens. In --set, {port} is "
    "the same, {demo_dsn} a database for playbooks, {server_url} the server."
)
SYNC_HELP = "When the broker syncs to disk: always, or every so often (2m)."

Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]
Count = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=64))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DevOptions:
    """What ``noetl dev`` can be told.

    Attributes
    ----------
    data
        Folder everything is kept in.
    port
        Of the server; 0 takes any free one.
    nats_port
        Of NATS; 0 takes any free one.
    postgres_port
        Of PostgreSQL; 0 takes any free one.
    systems
        System workers.
    workers
        Tool workers.
    """

    data: Path = Path(".noetl")
    port: Port = 8082
    nats_port: Port = 0
    postgres_port: Port = 0
    systems: Count = 1
    workers: Count = 1
    sync: Annotated[str, Parameter(help=SYNC_HELP)] = "2m"
    run: Annotated[
        Path | None, Parameter(help="Run this playbook, then end with its exit code.")
    ] = None
    with_: Annotated[str, Parameter("--with", show_default=False, help=WITH_HELP)] = ""
    set_: Assignments = ()
    payload: PayloadFile = None
    keep: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="Stay up after the run, until Ctrl-C."
        ),
    ] = False
    json: AsJson = False


DEFAULTS = DevOptions()


def dev(*, options: DevOptions = DEFAULTS) -> int:
    """Run everything on this machine: NATS, PostgreSQL and every role.

    Everything is kept under one folder, so the next start goes on where this one
    ended. Ctrl-C stops all of it in order and loses nothing.
    """
    text = checked_text(options.run) if options.run else ""
    if not text and (options.set_ or options.payload or options.keep):
        raise UsageError("--set, --payload and --keep go with --run")
    return anyio.run(_dev, options, text)


async def _dev(options: DevOptions, text: str) -> int:
    started = anyio.current_time()
    stack = Stack(
        StackOptions(
            data=options.data,
            environ=environment(),
            port=options.port,
            nats_port=options.nats_port,
            postgres_port=options.postgres_port,
            replicas={
                "server": 1,
                "system": options.systems,
                "worker": options.workers,
                "materializer": 1,
            },
            sync_interval=options.sync,
            report=note,
        )
    )
    code: int = ExitCode.INTERRUPTED if text else ExitCode.OK
    async with _stopping(stack) as stop:
        note(f"starting NATS, PostgreSQL and the roles under {stack.folder.path} …")
        with stop:
            async with stack:
                note(_addresses(stack, anyio.current_time() - started))
                if text:
                    code = await _run(stack, options, text)
                if options.keep or not text:
                    note("Ctrl-C stops everything")
                    await anyio.sleep_forever()
        if stop.cancelled_caught:
            note("stopped; the next start goes on from here")
    return code


async def _run(stack: Stack, options: DevOptions, text: str) -> int:
    places = {
        "{demo_dsn}": stack.demo_dsn,
        "{server_url}": stack.server_url,
    }
    if options.with_:
        command = [_filled(word, places) for word in shlex.split(options.with_)]
        if command[0] in ("python", "python3"):
            command[0] = sys.executable
        places["{port}"] = str(await stack.start_beside("beside", command))
    assignments = tuple(_filled(one, places) for one in options.set_)
    workload = workload_of(options.payload, assignments)
    hint = f"logs in {stack.folder.logs}"
    hint += "; " if options.keep else "; noetl dev brings the stack back, then "
    async with connect(stack.server_url) as client:
        return await run_text(client, text, workload, as_json=options.json, hint=hint)


def _filled(text: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        text = text.replace(place, value)
    return text


def _addresses(stack: Stack, seconds: float) -> str:
    return (
        f"ready in {duration(seconds)}\n"
        f"  server     {stack.server_url}  (API docs at /api/docs)\n"
        f"  NATS       {stack.nats_url}\n"
        f"  PostgreSQL {stack.postgres_dsn}  (playbooks: {stack.demo_dsn})\n"
        f"  logs       {stack.folder.logs}"
    )


@asynccontextmanager
async def _stopping(stack: Stack) -> AsyncIterator[anyio.CancelScope]:
    """A scope the first SIGINT or SIGTERM cancels; the second kills the stack."""
    scope = anyio.CancelScope()

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as caught:
            async for _ in caught:
                if scope.cancel_called:
                    complain("killed; what was acknowledged is kept")
                    stack.destroy()
                else:
                    note("\nstopping … (again to kill)")
                    scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        yield scope
        tasks.cancel_scope.cancel()
