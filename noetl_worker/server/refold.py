"""An execution's rows folded into projections with checksums (RT-RPL, RT-FLD).

For audits: two folds of the same rows give the same checksum, on every server and in
every version. It is not the owner's fold and decides nothing; payloads are not looked
into, only what they refer to.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from msgspec.json import Encoder
from msgspec.json import decode as decode_json

from state_builder.records import GENESIS, TERMINAL_STATUS
from state_builder.stores import EventView

PROJECTIONS: Final = (
    "execution", "stages", "frames", "commands", "business_objects", "loops",
)  # fmt: skip
"""What a fold gives, in the order of RT-FLD-7."""

_STAGES: Final = {"stage.opened": "OPEN", "stage.closed": "CLOSED"}
_FRAMES: Final = {
    "dispatched": "CLAIMED",
    "claimed": "CLAIMED",
    "started": "RUNNING",
    "committed": "COMPLETED",
    "failed": "FAILED",
    "abandoned": "ABANDONED",
}
_COMMANDS: Final = {
    "command.issued": ("ISSUED", "issued_event_id"),
    "command.claimed": ("CLAIMED", "claimed_event_id"),
    "command.started": ("STARTED", "started_event_id"),
    "command.completed": ("COMPLETED", "terminal_event_id"),
    "command.failed": ("FAILED", "terminal_event_id"),
}
_LOOP_KEYS: Final = ("loop_id", "loop_event_id", "__loop_epoch_id")
_SUMMARY: Final = ("sha256", "schema_digest", "row_count", "media_type", "ref")

_sorted = Encoder(order="sorted")

Row = dict[str, Any]


class Refold:
    """The projections of one execution's events, in the order of their ids."""

    def __init__(self) -> None:
        self.count = 0
        self.last: EventView | None = None
        self._execution: Row = {
            "status": "UNKNOWN",
            "last_node_name": None,
            "payload_refs": [],
        }
        self._kept: dict[str, dict[str, Row]] = {name: {} for name in PROJECTIONS[1:]}

    def add(self, view: EventView) -> None:
        """One event more."""
        self.count += 1
        self.last = view
        meta = _object(view.meta)
        self._fold_execution(view)
        if view.event_type in _STAGES:
            self._put("stages", "stage_id", meta.get("stage_id"), view)["status"] = (
                _STAGES[view.event_type]
            )
        group, _, word = view.event_type.partition(".")
        if group == "frame" and word in _FRAMES:
            found = self._put("frames", "frame_id", meta.get("frame_id"), view)
            found["status"] = _FRAMES[word]
        if view.event_type in _COMMANDS and view.status != "IGNORED":
            self._fold_command(view)
        self._fold_loop(view, meta)
        self._fold_object(view, meta)

    def projections(self) -> dict[str, Any]:
        """All of them, lists in the order their members were first heard of."""
        lists = {name: list(kept.values()) for name, kept in self._kept.items()}
        return {"execution": self._execution, **lists}

    def _put(self, projection: str, key: str, value: Any, view: EventView) -> Row:
        """The member of that key, made when it is heard of first."""
        if not isinstance(value, str | int) or value == "":
            return {}
        kept = self._kept[projection]
        name = str(value)
        if name not in kept:
            kept[name] = {key: name, "first_event_id": view.event_id}
        kept[name]["last_event_id"] = view.event_id
        return kept[name]

    def _fold_execution(self, view: EventView) -> None:
        execution = self._execution
        if execution["status"] in TERMINAL_STATUS.values():
            return
        terminal = TERMINAL_STATUS.get(view.event_type)
        if terminal is not None:
            execution["status"] = terminal
        else:
            execution["status"] = "RUNNING"
        if view.event_type != GENESIS and view.node_type != "execution":
            execution["last_node_name"] = view.node_name
        reference = _reference(_object(view.result))
        if reference is not None:
            execution["payload_refs"].append(
                {
                    "event_id": view.event_id,
                    "reference": reference,
                    "summary": _summary(reference),
                }
            )

    def _fold_command(self, view: EventView) -> None:
        found = self._put("commands", "command_id", view.command_id, view)
        if not found:
            return
        status, name = _COMMANDS[view.event_type]
        for one in dict.fromkeys(each for _, each in _COMMANDS.values()):
            found.setdefault(one, None)
        found["step"] = found.get("step") or view.node_name
        found["status"], found[name] = status, view.event_id

    def _fold_loop(self, view: EventView, meta: Row) -> None:
        key = next((meta[name] for name in _LOOP_KEYS if meta.get(name)), None)
        if key is None or view.status == "IGNORED":
            return
        found = self._put("loops", "loop_id", key, view)
        for name in ("done", "failed"):
            found.setdefault(name, 0)
        found.setdefault("status", "RUNNING")
        if view.event_type in ("command.completed", "loop.shard.done"):
            found["done"] += 1
        elif view.event_type in ("command.failed", "loop.shard.failed"):
            found["failed"] += 1
        elif view.event_type in ("loop.done", "loop.fanin.completed"):
            found["status"] = "COMPLETED"

    def _fold_object(self, view: EventView, meta: Row) -> None:
        given = meta.get("business_object")
        if not isinstance(given, dict):
            return
        kind = given.get("object_type") or given.get("type")
        name = given.get("object_id") or given.get("id")
        if not kind or not name:
            return
        found = self._put("business_objects", "key", f"{kind}/{name}", view)
        found |= {"object_type": str(kind), "object_id": str(name)}
        found["version"] = given.get("version", found.get("version"))
        if isinstance(given.get("state"), dict):
            found["state"] = given["state"]
        patch = given.get("patch") or given.get("attributes")
        state = found.setdefault("state", {})
        if isinstance(patch, dict):
            found["state"] = {**state, **patch}
        word = view.event_type.rpartition(".")[2]
        if word in ("deleted", "removed"):
            found["status"] = "DELETED"
        elif word in ("created", "updated", "upserted"):
            found["status"] = "ACTIVE"
        found.setdefault("status", "ACTIVE")


def checksum(value: Any) -> str:
    """sha256 over JSON with sorted keys and no white space (RT-FLD-7)."""
    return sha256(_sorted.encode(value)).hexdigest()


def _object(raw: Any) -> Row:
    found = decode_json(raw) if raw else None
    return found if isinstance(found, dict) else {}


def _reference(result: Row) -> Row | None:
    """What a payload refers to, wherever older workers put it (RT-FLD-2)."""
    context = result.get("context")
    for block in (result, context if isinstance(context, dict) else {}):
        if isinstance(block.get("reference"), dict):
            found: Row = block["reference"]
            return found
        rows = block.get("rows_ref")
        for name in ("meta", "ipc"):
            if isinstance(rows, dict) and isinstance(rows.get(name), dict):
                inner: Row = rows[name]
                return inner
    return None


def _summary(reference: Row) -> Row:
    found = {name: reference.get(name) for name in _SUMMARY}
    found["sha256"] = found["sha256"] or reference.get("digest")
    found["ref"] = found["ref"] or reference.get("uri")
    return found
