"""A Pub/Sub subscription as a source, by its REST API (TL-SU-06)."""

from __future__ import annotations

import base64
from typing import Any, Final

from msgspec import DecodeError
from msgspec.json import decode as decode_json
from msgspec.structs import replace

from state_builder.records import JSON, ToolFailure, encode_json
from tools.doors.broker.payloads import named, value_of
from tools.doors.statuses import failure_of
from tools.doors.web import Web, WebRequest, WebResponse
from tools.errors import ToolCallError
from tools.kinds.subscription.message import Message

PUBLIC: Final = "https://pubsub.googleapis.com"
DEADLINE_S: Final = 60
"""How long ``hold`` keeps a message from being delivered again."""


class PubsubSource:
    """One subscription ``projects/p/subscriptions/s``."""

    def __init__(self, web: Web, endpoint: str, name: str, token: str) -> None:
        self._web = web
        base = endpoint or PUBLIC
        if "://" not in base:
            base = f"http://{base}"
        self._url = f"{base.rstrip('/')}/v1/{name}"
        # An emulator speaks plain HTTP; a token would go over the wire for all to see.
        self._token = token if base.startswith("https://") else ""

    async def poll(self, batch: int, wait_s: float) -> list[Message]:
        """What the server has ready."""
        answer = await self._call("pull", {"maxMessages": batch}, wait_s)
        received = answer.get("receivedMessages") or []
        return [_message(one) for one in received]

    async def say(
        self, how: str, ack_ids: list[str], delay_ms: int = 0
    ) -> dict[str, str]:
        """One call for all; it fails for all or for none."""
        ids: list[JSON] = [*ack_ids]
        if how in ("ack", "term"):
            await self._call("acknowledge", {"ackIds": ids})
            return {}
        seconds = DEADLINE_S if how == "hold" else min(delay_ms // 1000, 600)
        body: dict[str, JSON] = {"ackIds": ids, "ackDeadlineSeconds": seconds}
        await self._call("modifyAckDeadline", body)
        return {}

    async def _call(
        self, verb: str, body: dict[str, JSON], wait_s: float = 0.0
    ) -> dict[str, Any]:
        headers = {"content-type": "application/json"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        response = await self._web.fetch(
            WebRequest(
                method="POST",
                url=f"{self._url}:{verb}",
                headers=headers,
                content=encode_json(body),
                read_s=wait_s + 10.0,
            )
        )
        if response.status != 200:
            raise ToolCallError(_failure(verb, response))
        try:
            found = decode_json(response.body or b"{}")
        except DecodeError as error:
            text = f"pubsub {verb}: the answer is no JSON"
            raise ToolCallError(ToolFailure(kind="json", message=text)) from error
        return found if isinstance(found, dict) else {}


def _failure(verb: str, response: WebResponse) -> ToolFailure:
    """The server's own words say which subscription, and why."""
    failure = failure_of(response, f"pubsub {verb}: ", "pubsub")
    words = response.body[:200].decode(errors="replace").strip()
    return replace(failure, message=f"{failure.message}: {words}".rstrip(": "))


def _message(received: dict[str, Any]) -> Message:
    message = received.get("message") or {}
    raw = base64.b64decode(message.get("data") or "")
    data, encoding = value_of(raw)
    attributes = dict(message.get("attributes") or {})
    return Message(
        id=str(message.get("messageId") or ""),
        data=data,
        encoding=encoding,
        ack_id=str(received.get("ackId") or ""),
        size=len(raw),
        headers=named(attributes),
        attributes=attributes,
        metadata={
            "publish_time": message.get("publishTime"),
            "ordering_key": message.get("orderingKey"),
            "delivered": received.get("deliveryAttempt"),
        },
    )
