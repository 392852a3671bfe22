"""Golden histories: recorded logs, and decisions that must stay equal byte for byte.

A history is JSON lines. The first says which playbooks it ran; each further one is a
message of the log (``log``) or a decision made when the log was that long (``decided``,
with the time it was made). A change that makes one of them differ changes what running
executions do after an upgrade: say so in the changelog, delete the file, record anew.

``python tests/replay/test_histories.py`` records the histories that are missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.json import decode as decode_json
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).parents[1]))

from stage import Stage

from state_builder.ids import Shard
from state_builder.ports import LogMessage
from state_builder.records import encode_json

HERE = Path(__file__).parent
HISTORIES = sorted(HERE.glob("*.jsonl"))


def replayed(lines: list[Any]) -> list[tuple[bytes, bytes]]:
    """(decided now, decided then) of every decision of a history."""
    stage = Stage(lines[0]["case"])
    world = stage.world
    pairs = []
    for line in lines[1:]:
        if "log" in line:
            data = line["log"].encode()
            sequence = world.index.position + 1
            world.index.apply(LogMessage(sequence, Shard(0), "events", data, 0.0))
            continue
        world.now = line["at"]
        entry = world.index.open[line["execution"]]
        entry.due = True
        pairs.append((encode_json(world.look(entry)), line["decided"].encode()))
    return pairs


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_history_is_decided_byte_for_byte(path: Path) -> None:
    """RT-RPL-1, RT-DRV-4, PB-502."""
    lines = [decode_json(line) for line in path.read_bytes().splitlines()]
    pairs = replayed(lines)
    assert pairs
    for now, then in pairs:
        assert now == then


def test_there_are_histories() -> None:
    assert len(HISTORIES) >= 5


def record(case: dict[str, Any]) -> list[Any]:
    """The lines of a case that runs now."""
    stage = Stage(case)
    stage.run()
    lines: list[Any] = [{"case": case}]
    messages = iter(stage.world.log)
    read = 0
    for position, execution, at, decided in stage.world.decided:
        for _ in range(position - read):
            lines.append({"log": next(messages).data.decode()})
        read = position
        told = decided.decode()
        lines.append({"at": at, "execution": execution, "decided": told})
    lines += [{"log": message.data.decode()} for message in messages]
    return lines


if __name__ == "__main__":
    for case in YAML(typ="safe").load((HERE / "cases.yaml").read_text()):
        target = HERE / f"{case.pop('name')}.jsonl"
        if not target.exists():
            text = b"\n".join(encode_json(line) for line in record(case))
            target.write_bytes(text + b"\n")
