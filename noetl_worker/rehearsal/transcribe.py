"""What happened in a world as a transcript: the same lines a server exports."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import asdict

from noetl_worker.rehearsal.world import EXECUTION, World
from state_builder.drive import DriveLimits
from state_builder.transcript import (
    FORMAT,
    FORMAT_VERSION,
    End,
    Gathering,
    Head,
    encode_line,
    playbook_line,
)


def transcribe(world: World) -> Iterator[bytes]:
    """The lines of the world's execution and of all it started."""
    usual = asdict(DriveLimits())
    limits = {
        name: value
        for name, value in asdict(world.limits).items()
        if value != usual[name]
    }
    head = Head(
        format=FORMAT,
        v=FORMAT_VERSION,
        execution_id=EXECUTION,
        generation=world.index.generation,
        through=len(world.log),
        limits=limits,
    )
    yield encode_line(head)
    gathering = Gathering(EXECUTION)
    for message in world.log:
        entries, lines = gathering.take(message)
        for catalog_id in entries:
            yield encode_line(playbook_line(world.entries[catalog_id]))
        for line in lines:
            yield encode_line(line)
    yield encode_line(End(records=gathering.records))
