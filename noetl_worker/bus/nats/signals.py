"""The ``Signals`` port on core NATS: broadcasts and questions, nothing stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog
from anyio.abc import TaskGroup
from msgspec import DecodeError, Struct, ValidationError
from msgspec.json import Decoder, encode

from noetl_worker.bus.nats.connection import Connection
from noetl_worker.bus.nats.wire import publish_frame
from noetl_worker.bus.topology import Topology
from state_builder.errors import UnavailableError
from state_builder.ids import Shard
from state_builder.records import JSON

Question: TypeAlias = dict[str, JSON]
Answerer: TypeAlias = Callable[[Question], Awaitable[Question | None]]

_ANSWERS_MAX = 1000
"""Questions worked on at once; more are left unanswered, as by an absent owner."""

log = structlog.get_logger(__name__)


class _Cancelled(Struct):
    execution_id: str


class _Ended(Struct):
    execution_id: str
    sequence: int


_decode_cancelled = Decoder(_Cancelled).decode
_decode_ended = Decoder(_Ended).decode
_decode_question = Decoder(dict[str, object]).decode


class NatsSignals:
    """See :class:`state_builder.ports.Signals`."""

    def __init__(
        self, connection: Connection, topology: Topology, tasks: TaskGroup
    ) -> None:
        self._connection = connection
        self._topology = topology
        self._tasks = tasks
        self._answering = 0

    async def cancelled(self, execution_id: str) -> None:
        """See the port; best effort, lost while disconnected."""
        payload = encode(_Cancelled(execution_id))
        self._connection.send(publish_frame(self._topology.cancel, payload))

    async def on_cancelled(self, callback: Callable[[str], None]) -> None:
        """See the port."""
        self._hear(
            self._topology.cancel,
            lambda data: callback(_decode_cancelled(data).execution_id),
        )

    def ended(self, execution_id: str, sequence: int) -> None:
        """See the port; best effort, lost while disconnected."""
        payload = encode(_Ended(execution_id, sequence))
        self._connection.send(publish_frame(self._topology.ended, payload))

    async def on_ended(self, callback: Callable[[str, int], None]) -> None:
        """See the port."""

        def heard(data: bytes) -> None:
            ended = _decode_ended(data)
            callback(ended.execution_id, ended.sequence)

        self._hear(self._topology.ended, heard)

    def _hear(self, subject: str, callback: Callable[[bytes], None]) -> None:
        def heard(
            subject: bytes, reply: bytes, data: bytes, headers: bytes | None
        ) -> None:
            del reply, headers
            try:
                callback(data)
            except (DecodeError, ValidationError) as error:
                log.warning(
                    "signal.unreadable", subject=subject.decode(), error=str(error)
                )

        self._connection.listen(subject, heard)

    async def ask(
        self, shard: Shard, question: Question, timeout_s: float
    ) -> Question | None:
        """See the port; None at once when nobody listens."""
        try:
            reply = await self._connection.ask(
                self._topology.query(shard), encode(question), timeout_s
            )
        except UnavailableError:
            return None
        if reply.status:
            return None
        return _read(reply.data)

    async def answer(
        self, shard: Shard, callback: Answerer
    ) -> Callable[[], Awaitable[None]]:
        """See the port."""

        def heard(
            subject: bytes, reply: bytes, data: bytes, headers: bytes | None
        ) -> None:
            del subject, headers
            question = _read(data)
            if question is None or not reply or self._answering >= _ANSWERS_MAX:
                self._connection.observer.count("noetl_bus_questions_dropped_total")
                return
            self._answering += 1
            self._tasks.start_soon(self._answer, callback, question, reply.decode())

        sid = self._connection.listen(self._topology.query(shard), heard)

        async def stop() -> None:
            self._connection.mute(sid)

        return stop

    async def _answer(self, callback: Answerer, question: Question, to: str) -> None:
        try:
            answer = await callback(question)
        except Exception:
            # A failed answer is silence to the asker, who falls back; it must not end
            # the bus and every other answer with it.
            log.exception("question.failed")
            return
        finally:
            self._answering -= 1
        if answer is not None:
            self._connection.send(publish_frame(to, encode(answer)))


def _read(data: bytes) -> Question | None:
    try:
        return _decode_question(data)  # type: ignore[return-value]
    except (DecodeError, ValidationError) as error:
        log.warning("question.unreadable", error=str(error))
        return None
