"""``run`` and ``exec``: start an execution and follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
from cyclopts import Parameter

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.options import StartOptions, connect, workload_of
from noetl_worker.cli.register import checked_text
from noetl_worker.cli.screen import line, put_json
from noetl_worker.cli.watching import follow, follow_detachable
from noetl_worker.client import NoetlClient
from state_builder.records import JSON

DEFAULTS = StartOptions()


def run(file: Path, /, *, options: StartOptions = DEFAULTS) -> int:
    """Register a playbook file, run it, and follow it to its end.

    Parameters
    ----------
    file
        The playbook.
    """
    text = checked_text(file)
    workload = workload_of(options.payload, options.set_)

    async def main() -> int:
        async with connect(options.server) as client:
            started = await _start(client, text, workload)
            return await _started(client, started, options)

    return anyio.run(main)


def execute(
    path: str,
    /,
    *,
    version: Annotated[int | None, Parameter(help="Which; else the latest.")] = None,
    options: StartOptions = DEFAULTS,
) -> int:
    """Run a registered playbook and follow it to its end.

    Parameters
    ----------
    path
        Its path in the catalog.
    """
    workload = workload_of(options.payload, options.set_)
    more: dict[str, JSON] = {} if version is None else {"version": version}

    async def main() -> int:
        async with connect(options.server) as client:
            started = await client.execute(path, workload, **more)
            return await _started(client, started, options)

    return anyio.run(main)


async def run_text(
    client: NoetlClient,
    text: str,
    workload: dict[str, JSON],
    *,
    as_json: bool,
    hint: str = "",
) -> int:
    """Register a playbook's text, execute that very version, follow it to its end."""
    started = await _start(client, text, workload)
    execution_id = _announced(started, as_json)
    return await follow(client, execution_id, as_json=as_json, hint=hint)


async def _start(
    client: NoetlClient, text: str, workload: dict[str, JSON]
) -> dict[str, JSON]:
    entry = await client.register(text)
    path, version = str(entry["path"]), entry["version"]
    return await client.execute(path, workload, version=version)


async def _started(
    client: NoetlClient, started: dict[str, JSON], options: StartOptions
) -> int:
    if options.wait:
        execution_id = _announced(started, options.json)
        return await follow_detachable(client, execution_id, as_json=options.json)
    if options.json:
        put_json(started)
    else:
        line(str(started["execution_id"]))
    return ExitCode.OK


def _announced(started: dict[str, JSON], as_json: bool) -> str:
    """The execution's id, told to people first."""
    execution_id = str(started["execution_id"])
    if not as_json:
        name = f"{started.get('path')} version {started.get('version')}"
        line(f"execution {execution_id} of {name}")
    return execution_id
