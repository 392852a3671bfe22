"""``export`` and ``replay``: an execution's log as a file, folded event by event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, cast

import anyio
from cyclopts import Parameter

from noetl_worker.cli.exits import ExitCode, UsageError
from noetl_worker.cli.options import AsJson, ServerUrl, connect
from noetl_worker.cli.screen import line, note, put_json
from noetl_worker.rehearsal import (
    Checked,
    Folded,
    Replay,
    arcs_view,
    event_view,
    pass_view,
    plain_words,
    state_view,
)
from state_builder.errors import NotFoundError
from state_builder.records import JSON, Reference, encode_json
from state_builder.transcript import Transcript, TranscriptError, read_transcript

VALUE_MAX = 200
"""Characters of a value on one line."""

RECORD_MAX = 2000
"""Characters of a record that differs; ``--json`` shows all."""

Out = Annotated[
    Path | None, Parameter("--out", help="File to write, else standard output.")
]
Until = Annotated[
    str,
    Parameter(
        "--to", show_default=False, help="Fold up to this event: its id, or its number."
    ),
]
Which = Annotated[
    str,
    Parameter(
        "--execution", show_default=False, help="Another one of the file: a child."
    ),
]
WithState = Annotated[
    bool, Parameter("--state", negative="", help="Show the folded state, too.")
]


def export(execution_id: str, /, *, out: Out = None, server: ServerUrl = "") -> int:
    """Write an execution's log as JSON lines: itself, and all it started.

    Taken from the live log, or from PostgreSQL when the log was trimmed. The file holds
    the playbooks, so `noetl replay` needs no server.

    Try:

        noetl export 7423 --out run.jsonl

    Parameters
    ----------
    execution_id
        Which one.
    """
    lines = _fetched(execution_id, server)
    transcript = read_transcript(lines)
    if out is None:
        for text in lines:
            line(text.decode().rstrip("\n"))
        return ExitCode.OK
    try:
        # Whole or not at all: it is known to be complete before it is written.
        out.write_bytes(b"".join(lines))
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    where = "the log" if transcript.head.source == "log" else "PostgreSQL"
    count, executions = len(transcript.records), len(transcript.executions())
    note(f"{out}: {count} records of {executions} executions, from {where}")
    return ExitCode.OK


def replay(
    source: str,
    /,
    *,
    to: Until = "",
    execution: Which = "",
    state: WithState = False,
    json: AsJson = False,
    server: ServerUrl = "",
) -> int:
    """Fold an execution's log again and decide again, up to any event.

    Every recorded decision is held against what this build decides from the same
    facts: exit code 1 when one differs. With `--to` the state at that event is shown:
    what the drive knew.

    Try:

        noetl replay run.jsonl
        noetl replay 7423 --to 12

    Parameters
    ----------
    source
        An execution id, or a file written by `noetl export`.
    """
    transcript = _transcript(source, server)
    wanted = execution or transcript.head.execution_id
    # A file alone is replayed without a server; stored values are asked for where
    # there is one.
    asked = server or source.isdecimal()
    replayed = Replay(transcript, wanted, _stored_value(server) if asked else _no_value)
    replayed.run(replayed.event_number(to) if to else 0)
    if json:
        put_json(_as_json(replayed))
    else:
        for text in _told(replayed, transcript, with_state=state or bool(to)):
            line(text)
    sound = all(one.sound for one in replayed.passes)
    return ExitCode.OK if sound else ExitCode.FAILED


def _transcript(source: str, server: str) -> Transcript:
    if source.isdecimal() and not Path(source).exists():
        return read_transcript(_fetched(source, server))
    try:
        with Path(source).open("rb") as file:
            return read_transcript(file)
    except OSError as error:
        raise UsageError(f"{source}: cannot be read: {error.strerror}") from error
    except TranscriptError as error:
        raise TranscriptError(f"{source}: {error}") from error


def _fetched(execution_id: str, server: str) -> list[bytes]:
    if not execution_id.isdecimal():
        raise UsageError(f"execution id {execution_id!r}: write its digits")

    async def main() -> list[bytes]:
        async with connect(server) as client:
            return [text async for text in client.export(execution_id)]

    return anyio.run(main)


def _stored_value(server: str) -> Callable[[Reference], bytes | None]:
    """Gets values from a server; None for one that is gone."""

    def fetched(reference: Reference) -> bytes | None:
        async def main() -> bytes | None:
            async with connect(server) as client:
                query = {"ref": reference.ref, "stored": "true"}
                try:
                    found = await client.request(
                        "GET", "/api/result/resolve", query=query
                    )
                except NotFoundError:
                    return None
                return encode_json(found)

        return anyio.run(main)

    return fetched


def _no_value(reference: Reference) -> None:
    """Nothing is at hand beside the file."""


def _as_json(replayed: Replay) -> JSON:
    now = replayed.folded[-1].stored_at
    return {
        "execution_id": replayed.state.execution_id,
        "sound": all(one.sound for one in replayed.passes),
        "decisions": [pass_view(one) for one in replayed.passes],
        "events": [
            {**event_view(one), "arcs": cast(JSON, arcs_view(one.event, replayed.plan))}
            for one in replayed.folded
        ],
        "state": state_view(replayed.state, replayed.plan, now),
    }


def _told(
    replayed: Replay, transcript: Transcript, *, with_state: bool
) -> Iterator[str]:
    genesis = replayed.state.genesis
    path = "" if genesis is None else f" of {genesis.path} version {genesis.version}"
    yield f"execution {replayed.state.execution_id}{path}"
    numbers = {one.event_id: one.number for one in replayed.folded}
    passes = {one.first: one for one in replayed.passes}
    for folded in replayed.folded:
        decided = passes.get(folded.event_id)
        if decided is not None:
            yield from _decision(decided, numbers)
        yield from _event(folded, replayed)
    yield _verdict(replayed, transcript)
    if with_state:
        now = replayed.folded[-1].stored_at
        yield from _state(state_view(replayed.state, replayed.plan, now))


def _decision(decided: Checked, numbers: dict[int, int]) -> Iterator[str]:
    after = numbers.get(decided.after)
    cause = f"after event {after}" if after else "for no event this build can name"
    yield f"  decided at {decided.at[11:23]}, {cause}{_DIFFERENCE[decided.verdict]}"
    if decided.lacks:
        yield f"    needs the value of {decided.lacks}"
    if not decided.sound:
        yield f"    this build  {_short(decided.expected)}"
        yield f"    recorded    {_short(decided.recorded)}"


_DIFFERENCE = {
    "equal": "",
    "cut": " (its owner ended in the middle; the next one said the rest)",
    "differs": ": DIFFERS from what this build decides",
    "outside": " (written by the owner itself)",
    "unread": " (not decided again: it read a stored value that is not at hand)",
}


def _event(folded: Folded, replayed: Replay) -> Iterator[str]:
    event = folded.event
    view = event_view(folded)
    what = plain_words(str(view["line"])) if view["line"] else event.type
    if not view["line"] and event.step:
        what += f" {event.step}"
    if event.worker_id:
        what += f"  (worker {event.worker_id})"
    if folded.ignored:
        what += f"  ignored: {folded.ignored}"
    yield f"{folded.number:>5}  {event.at[11:23]}  {what}"
    for arc in arcs_view(event, replayed.plan):
        mark = "→" if arc["taken"] else "✗"
        when = f"  when {arc['when']}" if arc["when"] else ""
        yield f"{'':20} {mark} {arc['step']}{when}"


def _verdict(replayed: Replay, transcript: Transcript) -> str:
    unread = sum(one.verdict == "unread" for one in replayed.passes)
    sound = sum(one.sound for one in replayed.passes) - unread
    lacking = f", {unread} need stored values (name a --server that has them)"
    rows = transcript.head.source == "rows"
    return (
        f"{len(replayed.folded)} events; {sound} of {len(replayed.passes)} decisions "
        f"are what this build decides{lacking if unread else ''}"
        f"{', told from PostgreSQL' if rows else ''}"
    )


def _state(view: dict[str, JSON]) -> Iterator[str]:
    yield f"state after event {view['events']}: {view['status']}"
    steps = cast(dict[str, dict[str, JSON]], view["steps"])
    for name, step in steps.items():
        result = step["result"]
        shown = "" if result is None else f"  {_value(result)}"
        yield f"  step {name}: {step['status']}, visits {step['visits']}{shown}"
    for name, value in cast(dict[str, JSON], view["variables"]).items():
        yield f"  ctx.{name} = {_value(value)}"
    for token in cast(list[dict[str, JSON]], view["tokens"]):
        yield f"  token at {token['at']} from {token['from'] or 'the start'}"
    for wait in cast(list[str], view["waiting"]):
        yield f"  waits: {wait}"
    if view["last_decision"]:
        yield f"  last decision: {view['last_decision']}"


def _value(value: JSON) -> str:
    text = encode_json(value).decode()
    return text if len(text) <= VALUE_MAX else f"{text[:VALUE_MAX]}…"


def _short(record: bytes) -> str:
    text = record.decode(errors="replace") or "nothing"
    return text if len(text) <= RECORD_MAX else f"{text[:RECORD_MAX]}…"
