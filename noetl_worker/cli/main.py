"""The entry point: finds the command, turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn

from noetl_worker.cli.exits import ExitCode, exit_code_of
from state_builder.errors import NoetlError

if TYPE_CHECKING:
    from cyclopts import App

ROLES = ("server", "system", "worker", "materializer")

HELP = """Run YAML playbooks durably.

Start with `noetl dev` (everything on this machine), then `noetl run FILE`.
"""

EPILOGUE = """Exit codes: 0 done, of an execution COMPLETED; 1 FAILED, of a check
errors; 2 wrong arguments or settings; 3 invalid document; 4 not found; 5 server or
stack away; 6 CANCELLED; 7 refused; 130 Ctrl-C (what was started goes on).
"""

SERVER_HINT = (
    "`noetl dev` starts one on this machine; --server or NOETL_SERVER_URL names another"
)

COMMANDS = (
    ("Run", "dev", "dev:dev", "Run everything on this machine: servers and roles."),
    ("Run", "run", "run:run", "Register a playbook file, run it, show its progress."),
    ("Run", "exec", "run:execute", "Run a registered playbook."),
    ("Run", "register", "register:register", "Store files as new versions."),
    ("Run", "cancel", "inspect:cancel", "End an execution."),
    ("Run", "credential", "credential:credential", "Store what tools sign in with."),
    ("Look", "status", "inspect:status", "Show how an execution stands."),
    ("Look", "events", "inspect:events", "Show what happened in an execution."),
    ("Look", "why", "inspect:why", "Explain why an execution is not finished."),
    ("Look", "export", "replaying:export", "Write an execution's log as JSON lines."),
    ("Look", "replay", "replaying:replay", "Fold an execution's log again."),
    ("Look", "list", "inspect:list_", "List executions, or playbooks."),
    ("Write", "test", "rehearsing:test", "Run playbooks on scripted tools."),
    ("Write", "lint", "register:lint", "Check playbook files without a server."),
    ("Write", "graph", "document:graph", "Show a playbook's steps and ways."),
    ("Write", "schema", "document:schema", "Print the JSON Schema of playbooks."),
    ("Write", "tools", "tools:tools", "List the kinds of tools, or explain one."),
    ("Look", "settings", "settings:settings", "Show every environment variable."),
    ("Roles", "repair", "repair:repair", "Bring back executions that the log lost."),
    ("Roles", "server", "role:server", "The HTTP edge."),
    ("Roles", "system", "role:system", "Owns shards: folds the log and decides."),
    ("Roles", "worker", "role:worker", "Pulls commands and runs tools."),
    ("Roles", "materializer", "role:materializer", "Copies the log to PostgreSQL."),
)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are on standard error."""
    from noetl_worker.cli.screen import complain, note

    try:
        if len(arguments) == 1 and arguments[0] in ROLES:
            # A role has no options, so processes that only ever run one need not
            # load the command line library.
            from noetl_worker.cli.role import run_one

            return run_one(arguments[0])
        answer = build(arguments)(list(arguments))
    except (NoetlError, ExceptionGroup) as raised:
        error = _of_ours(raised)
        complain(str(error))
        if error.code == "server_away":
            note(SERVER_HINT)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has seen enough; there is nobody to tell.
        sys.stdout = None
        return ExitCode.OK
    return int(answer or ExitCode.OK)


def _of_ours(raised: Exception) -> NoetlError:
    """The error people are told; a task group wraps the one that ended it.

    Raises what was raised when there is a fault of ours in it: that needs its trace.
    """
    if isinstance(raised, ExceptionGroup):
        ours, others = raised.split(NoetlError)
        if ours is None or others is not None:
            raise raised
        return _of_ours(ours.exceptions[0])
    assert isinstance(raised, NoetlError)
    return raised


def build(arguments: Sequence[str] = ()) -> App:
    """The command line, with every command known by name only.

    The one that is named is told apart: its own page shows all its docstring says.
    """
    from cyclopts import App

    app = App(
        name="noetl",
        help=HELP,
        help_epilogue=EPILOGUE,
        version=version("noetl-worker"),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    named = next((one for one in arguments if not one.startswith("-")), "")
    for group, name, where, text in COMMANDS:
        told = None if name == named else text
        app.command(f"noetl_worker.cli.{where}", name=name, help=told, group=group)
    return app
