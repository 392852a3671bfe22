"""The materializer: the log in order → rows, in one transaction per batch (§5.1).

:class:`Materializer` leads its shard group, or waits until it may, measures the lag,
and starts again from the committed position whatever went wrong; :class:`Pipeline`
reads, projects and writes while it leads. Neither writes anywhere but through
RowWriter, and neither ever skips a message.

May import: projection, generation's result types, core ports and rows.
"""

from materializer.daemon.leading import (
    Materializer,
    MaterializerPorts,
    MaterializerSettings,
)
from materializer.daemon.pipeline import Pipeline, Stored

__all__ = [
    "Materializer",
    "MaterializerPorts",
    "MaterializerSettings",
    "Pipeline",
    "Stored",
]
