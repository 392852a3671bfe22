"""Cutting the broker's bytes into messages: wherever they are cut, nothing changes."""

from __future__ import annotations

import itertools
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from noetl_worker.bus.nats.frames import Frames

Message: TypeAlias = tuple[int, bytes, bytes, bytes, bytes | None]

WORD = st.from_regex(rb"[a-zA-Z0-9_.$-]{1,12}", fullmatch=True)
BYTES = st.binary(max_size=60) | st.sampled_from([b"\r\n", b"MSG a 1 2\r\n", b"PING"])
MESSAGES = st.tuples(
    st.integers(1, 999),
    WORD,
    st.just(b"") | WORD,
    BYTES,
    st.none() | BYTES.map(lambda tail: b"NATS/1.0\r\n" + tail + b"\r\n\r\n"),
)
OTHERS = st.sampled_from(
    [
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"\r\n",
        b"-ERR 'Stale Connection'\r\n",
        b'INFO {"a":1}\r\n',
        b"MSG onlyone\r\n",
        b"MSG a b c\r\n",
        b"HMSG a 1 x 9\r\n",
    ]
)


def frame(message: Message) -> bytes:
    """A message as the broker writes it."""
    sid, subject, reply, payload, headers = message
    words = [subject, b"%d" % sid, *([reply] if reply else [])]
    if headers is None:
        words = [b"MSG", *words, b"%d" % len(payload)]
        return b" ".join(words) + b"\r\n" + payload + b"\r\n"
    sizes = [b"%d" % len(headers), b"%d" % (len(headers) + len(payload))]
    words = [b"HMSG", *words, *sizes]
    return b" ".join(words) + b"\r\n" + headers + payload + b"\r\n"


class Heard:
    """What came out, in order."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.others = b""

    def deliver(
        self,
        sid: int,
        subject: bytes,
        reply: bytes,
        payload: bytes,
        headers: bytes | None,
    ) -> None:
        self.messages.append((sid, subject, reply, payload, headers))

    def take(self, line: bytes) -> None:
        self.others += line


@given(st.lists(MESSAGES | OTHERS, max_size=8), st.data())
def test_every_message_comes_out_whole_however_the_bytes_arrive(
    said: list[Message | bytes], data: st.DataObject
) -> None:
    stream = b"".join(one if isinstance(one, bytes) else frame(one) for one in said)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    cuts = [0, *sorted(places), len(stream)]
    heard = Heard()
    frames = Frames(heard.deliver, heard.take)
    for begin, end in itertools.pairwise(cuts):
        frames.feed(stream[begin:end])
    assert heard.messages == [one for one in said if not isinstance(one, bytes)]
    assert heard.others == b"".join(one for one in said if isinstance(one, bytes))


def test_a_line_that_is_no_message_is_left_to_the_library_to_complain_about() -> None:
    heard = Heard()
    Frames(heard.deliver, heard.take).feed(b"MSG subject one 5\r\nMSG s 1 0\r\n\r\n")
    assert heard.others == b"MSG subject one 5\r\n"
    assert heard.messages == [(1, b"s", b"", b"", None)]
