"""What tools answer in a rehearsal: written beside the playbook, looked up by call.

An answer is the data of a tool, or a map that says more: ``fail``, ``runs``,
``iterations``, ``tasks``, ``claims``, ``data``. Reading is total: scripts, or one error
that names the place; a call nobody thought of is an error that says what to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec import Struct, field

from state_builder.errors import InvalidError
from state_builder.records import JSON, ToolFailure
from tools.errors import KINDS

Place = tuple[str | int, ...]
"""Where in a file."""

Refuse = Callable[[Place, str], InvalidError]
"""Makes the error of a place."""

RETRYABLE: Final = frozenset(
    (
        *("rate_limit", "server_error", "timeout", "connection", "missing_reference"),
        *("db_deadlock", "db_connection", "db_timeout"),
    )
)
"""Kinds of errors that a retry may cure, unless the answer says otherwise."""

_FAIL_KEYS: Final = frozenset(
    ("fail", "message", "data", "code", "retryable", "status_code", "retry_after")
)
_WORDS: Final = {
    "fail": _FAIL_KEYS,
    "runs": frozenset(("runs",)),
    "iterations": frozenset(("iterations",)),
    "tasks": frozenset(("tasks",)),
    "claims": frozenset(("claims", "row")),
}


class Call(NamedTuple):
    """One run of one tool.

    Attributes:
        path: of the playbook.
        label: task of a pipeline, else empty.
        iteration: as in the command id; empty outside loops.
    """

    path: str
    step: str
    label: str
    iteration: str


class Data(Struct, frozen=True):
    """The tool succeeds."""

    data: JSON


class Fail(Struct, frozen=True):
    """The tool fails, perhaps with data."""

    failure: ToolFailure
    data: JSON = None


class Runs(Struct, frozen=True):
    """One answer for each run; the last for all further ones."""

    runs: list[Script]


class Iterations(Struct, frozen=True):
    """By index of the iteration; ``other`` for those without their own."""

    by_index: dict[str, Script]
    other: Script | None = None


class Tasks(Struct, frozen=True):
    """By label, of a pipeline."""

    by_label: dict[str, Script]


class Claims(Struct, frozen=True):
    """Rows of each claim of a cursor loop, then none; ``row`` answers the bodies."""

    claims: list[list[JSON]]
    row: Script | None = None


Script = Data | Fail | Runs | Iterations | Tasks | Claims


def read_script(value: JSON, place: Place, refuse: Refuse) -> Script:
    """The script an answer spells. Raises what ``refuse`` makes."""
    if not isinstance(value, dict):
        return Data(value)
    if value.keys() == {"data"}:
        return Data(value["data"])
    word = next((word for word in _WORDS if word in value), "")
    if not word:
        return Data(value)
    for key in value.keys() - _WORDS[word]:
        raise refuse(
            (*place, key),
            f"'{key}' does not go with '{word}'; if this map is the tool's data, "
            "write it under 'data'",
        )
    return _READERS[word](value, place, refuse)


def _fail(value: dict[str, JSON], place: Place, refuse: Refuse) -> Script:
    kind = value["fail"]
    if kind not in KINDS:
        known = ", ".join(sorted(KINDS))
        raise refuse((*place, "fail"), f"'{kind}' is no kind of error ({known})")
    assert isinstance(kind, str)
    status = value.get("status_code")
    wait = value.get("retry_after")
    if status is not None and not isinstance(status, int):
        raise refuse((*place, "status_code"), "status_code must be a number")
    if wait is not None and not isinstance(wait, int | float):
        raise refuse((*place, "retry_after"), "retry_after must be seconds")
    code = f"HTTP_{status}" if status is not None else ""
    failure = ToolFailure(
        kind=kind,
        message=str(value.get("message", f"rehearsed failure of kind {kind}")),
        code=str(value.get("code", code)),
        retryable=bool(value.get("retryable", kind in RETRYABLE)),
        status_code=status,
        retry_after=wait,
    )
    return Fail(failure, value.get("data"))


def _runs(value: dict[str, JSON], place: Place, refuse: Refuse) -> Script:
    runs = value["runs"]
    if not isinstance(runs, list) or not runs:
        raise refuse((*place, "runs"), "runs must be a list of answers")
    return Runs(
        [
            read_script(one, (*place, "runs", index), refuse)
            for index, one in enumerate(runs)
        ]
    )


def _iterations(value: dict[str, JSON], place: Place, refuse: Refuse) -> Script:
    given = value["iterations"]
    place = (*place, "iterations")
    if isinstance(given, list):
        given = {str(index): one for index, one in enumerate(given)}
    if not isinstance(given, dict):
        raise refuse(place, "iterations must be a list, or a map by index and 'else'")
    scripts = {
        key: read_script(one, (*place, key), refuse) for key, one in given.items()
    }
    return Iterations(scripts, scripts.pop("else", None))


def _tasks(value: dict[str, JSON], place: Place, refuse: Refuse) -> Script:
    given = value["tasks"]
    if not isinstance(given, dict):
        raise refuse((*place, "tasks"), "tasks must be a map, label to answer")
    return Tasks(
        {
            label: read_script(one, (*place, "tasks", label), refuse)
            for label, one in given.items()
        }
    )


def _claims(value: dict[str, JSON], place: Place, refuse: Refuse) -> Script:
    claims = value["claims"]
    if not isinstance(claims, list):
        raise refuse((*place, "claims"), "claims must be a list of lists of rows")
    rows: list[list[JSON]] = []
    for index, claim in enumerate(claims):
        if not isinstance(claim, list):
            raise refuse((*place, "claims", index), "a claim must be a list of rows")
        rows.append(claim)
    row = read_script(value["row"], (*place, "row"), refuse) if "row" in value else None
    return Claims(rows, row)


_READERS: Final = {
    "fail": _fail,
    "runs": _runs,
    "iterations": _iterations,
    "tasks": _tasks,
    "claims": _claims,
}


class Answers(Struct):
    """The scripts of a case, and every call that was made.

    Attributes:
        scripts: path of a playbook → step → script.
        asked: the calls in order, with the rendered configuration of the tool.
    """

    scripts: dict[str, dict[str, Script]]
    asked: list[tuple[Call, dict[str, JSON]]] = field(default_factory=list)
    counts: dict[Call, int] = field(default_factory=dict)

    def of(self, call: Call, config: dict[str, JSON]) -> Data | Fail | None:
        """What the tool gives this time; None when nobody said."""
        self.asked.append((call, config))
        script = self.scripts.get(call.path, {}).get(call.step)
        run = self.counts[call] = self.counts.get(call, 0) + 1
        while script is not None and not isinstance(script, Data | Fail):
            script = _chosen(script, call, run)
        return script


def _chosen(
    script: Runs | Iterations | Tasks | Claims, call: Call, run: int
) -> Script | None:
    if isinstance(script, Runs):
        return script.runs[min(run, len(script.runs)) - 1]
    if isinstance(script, Tasks):
        return script.by_label.get(call.label)
    if isinstance(script, Iterations):
        return script.by_index.get(call.iteration, script.other)
    frame, _, row = call.iteration.removeprefix("f").partition("r")
    if row:
        return script.row
    number = int(frame) if frame.isdecimal() else len(script.claims)
    rows = script.claims[number] if number < len(script.claims) else []
    return Data({"rows": rows, "row_count": len(rows)})
