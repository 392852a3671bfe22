"""What plug-ins asked for while they ran, done in their execution's name (TL-WA-06)."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from noetl_worker.results.artifacts import StepValues
from state_builder.records import JSON, encode_json
from state_builder.routes import ByteRoutes
from tools.contract import CallContext
from tools.errors import configuration

OWN_WORDS: Final = frozenset(
    (
        *("playbook", "command", "call", "step", "loop", "ctx", "timer", "child"),
        *("case", "subscription", "noetl"),
    )
)
"""First words of the platform's own event types: a plug-in publishes under others."""


class PluginEffects:
    """The port :class:`tools.contract.Effects`: the result store and the server."""

    def __init__(self, server: ByteRoutes, values: StepValues) -> None:
        self._server = server
        self._values = values

    async def publish_event(self, call: CallContext, event: bytes) -> None:
        """``{type, payload?}``; what is said again by a repeated call is known."""
        said = _object(event)
        kind = said.get("type") or said.get("event_type")
        if not isinstance(kind, str) or not kind:
            raise configuration("event_publish: the event has no type")
        if kind.replace("_", ".").partition(".")[0].lower() in OWN_WORDS:
            raise configuration(f"event_publish: '{kind}' is the platform's own type")
        digest = hashlib.sha256(call.key.encode() + b"\0" + event).digest()
        body: dict[str, JSON] = {
            "execution_id": call.execution_id,
            "event_id": str(int.from_bytes(digest[:6], "big") + 1),
            "event_type": kind,
            "step": call.step,
            "payload": said.get("payload"),
        }
        status, answer = await self._server.exchange("POST", "/api/events", body)
        if status >= HTTPStatus.BAD_REQUEST:
            reason = answer.get("message") if isinstance(answer, dict) else status
            raise configuration(f"event_publish: '{kind}' was refused: {reason}")

    async def put_result(self, call: CallContext, key: str, data: bytes) -> None:
        """JSON as it is, anything else as ``{_bytes_b64}``."""
        try:
            decode_json(data)
        except DecodeError:
            data = encode_json({"_bytes_b64": b64encode(data).decode()})
        await self._values.write(call, key, data, "execution")

    async def put_object(self, call: CallContext, key: str, data: bytes) -> None:
        """An opaque object."""
        path = f"/api/internal/objects/{quote(key)}"
        await self._server.put_bytes(path, data)


def _object(event: bytes) -> dict[str, JSON]:
    try:
        said: JSON = decode_json(event)
    except DecodeError as error:
        raise configuration(f"event_publish: the event is no JSON: {error}") from error
    if not isinstance(said, dict):
        raise configuration("event_publish: the event must be an object")
    return said
