"""``noetl repair``: what to do when the broker has lost data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import anyio
from cyclopts import Parameter

from noetl_worker.cli.exits import ExitCode
from noetl_worker.cli.options import AsJson
from noetl_worker.cli.screen import line, put_json
from noetl_worker.settings import environment

SHOWN_MAX = 20


def repair(
    *,
    dry_run: Annotated[
        bool, Parameter("--dry-run", help="Only say what is missing.", negative="")
    ] = False,
    json: AsJson = False,
) -> int:
    """Bring back open executions that the log lost, from their rows.

    Reads NATS_URL, NOETL_DATABASE_URL and the other settings of the materializer from
    the environment. Safe while the fleet runs, and to run again. Commands that were
    under way are run again.
    """
    from noetl_worker.roles.repair import run_repair

    found = anyio.run(lambda: run_repair(environment(), dry=dry_run))
    if json:
        put_json(asdict(found))
    else:
        line(
            f"{found.open} executions are open in the tables, "
            f"{len(found.missing)} of them are missing in the log "
            f"(life {found.generation})"
        )
        for title, some in (
            ("missing", found.missing if dry_run else []),
            ("restored", found.restored),
            ("beyond repair, cancel them", found.beyond_repair),
        ):
            for execution_id in some[:SHOWN_MAX]:
                line(f"  {title}: {execution_id}")
            if len(some) > SHOWN_MAX:
                line(f"  {title}: {len(some) - SHOWN_MAX} more")
    return ExitCode.FAILED if found.beyond_repair else ExitCode.OK
