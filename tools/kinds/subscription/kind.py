"""Poll a source once, or say what became of messages polled before."""

from __future__ import annotations

import re
import time
from typing import ClassVar, Final

from state_builder.records import JSON, ToolFailure
from tools.contract import CallContext, Tool, ToolLimits, ToolResult
from tools.doors.broker.address import address_of, forbid_internal
from tools.doors.broker.connections import Connections
from tools.doors.broker.pulling import BATCH_MAX, WAIT_MS_MAX
from tools.doors.web import Web
from tools.errors import ToolCallError, configuration
from tools.fields import Fields, integer_of, map_of, text_of, texts_of, wrong
from tools.kinds.subscription.message import HOW, MODES, Message, Source
from tools.kinds.subscription.nats_source import NatsSource
from tools.kinds.subscription.pubsub_source import PubsubSource

SOURCES: Final = ("nats", "pubsub", "kafka")
OPERATIONS: Final[dict[str, str]] = {
    "poll": "poll",
    **{how: how for how in HOW},
    "nak": "nack",
}
DELAY_MS_MAX: Final = 600_000

_PUBSUB_NAME: Final = re.compile(r"projects/[^/\s]+/subscriptions/[^/\s]+")


class Subscription(Tool):
    """Acknowledges what it polled after the step's result is stored (TL-SU-03)."""

    kind: ClassVar[str] = "subscription"

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        self._connections = Connections()
        self._web = Web(limits)

    def validate(self, config: Fields) -> Fields:
        """``source``, ``operation``, where it is, ``batch``, ``mode`` …"""
        source = text_of(config, "source")
        if source not in SOURCES:
            raise wrong("source", source, f"one of {', '.join(SOURCES)}")
        if source == "kafka":
            raise configuration("source kafka is not available in this build")
        given = text_of(config, "operation") or "poll"
        if given not in OPERATIONS:
            raise wrong("operation", given, f"one of {', '.join(OPERATIONS)}")
        ack = config.get("ack")
        mode = MODES.get(str("on_success" if ack is None else ack).lower())
        if mode is None:
            raise wrong("ack", ack, "on_success, manual, defer or none")
        batch = integer_of(config, "batch", least=1, most=BATCH_MAX)
        wait = integer_of(config, "timeout_ms", least=0, most=1 << 31)
        delay = integer_of(config, "nack_delay_ms", least=0, most=DELAY_MS_MAX)
        ids = texts_of(config, "ack_ids")
        if OPERATIONS[given] != "poll" and config.get("ack_ids") is None:
            raise configuration(f"operation {given} needs ack_ids")
        return {
            "source": source,
            "operation": OPERATIONS[given],
            "mode": mode,
            "batch": batch or 100,
            "timeout_ms": min(1_000 if wait is None else wait, WAIT_MS_MAX),
            "nack_delay_ms": delay or 0,
            "ack_ids": [*ids],
            **(self._nats(config) if source == "nats" else _pubsub(config)),
        }

    def _nats(self, config: Fields) -> Fields:
        place = [text_of(config, name) for name in ("stream", "consumer")]
        polls = OPERATIONS.get(text_of(config, "operation") or "poll") == "poll"
        if polls and None in place:
            raise configuration("source nats needs stream and consumer")
        address = address_of(config, self._limits.nats_default_url)
        return {"address": address, "place": [name or "" for name in place]}

    async def run(self, config: Fields, call: CallContext) -> ToolResult:
        """Messages (TL-SU-02), or how many were told (TL-SU-05)."""
        source = self._source(config, call)
        if config["operation"] == "poll":
            return await _poll(source, config, self._limits.result_bytes_max)
        return ToolResult(data=await _say(source, config))

    def _source(self, config: Fields, call: CallContext) -> Source:
        if config["source"] == "nats":
            stream, consumer = texts_of(config, "place")
            forbid_internal(stream, call.path, "stream")
            address = map_of(config, "address")
            return NatsSource(self._connections, address, (stream, consumer))
        return PubsubSource(
            self._web,
            str(config["endpoint"]),
            str(config["subscription"]),
            str(config["token"]),
        )

    async def close(self) -> None:
        """End every connection."""
        await self._connections.close()
        await self._web.close()


def _pubsub(config: Fields) -> Fields:
    name = text_of(config, "subscription") or ""
    if not _PUBSUB_NAME.fullmatch(name):
        raise wrong("subscription", name, "a name projects/…/subscriptions/…")
    auth = config.get("auth")
    given = {**(auth if isinstance(auth, dict) else {}), **config}
    return {
        "subscription": name,
        "endpoint": text_of(given, "endpoint") or "",
        "token": text_of(given, "token") or "",
    }


class HeldMessages:
    """Messages of a step until its result is stored."""

    def __init__(self, source: Source, ack_ids: list[str]) -> None:
        self._source = source
        self._ack_ids = ack_ids

    async def hold(self) -> None:
        """Not yet: start the deadline anew."""
        await self._source.say("hold", self._ack_ids)

    async def settle(self, kept: bool) -> None:
        """Acknowledge, or give back at once."""
        await self._source.say("ack" if kept else "nack", self._ack_ids)


async def _poll(source: Source, config: Fields, bytes_max: int) -> ToolResult:
    started = time.monotonic()
    batch, wait = config["batch"], config["timeout_ms"]
    assert isinstance(batch, int) and isinstance(wait, int)
    messages = await source.poll(batch, max(wait, 1) / 1000)
    ids = [message.ack_id for message in messages]
    size = sum(message.size for message in messages)
    if size > bytes_max:
        await source.say("nack", ids)
        text = f"the batch has {size:,} bytes, at most {bytes_max:,} fit; poll fewer"
        failure = ToolFailure(kind="limit", code="result_bytes_max", message=text)
        raise ToolCallError(failure)
    mode = str(config["mode"])
    if mode == "none" and ids:
        await source.say("nack", ids)
    acked = mode == "on_success"
    seconds = time.monotonic() - started
    data = _polled(config, messages, acked=acked)
    data["metrics"] = {
        "fetched": len(messages),
        "bytes": size,
        "elapsed_ms": round(seconds * 1000, 3),
    }
    return ToolResult(
        data=data, held=HeldMessages(source, ids) if acked and ids else None
    )


def _polled(config: Fields, messages: list[Message], *, acked: bool) -> Fields:
    later = config["mode"] in ("manual", "defer")
    shown: list[JSON] = [message.shown(later) for message in messages]
    return {
        "status": "success",
        "source": config["source"],
        "operation": "poll",
        "count": len(messages),
        "messages": shown,
        "acked": len(messages) if acked else 0,
        "ack_mode": config["mode"],
        "ack_ids": [message.ack_id for message in messages] if later else [],
    }


async def _say(source: Source, config: Fields) -> Fields:
    started = time.monotonic()
    ids = texts_of(config, "ack_ids")
    delay = config["nack_delay_ms"]
    assert isinstance(delay, int)
    failed = await source.say(str(config["operation"]), ids, delay) if ids else {}
    if failed and len(failed) == len(ids):
        raise configuration(f"ack_ids: {next(iter(failed.values()))}")
    errors: list[JSON] = [
        {"ack_id": ack_id, "error": why} for ack_id, why in failed.items()
    ]
    return {
        "status": "partial" if failed else "success",
        "source": config["source"],
        "operation": config["operation"],
        "requested": len(ids),
        "disposed": len(ids) - len(failed),
        "errors": errors,
        "metrics": {
            "fetched": 0,
            "bytes": 0,
            "elapsed_ms": round((time.monotonic() - started) * 1000, 3),
        },
    }
