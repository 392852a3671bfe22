"""Messages of the log → rows, as a pure function of the messages and the heads.

The chain comes from :mod:`state_builder.chain`, which the index shares, so rows and
state cannot disagree about root, terminal and order. What cannot become a row is set
apart with its bytes and a reason; nothing is dropped. Reads no clock, draws no number:
the same messages on the same heads give the same rows, for every reader.

May import: core records, ids, chain, ports and rows, and ``materializer.errors``.
"""

from materializer.projection.entries import Decoded, Entry, decode_messages
from materializer.projection.projector import Projector
from materializer.projection.recovery import event_of
from materializer.projection.turn import Projected

__all__ = [
    "Decoded",
    "Entry",
    "Projected",
    "Projector",
    "decode_messages",
    "event_of",
]
